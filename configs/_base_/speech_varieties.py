"""Data of the embedded varieties: 8 kHz, crops of 0.8 s, speakers of the test never heard before."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_rate = 8000
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type="SpokenVarieties", split="pretrain", sample_rate=_rate, crop_seconds=0.8),
)
evaluation = dict(
    train=dict(type="SpokenVarieties", split="train", sample_rate=_rate),
    val=dict(type="SpokenVarieties", split="val", sample_rate=_rate),
    test=dict(type="SpokenVarieties", split="test", sample_rate=_rate),
    protocols=dict(linear=dict(type="LinearLBFGS")),
)
