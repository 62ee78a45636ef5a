"""Fine-tune MAE's ViT-H on ImageNet-1K with the paper's recipe: 86.9 % top-1 there.

"Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), 1,600 epochs of pre-training; public run: 86.93.
Global batch 1,024 = 32 GPUs x 32; not run here. Start it from image/mae_vit-huge_imagenet with
torchrun --nproc_per_node=8 -m perception train image/finetune_vit-huge_imagenet --launcher pytorch --set ...
with model.backbone.init_from=RUN; data/imagenet holds train/<class>/ and val/<class>/.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.imagenet_finetune import *

model.update(
    backbone=dict(
        type="ViT",
        image_size=224,
        patch_size=14,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        drop_path_rate=0.3,
        preprocess=dict(type="ImagePreprocess", size=(224, 224), interpolation="bicubic", crop_fraction=0.875),
    )
)
train_dataloader.update(batch_size=32)
train_cfg = dict(type="TrainLoop", max_epochs=50)
optim_wrapper.update(
    optimizer=dict(type="AdamW", lr=1e-3 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(decay=0.75),
)
