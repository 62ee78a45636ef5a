"""TIP (ECCV 2024) in small on 207 radiographs with a clinical table full of holes: shows that it loads and trains."""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_cxr_missing import *

train_dataloader["dataset"].update(
    transforms=[
        dict(type="RandomResizedCrop", size=64, scale=(0.7, 1.0), interpolation="bilinear"),
        dict(type="CorruptTable", rate=0.3),
    ]
)
train_cfg = dict(type="TrainLoop", max_epochs=20)

evaluation = dict(
    train=dict(type="CXRMissing", split="train"),
    val=dict(type="CXRMissing", split="val"),
    test=dict(type="CXRMissing", split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=5, temperature=0.07)),
)
