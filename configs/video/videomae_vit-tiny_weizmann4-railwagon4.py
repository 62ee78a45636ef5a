"""CDFSL-V (ICCV 2023) in small, first stage: VideoMAE on Weizmann4 and the train clips of RailWagon4, without labels.

The second stage starts from it: video/cdfsl-v_vit-tiny_weizmann4-railwagon4. Reads PERCEPTION_DATA.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_tiny import *

model.update(
    pretexts=dict(
        video_mae=dict(
            type="VideoMAE",
            mask="tube",
            mask_ratio=0.75,
            target="raw",
            decoder_dim=64,
            decoder_depth=1,
            decoder_num_heads=2,
            decoder_mlp_ratio=2.0,
        )
    )
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # the films lie in memory
    dataset=dict(
        type="Concatenated",
        datasets=[
            dict(type="Weizmann4", split="pretrain", frames=8, stride=4),  # 64 x 64 pixels, 25 frames a second
            dict(type="RailWagon4", split="pretrain", frames=8, stride=6),  # 96 x 128, 6 frames a second
        ],
        transforms=[dict(type="ClipResizedCrop", size=64, scale=(0.5, 1.0)), dict(type="RandomFlip")],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=60)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=40, min_lr=0.0, by_step=True)
