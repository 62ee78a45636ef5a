"""VideoMAE (NeurIPS 2022) ViT-B on Kinetics-400, the paper's recipe for 1,600 epochs: fine-tuned 81.5 % top-1.

Global batch 2,048 = 64 GPUs x 32; not run here. data/kinetics400 holds train.csv, val.csv and the clips, best with a
short side of 320 pixels: decoding is what limits the speed.
torchrun --nnodes=8 --nproc_per_node=8 -m perception train video/videomae_vit-base_kinetics400 --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(embed_dim=768, depth=12, num_heads=12)
model["pretexts"]["video_mae"].update(decoder_dim=384, decoder_depth=4, decoder_num_heads=6)
