"""Fine-tune MAE's ViT-B on ImageNet-1K with the paper's recipe: 83.6 % top-1 there.

"Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), 1,600 epochs of pre-training; public runs:
83.63, 83.66, 83.52, 83.46.
Global batch 1,024 = 8 GPUs x 128; not run here. Start it from image/mae_vit-base_imagenet with
torchrun --nproc_per_node=8 -m perception train image/finetune_vit-base_imagenet --launcher pytorch --set ...
with model.backbone.init_from=RUN; data/imagenet holds train/<class>/ and val/<class>/.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.imagenet_finetune import *

model.update(
    backbone=dict(
        type="ViT",
        image_size=224,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        preprocess=dict(type="ImagePreprocess", size=(224, 224), interpolation="bicubic", crop_fraction=0.875),
    )
)
train_dataloader.update(batch_size=128)
train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper.update(
    optimizer=dict(type="AdamW", lr=5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(decay=0.65),
)
