"""VideoMAE (NeurIPS 2022) ViT-B on UCF101 alone, split 1, 3,200 epochs: fine-tuned 91.3 % top-1 in the paper.

Global batch 192 = 8 GPUs x 24; not run here. data/ucf101 holds UCF-101/ and ucfTrainTestlist/.
torchrun --nproc_per_node=8 -m perception train video/videomae_vit-base_ucf101 --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(embed_dim=768, depth=12, num_heads=12)
model["pretexts"]["video_mae"].update(decoder_dim=384, decoder_depth=4, decoder_num_heads=6)
model["pretexts"]["video_mae"].update(mask_ratio=0.75)
train_dataloader.update(batch_size=24)
train_dataloader["dataset"].update(type="UCF101", root="data/ucf101")
train_cfg.update(max_epochs=3200)
optim_wrapper["optimizer"].update(lr=3e-4 * 192 / 256)
