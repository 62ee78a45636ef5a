"""MAE pre-training on ImageNet-1K with the paper's recipe; the sizes of the encoder are the config's."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="ViT",
        image_size=224,
        preprocess=dict(type="ImagePreprocess", size=(224, 224), interpolation="bicubic", crop_fraction=0.875),
    ),
    pretexts=dict(
        mae=dict(type="MAE", mask_ratio=0.75, norm_pix=True, decoder_dim=512, decoder_depth=8, decoder_num_heads=16)
    ),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=10,
    dataset=dict(
        type="ImageFolder",
        root="data/imagenet",
        split="train",
        labels=False,
        transforms=[
            dict(type="RandomResizedCrop", size=224, scale=(0.2, 1.0), interpolation="bicubic"),
            dict(type="RandomFlip"),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=800)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",  # the paper's code: float16 with loss scaling
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=40, min_lr=0.0, by_step=True)
