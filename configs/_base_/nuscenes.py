"""Training on nuScenes as CALICO (ICLR 2024) pre-trains and BEVFusion tunes: torchrun on 8 GPUs, 4 samples on each."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    drop_last=True,
    dataset=dict(type="NuScenes", split="train", sweeps=9),
)
train_cfg = dict(type="TrainLoop", max_epochs=20)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.01),
    clip_grad=35.0,
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=500, by_step=True)
