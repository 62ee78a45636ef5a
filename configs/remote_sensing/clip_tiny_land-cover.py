"""CLIP in six languages on embedded procedural land-cover tiles: no download, half a minute on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_tiny import *

model["backbone"]["preprocess"].update(mean=(0.5375, 0.5476, 0.4534), std=(0.2360, 0.1871, 0.2167))  # of train
model["backbone"]["preprocess"]["tokenizer"].update(fit=dict(type="LandCover", split="train"), context_length=32)
train_dataloader["dataset"].update(type="LandCover")
train_cfg = dict(type="TrainLoop", max_epochs=12)  # 240 steps
param_scheduler.update(warmup_steps=20)

evaluation = dict(
    train=dict(type="LandCover", split="train"),
    val=dict(type="LandCover", split="val"),
    test=dict(type="LandCover", split="test"),
    protocols=dict(
        knn=dict(type="KNN", k=20, temperature=0.07),
        linear=dict(type="LinearLBFGS"),
        zero_shot=dict(type="ZeroShot", languages="all"),
        retrieval=dict(type="Retrieval"),
    ),
)

demo = dict(title="remote sensing", protocol="linear")
