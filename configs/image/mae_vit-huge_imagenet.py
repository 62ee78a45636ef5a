"""MAE (CVPR 2022) ViT-H on ImageNet-1K, the paper's recipe for 800 epochs: fine-tuned 86.9 %.

Public results on the validation set: fine-tuned 86.9 after 1,600 epochs; linear probe 76.6 (paper).
Global batch 4,096 = 8 GPUs x 64 x 8 accumulated; not run here. data/imagenet holds train/<class>/ and val/<class>/.
torchrun --nproc_per_node=8 -m perception train image/mae_vit-huge_imagenet --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.imagenet_mae import *

model["backbone"].update(patch_size=14, embed_dim=1280, depth=32, num_heads=16)
train_dataloader.update(batch_size=64)
optim_wrapper.update(accumulative_counts=8)
