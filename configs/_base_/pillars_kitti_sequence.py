"""A small pillar network on two views of the sweeps of a KITTI drive: everything but what contrasts them."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_range = (-51.2, -51.2, -3.0, 51.2, 51.2, 3.0)
_regions = dict(type="FindRegions", sensor_height=1.73)
_views = dict(type="TwoViews", rotation=90.0, scale=(0.9, 1.1), flip_y=0.5, drop=(0.7, 0.7))

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="PillarNet",
        cell=(0.8, 0.8),
        pillar_channels=(32,),
        layers=(1, 1, 1),
        channels=(32, 64, 64),
        strides=(1, 2, 2),
        scales=(0.5, 1, 2),
        neck_channels=(24, 24, 16),  # 64 channels in cells of 1.6 m
        preprocess=dict(type="DrivingPreprocess", point_range=_range),
    ),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # the sweeps lie in memory
    dataset=dict(type="KITTISequence", split="train", cameras=False, transforms=[_regions, _views]),
)
train_cfg = dict(type="TrainLoop", max_epochs=40)  # 120 steps
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    constructor="LayerDecay",  # no decay of biases and norms
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01),
    clip_grad=35.0,
)
param_scheduler = dict(type="CosineWarmup", min_lr=0.0, by_step=True)
custom_hooks = [dict(type="NormMomentum", momentum=0.1)]  # the published 0.01 needs thousands of steps

evaluation = dict(
    test=dict(type="KITTISequence", split="test", cameras=False, transforms=[_regions]),
    protocols=dict(regions=dict(type="RegionRetrieval", points=512, radius=1.0, views=_views)),
)
