"""CenterPoint on the embedded driving scenes: head, data and metric; the child's backbone."""

from mmengine.config import read_base

with read_base():
    from .short_runs import *

model = dict(type="BEVDetector", classes=("car", "truck", "pedestrian"), velocity=False, width=32)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # the scenes lie in memory
    drop_last=True,
    dataset=dict(
        type="DrivingScenes",
        split="train",
        count=200,
        transforms=[dict(type="AugmentPoints", rotation=45.0, scale=(0.95, 1.05), translation=0.2, flip_x=0.5)],
    ),
)
val_dataloader = dict(batch_size=10, dataset=dict(type="DrivingScenes", split="val", count=20))
test_dataloader = dict(batch_size=10, dataset=dict(type="DrivingScenes", split="test", count=60))
val_evaluator = dict(type="BEVDetectionMetric")
test_evaluator = val_evaluator

train_cfg = dict(type="TrainLoop", max_iters=300)
param_scheduler.update(warmup_steps=30)
