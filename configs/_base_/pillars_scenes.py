"""A small pillar network on the embedded driving scenes: everything but what it is trained for."""

from mmengine.config import read_base

with read_base():
    from .short_runs import *

model = dict(
    backbone=dict(
        type="PillarNet",
        cell=(0.25, 0.25),
        pillar_channels=(32,),
        layers=(1, 1, 1),
        channels=(32, 64, 64),
        strides=(2, 2, 2),
        scales=(1, 2, 4),
        neck_channels=(32, 16, 16),  # 64 channels in cells of half a metre
        preprocess=dict(type="DrivingPreprocess", point_range=(-16.0, -16.0, -3.0, 16.0, 16.0, 5.0)),
    )
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # the scenes lie in memory
    drop_last=True,
    dataset=dict(type="DrivingScenes", split="train", cameras=False),
)
