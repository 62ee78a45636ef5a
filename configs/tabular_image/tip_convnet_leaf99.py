"""TIP (ECCV 2024) in small on leaf99: 1,287 silhouettes without labels, 594 of which have none at all."""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_leaf99 import *

train_dataloader["dataset"].update(
    transforms=[
        dict(type="MultiCrop", size=64, global_views=1, local_views=0, scale=(0.7, 1.0), interpolation="bilinear"),
        dict(type="CorruptTable", rate=0.3),
    ]
)
train_cfg = dict(type="TrainLoop", max_epochs=100)  # 1,000 steps

evaluation = dict(
    train=dict(type="Leaf99", split="train"),
    val=dict(type="Leaf99", split="val"),
    test=dict(type="Leaf99", split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=5, temperature=0.07)),
)
