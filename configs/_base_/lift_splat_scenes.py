"""A small camera branch that learns from points of the embedded driving scenes: everything but how."""

from mmengine.config import read_base

with read_base():
    from .short_runs import *

model = dict(
    backbone=dict(
        type="LiftSplat",
        image_backbone=dict(type="ConvNet", widths=(32, 64, 96, 128), strides=(2, 2, 2, 2), out_indices=(2, 3)),
        image_size=(96, 192),
        neck="add",
        neck_channels=64,
        depth=(1.0, 17.0, 0.5),
        point_range=(-16.0, -16.0, -3.0, 16.0, 16.0, 5.0),
        cell=(0.25, 0.25),
        context_channels=48,
        encoder="downsample",  # half-metre cells; an encoder of ResNet blocks takes nine tenths of a step
        out_channels=64,
    )
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # the scenes lie in memory
    drop_last=True,
    dataset=dict(
        type="DrivingScenes",
        split="train",
        count=200,
        transforms=[
            dict(type="FindRegions", sensor_height=1.8),
            dict(type="AugmentPoints", rotation=45.0, scale=(0.95, 1.05), translation=0.2, flip_x=0.5),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_iters=400)

_places = [dict(type="QueryBoxes", background=6, min_height=0.3, extent=15.0)]
evaluation = dict(
    train=dict(type="DrivingScenes", split="train", count=60, transforms=_places),
    val=dict(type="DrivingScenes", split="val", count=20, transforms=_places),
    test=dict(type="DrivingScenes", split="test", count=60, transforms=_places),
    batch_size=20,
    protocols=dict(linear=dict(type="LinearLBFGS")),
)
