"""CLIP in six languages on embedded procedural land-cover tiles: no download, half a minute on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_mean, _std = (0.5375, 0.5476, 0.4534), (0.2360, 0.1871, 0.2167)  # of the training tiles

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="CLIP",
        model=dict(
            embed_dim=128,
            vision_cfg=dict(image_size=64, patch_size=16, layers=4, width=128, head_width=32),
            text_cfg=dict(layers=1, width=128, heads=4),
        ),
        preprocess=dict(
            type="ImageTextPreprocess",
            size=64,
            mean=_mean,
            std=_std,
            tokenizer=dict(
                type="WordTokenizer", fit=dict(type="LandCover", split="train"), min_count=2, context_length=32
            ),
        ),
    ),
    pretexts=dict(image_text=dict(type="ImageText")),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # the tiles lie in memory
    drop_last=True,
    dataset=dict(
        type="LandCover",
        split="train",
        transforms=[
            dict(type="PickCaption"),
            dict(type="MultiCrop", size=64, global_views=1, local_views=0, scale=(0.9, 1.0)),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=12)  # 240 steps
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",  # no decay of biases, norms and the logit scale
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=20, min_lr=0.0, by_step=True)

evaluation = dict(
    train=dict(type="LandCover", split="train"),
    val=dict(type="LandCover", split="val"),
    test=dict(type="LandCover", split="test"),
    protocols=dict(
        knn=dict(type="KNN", k=20, temperature=0.07),
        linear=dict(type="LinearLBFGS"),
        zero_shot=dict(type="ZeroShot", languages="all"),
        retrieval=dict(type="Retrieval"),
    ),
)

demo = dict(title="remote sensing", protocol="linear")
