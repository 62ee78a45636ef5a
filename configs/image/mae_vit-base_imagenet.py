"""MAE (CVPR 2022) ViT-B on ImageNet-1K, the paper's recipe for 800 epochs: fine-tuned 83.3 to 83.6 %.

Public results on the validation set: fine-tuned 83.3 after 800 epochs, 83.66 after 1,600; linear probe 68.0 (paper).
Global batch 4,096 = 8 GPUs x 256 x 2 accumulated; not run here. data/imagenet holds train/<class>/ and val/<class>/.
torchrun --nproc_per_node=8 -m perception train image/mae_vit-base_imagenet --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.imagenet_mae import *

model["backbone"].update(patch_size=16, embed_dim=768, depth=12, num_heads=12)
train_dataloader.update(batch_size=256)
optim_wrapper.update(accumulative_counts=2)
