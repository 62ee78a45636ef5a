"""How small driving networks are trained for some hundred steps on a CPU."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",  # no decay of biases and norms
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01),
    clip_grad=35.0,
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=20, min_lr=0.0, by_step=True)
custom_hooks = [dict(type="NormMomentum", momentum=0.1)]  # the published 0.01 needs thousands of steps
