"""VideoMAE (NeurIPS 2022) ViT-B on Something-Something V2, 2,400 epochs: fine-tuned 70.8 % top-1 in the paper.

Global batch 2,048 = 64 GPUs x 32; not run here. data/ssv2 holds 20bn-something-something-v2/ and labels/.
torchrun --nnodes=8 --nproc_per_node=8 -m perception train video/videomae_vit-base_ssv2 --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(embed_dim=768, depth=12, num_heads=12)
model["pretexts"]["video_mae"].update(decoder_dim=384, decoder_depth=4, decoder_num_heads=6)
train_dataloader["dataset"].update(type="SomethingSomethingV2", root="data/ssv2", stride=2)
model["backbone"]["preprocess"].update(stride=2)
train_cfg.update(max_epochs=2400)
