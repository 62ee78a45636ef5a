"""VideoMAE pre-training (NeurIPS 2022): what all its scripts share; sizes, data, length and rates are the config's."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="VideoViT",
        image_size=224,
        frames=16,
        patch_size=16,
        tubelet=2,
        preprocess=dict(type="VideoPreprocess", size=(224, 224), frames=16, stride=4),
    ),
    pretexts=dict(video_mae=dict(type="VideoMAE", mask="tube", mask_ratio=0.9, target="channel")),
)

train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="Kinetics",
        split="train",
        root="data/kinetics400",
        frames=16,
        stride=4,
        sampling="random",
        labels=False,
        on_error="skip",  # copies lack videos; how many is reported
        transforms=[dict(type="ClipMultiScaleCrop", size=224, scales=(1.0, 0.875, 0.75, 0.66))],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=1600)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",  # the paper's code: float16 with loss scaling
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=1.5e-4 * 2048 / 256, betas=(0.9, 0.95), weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=40, min_lr=1e-5, by_step=True)
