"""Fine-tune VideoMAE's ViT-L on Kinetics-400: 85.2 % top-1 in the paper after 1,600 epochs of pre-training.

Global batch 384 = 64 GPUs x 6, every video drawn twice; not run here. The rates are those of the smaller sizes;
the paper's scripts for this size may differ. Start it from
video/videomae_vit-large_kinetics400 with --set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=1024, depth=24, num_heads=16)
