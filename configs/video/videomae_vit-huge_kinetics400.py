"""VideoMAE (NeurIPS 2022) ViT-H on Kinetics-400, the paper's recipe for 1,600 epochs: fine-tuned 86.6 % top-1.

Global batch 2,048 = 64 GPUs x 32; not run here. data/kinetics400 holds train.csv, val.csv and the clips, best with a
short side of 320 pixels: decoding is what limits the speed.
torchrun --nnodes=8 --nproc_per_node=8 -m perception train video/videomae_vit-huge_kinetics400 --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(embed_dim=1280, depth=32, num_heads=16)
model["pretexts"]["video_mae"].update(decoder_dim=640, decoder_depth=12, decoder_num_heads=8)
