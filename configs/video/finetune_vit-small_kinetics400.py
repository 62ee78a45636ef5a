"""Fine-tune VideoMAE's ViT-S on Kinetics-400: 79.0 % top-1 in the paper after 1,600 epochs of pre-training.

Global batch 384 = 64 GPUs x 6, every video drawn twice; not run here. Start it from
video/videomae_vit-small_kinetics400 with --set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=384, depth=12, num_heads=6)
