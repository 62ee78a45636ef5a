"""Fine-tune VideoMAE's ViT-H on Kinetics-400: 86.6 % top-1 in the paper after 1,600 epochs of pre-training.

Global batch 384 = 64 GPUs x 6, every video drawn twice; not run here. The rates are those of the smaller sizes;
the paper's scripts for this size may differ. Start it from
video/videomae_vit-huge_kinetics400 with --set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=1280, depth=32, num_heads=16)
