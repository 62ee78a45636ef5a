"""CenterPoint on the ten classes of nuScenes: head, augmentation and metric; the child's backbone and sensors."""

from mmengine.config import read_base

with read_base():
    from .nuscenes import *

model = dict(
    type="BEVDetector",
    preset="nuscenes",
    classes=(
        "car",
        "truck",
        "construction_vehicle",
        "bus",
        "trailer",
        "barrier",
        "motorcycle",
        "bicycle",
        "pedestrian",
        "traffic_cone",
    ),
)
train_dataloader["dataset"].update(
    transforms=[dict(type="AugmentPoints", rotation=45.0, scale=(0.9, 1.1), translation=0.5, flip_x=0.5, flip_y=0.5)],
)
val_dataloader = dict(batch_size=4, num_workers=8, dataset=dict(type="NuScenes", split="val"))
test_dataloader = val_dataloader  # the labels of the test split are secret
val_evaluator = dict(type="BEVDetectionMetric")
test_evaluator = val_evaluator
