"""SupCon (NeurIPS 2020) on the digits' 60 % labelled training images (embedded): features that kNN reads at once.

Half a minute on one CPU core. image/joint_vit-tiny_digits has a contrast beside cross-entropy.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
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
    pretexts=dict(
        supcon=dict(type="SupervisedContrast", options=dict(temperature=0.1), projection_dim=32, feature="norm-gap")
    ),
)
train_dataloader = dict(
    batch_size=120,
    sampler=dict(type="PKSampler", classes=10, samples=12),
    dataset=dict(type="Digits", split="train", transforms=[dict(type="RandomCropPad", padding=1)]),
)
train_cfg = dict(type="TrainLoop", max_epochs=60)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5, min_lr=0.0, by_step=True)
evaluation = dict(
    feature="norm-gap",
    train=dict(type="Digits", split="train"),
    val=dict(type="Digits", split="val"),
    test=dict(type="Digits", split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)
