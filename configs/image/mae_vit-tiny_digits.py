"""MAE (CVPR 2022) on scikit-learn's 8 x 8 digits: the embedded demo, no download, under a minute on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="ViT",
        image_size=8,
        patch_size=2,  # 16 patches
        in_channels=1,
        embed_dim=64,
        depth=3,
        num_heads=4,
        mlp_ratio=2.0,
        preprocess=dict(type="ImagePreprocess", size=(8, 8), bands=("grey",), mean=(0.3053,), std=(0.376,)),
    ),
    pretexts=dict(
        mae=dict(
            type="MAE",
            mask_ratio=0.5,
            norm_pix=False,  # patches of 4 pixels lose too much when each is normalised by itself
            decoder_dim=48,
            decoder_depth=1,
            decoder_num_heads=2,
            decoder_mlp_ratio=2.0,
        )
    ),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type="Digits", split="pretrain"),
)
train_cfg = dict(type="TrainLoop", max_epochs=120)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5, min_lr=0.0, by_step=True)

evaluation = dict(
    train=dict(type="Digits", split="train"),
    val=dict(type="Digits", split="val"),
    test=dict(type="Digits", split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)

demo = dict(title="image", protocol="knn")
