"""TIP (ECCV 2024) on noisy digits with noisy measurements of their strokes (embedded): the demo, half a minute."""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_digits_table import *

train_cfg = dict(type="TrainLoop", max_epochs=20)  # 420 steps
optim_wrapper.update(dtype="float32")
param_scheduler.update(warmup_epochs=2)

evaluation = dict(
    train=dict(type="DigitsTable", split="train"),
    val=dict(type="DigitsTable", split="val"),
    test=dict(type="DigitsTable", split="test"),
    feature="all",
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)

demo = dict(title="tabular-image", protocol="linear")
