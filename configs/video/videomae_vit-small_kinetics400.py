"""VideoMAE (NeurIPS 2022) ViT-S on Kinetics-400, the paper's recipe for 1,600 epochs: fine-tuned 79.0 % top-1.

Global batch 2,048 = 64 GPUs x 32; not run here. data/kinetics400 holds train.csv, val.csv and the clips, best with a
short side of 320 pixels: decoding is what limits the speed.
torchrun --nnodes=8 --nproc_per_node=8 -m perception train video/videomae_vit-small_kinetics400 --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(embed_dim=384, depth=12, num_heads=6)
model["pretexts"]["video_mae"].update(decoder_dim=192, decoder_depth=4, decoder_num_heads=3)
