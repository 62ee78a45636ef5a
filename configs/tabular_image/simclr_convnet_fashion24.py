"""SimCLR (ICML 2020) on the images of fashion24 alone, the image branch of finetune_convnet_fashion24.

A run of it starts that branch: model.backbone.image_backbone.init_from.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_fashion24 import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="ConvNet",
        widths=(32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        preprocess=dict(type="ImagePreprocess", size=64, mean=(0.8430, 0.8320, 0.8285), std=(0.2788, 0.2869, 0.2874)),
    ),
    pretexts=dict(simclr=dict(type="SimCLR", hidden_dim=256, projection_dim=128, temperature=0.1)),
)
train_dataloader["dataset"].update(
    only="image",
    transforms=[
        dict(
            type="MultiCrop",
            size=64,
            local_views=0,
            scale=(0.3, 1.0),
            interpolation="bilinear",
            turn=False,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
        )
    ],
)
train_cfg = dict(type="TrainLoop", max_epochs=60)

evaluation = dict(
    train=dict(type="Fashion24", split="train", only="image"),
    val=dict(type="Fashion24", split="val", only="image"),
    test=dict(type="Fashion24", split="test", only="image"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)
