"""Overfit a small CenterPoint on pillars of 0.32 m to the ten labelled KITTI frames of $PERCEPTION_DATA/bev.

A check that geometry, targets, losses and decoding fit together, not a benchmark: training and test frames are the
same. perception train driving/centerpoint_pillars_kitti-frames, then tools/robustness.py for the corruption table.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_classes = ("Car", "Pedestrian", "Cyclist")

model = dict(
    type="BEVDetector",
    preset="kitti",
    classes=_classes,
    width=32,
    peak=1,  # pedestrians stand closer than the cells of 0.64 m can tell peaks apart; suppression sorts them out
    backbone=dict(
        type="PillarNet",
        cell=(0.32, 0.32),
        pillar_channels=(32,),
        layers=(1, 2, 2),
        channels=(32, 64, 128),
        strides=(2, 2, 2),
        scales=(1, 2, 4),
        neck_channels=(32, 32, 32),
        preprocess=dict(
            type="DrivingPreprocess",
            point_range=(0.0, -39.68, -3.0, 69.12, 39.68, 1.0),
            point_features=("x", "y", "z", "intensity"),
        ),
    ),
)

# The camera's labels are all there is: what it does not see is not labelled.
_frames = dict(type="KITTI", classes=_classes, cameras=False, in_image=True)
train_dataloader = dict(batch_size=2, dataset=_frames)
val_dataloader = dict(batch_size=2, dataset=_frames)
test_dataloader = val_dataloader
val_evaluator = dict(type="BEVDetectionMetric", overlaps=(0.5,), nuscenes=False)
# The AP of ten frames stands beside KITTI's own; with few boxes of a class that one cannot reach 1.
test_evaluator = [
    dict(type="BEVDetectionMetric", overlaps=(0.5, 0.7), kinds=("bev", "3d"), nuscenes=False),
    dict(type="KITTIMetric"),
]

train_cfg = dict(type="TrainLoop", max_iters=300)
optim_wrapper = dict(
    type="AutocastOptimWrapper", optimizer=dict(type="AdamW", lr=4e-3, weight_decay=0.01), clip_grad=35.0
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=20)
custom_hooks = [dict(type="NormMomentum")]  # 200 steps are too few for the 0.01 of published networks
