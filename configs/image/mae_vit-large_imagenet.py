"""MAE (CVPR 2022) ViT-L on ImageNet-1K, the paper's recipe for 800 epochs: fine-tuned 85.4 to 85.9 %.

Public results on the validation set: fine-tuned 85.4 after 800 epochs, 85.95 after 1,600; linear probe 75.8 (paper).
Global batch 4,096 = 8 GPUs x 128 x 4 accumulated; not run here. data/imagenet holds train/<class>/ and val/<class>/.
torchrun --nproc_per_node=8 -m perception train image/mae_vit-large_imagenet --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.imagenet_mae import *

model["backbone"].update(patch_size=16, embed_dim=1024, depth=24, num_heads=16)
train_dataloader.update(batch_size=128)
optim_wrapper.update(accumulative_counts=4)
