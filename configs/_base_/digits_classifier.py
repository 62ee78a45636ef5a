"""A small ViT that learns the ten classes of the embedded digits, 8 x 8 pixels, from 60 % of them."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Classifier",
    backbone=dict(
        type="ViT",
        image_size=8,
        patch_size=2,
        in_channels=1,
        embed_dim=64,
        depth=3,
        num_heads=4,
        mlp_ratio=2.0,
        drop_path_rate=0.1,
        preprocess=dict(type="ImagePreprocess", size=(8, 8), bands=("grey",), mean=(0.3053,), std=(0.376,)),
    ),
    num_classes=10,
    feature="norm-gap",
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=128,
    dataset=dict(type="Digits", split="train", transforms=[dict(type="RandomCropPad", padding=1)]),
)
val_dataloader = dict(batch_size=512, dataset=dict(type="Digits", split="val"))
test_dataloader = dict(batch_size=512, dataset=dict(type="Digits", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_epochs=40, val_interval=5)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    constructor="LayerDecay",
    paramwise_cfg=dict(decay=0.75),
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5)
