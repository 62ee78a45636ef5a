"""TIP (ECCV 2024) in small on 401 houses without prices: four views in one image, zip code and three numbers."""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_houses535 import *

train_dataloader["dataset"].update(
    transforms=[
        dict(type="RandomCropPad", padding=4),  # a crop would cut views off the montage
        dict(type="CorruptTable", rate=0.3),
    ]
)
train_cfg = dict(type="TrainLoop", max_epochs=100)  # 600 steps

evaluation = dict(
    train=dict(type="Houses535", split="train", size=64),
    val=dict(type="Houses535", split="val", size=64),
    test=dict(type="Houses535", split="test", size=64),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=10, temperature=0.07)),
)
