"""TIP (ECCV 2024) in small: a ConvNet for 64 pixels, tokens of width 64, 2 + 2 blocks; everything but the data."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="TableImageEncoder",
        image_backbone=dict(type="ConvNet", widths=(32, 64, 128, 256), strides=(2, 2, 2, 2)),  # 16 tokens of 256
        table_backbone=dict(type="TableTransformer", embed_dim=64, depth=2, num_heads=4, init_std=0.1),
        depth=2,
        num_heads=4,
        init_std=0.1,  # the published 0.02 is for a width of 512
        preprocess=dict(type="TableImagePreprocess", size=64),  # mean, std, fit: the child's data
    ),
    pretexts=dict(tip=dict(type="TIP", temperature=0.1, mask_ratio=0.5, exclude_equal=True, negative_floor=0.02)),
    balance=dict(itc_loss=1 / 3, itm_loss=1 / 3, mtr_loss=1 / 3),
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # the images lie in memory
    drop_last=True,
    dataset=dict(
        split="pretrain",
        transforms=[
            dict(type="RandomResizedCrop", size=64, scale=(0.4, 1.0), interpolation="bilinear"),
            dict(type="RandomFlip"),
            dict(type="CorruptTable", rate=0.3),
        ],
    ),
)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    clip_grad=3.0,
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5, min_lr=0.0, by_step=True)
