"""TIP (ECCV 2024) in small on 3,541 products of fashion24 without labels, with crops of 40 to 100 % and flips."""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_fashion24 import *

train_cfg = dict(type="TrainLoop", max_epochs=30)  # 810 steps

evaluation = dict(
    train=dict(type="Fashion24", split="train"),
    val=dict(type="Fashion24", split="val"),
    test=dict(type="Fashion24", split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)
