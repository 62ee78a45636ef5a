"""TIP's encoder and losses at full size on DVM-Car: 4 categorical and 13 continuous columns, 286 car models."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="TableImageEncoder",
        image_backbone=dict(type="TimmModel", name="resnet50", image_size=128),
        table_backbone=dict(type="TableTransformer", embed_dim=512, depth=4, num_heads=8),
        depth=4,
        num_heads=8,
        preprocess=dict(
            type="TableImagePreprocess",
            size=128,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
            fit=dict(type="DVMCar", split="train"),
        ),
    ),
    pretexts=dict(
        tip=dict(
            type="TIP",
            projection_dim=128,
            temperature=0.1,
            image_weight=0.5,
            mask_ratio=0.5,
            vocabulary="global",  # the authors'
        )
    ),
    balance=dict(itc_loss=1 / 3, itm_loss=1 / 3, mtr_loss=1 / 3),
)
