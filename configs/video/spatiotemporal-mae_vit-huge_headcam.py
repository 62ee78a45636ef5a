"""Spatiotemporal MAE, ViT-H/14, on videos of a child's head camera: "... from a child's perspective" (CogSci 2024).

Random masks of 0.9, values of the normalised clip as targets (norm_pix_loss off), all 16 frames predicted; the first
release's constant rate. 64 clips a step = 4 GPUs x 1 video x 16 clips of it, which hides the cost of decoding; the
second release took 4 x 64 x 1 and 1e-5. The recordings (SAYCam) are not public: data/headcam/train.csv lists
``path, label`` of any videos. 250 epochs for one child; not run here.
torchrun --nproc_per_node=4 -m perception train video/spatiotemporal-mae_vit-huge_headcam --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_statistics = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="VideoViT",
        image_size=224,
        frames=16,
        patch_size=14,
        tubelet=2,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        qkv_bias=True,
        class_token=True,
        position="separable",
        preprocess=dict(type="VideoPreprocess", size=(224, 224), frames=16, stride=8, fps=30.0, **_statistics),
    ),
    pretexts=dict(
        spatiotemporal_mae=dict(
            type="SpatiotemporalMAE",
            mask="random",
            mask_ratio=0.9,
            target="raw",
            decoder_dim=512,
            decoder_depth=4,
            decoder_num_heads=16,
        )
    ),
)

train_dataloader = dict(
    batch_size=1,
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="VideoManifest",
        path="data/headcam/train.csv",
        frames=16,
        stride=8,
        sampling="random",
        repeats=16,
        labels=False,
        on_error="skip",
        transforms=[dict(type="ClipResizedCrop", size=224, scale=(0.5, 1.0)), dict(type="RandomFlip")],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=250)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",
    clip_grad=dict(max_norm=0.1),
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05),  # constant
)
