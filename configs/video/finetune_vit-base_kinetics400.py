"""Fine-tune VideoMAE's ViT-B on Kinetics-400: 81.5 % top-1 in the paper after 1,600 epochs of pre-training.

Global batch 384 = 64 GPUs x 6, every video drawn twice; not run here. Start it from
video/videomae_vit-base_kinetics400 with --set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=768, depth=12, num_heads=12)
