"""CDFSL-V, first stage: VideoMAE on source and target together, without labels; the target is the child's."""

from mmengine.config import read_base

with read_base():
    from .cdfsl_v import *

model.update(
    pretexts=dict(
        video_mae=dict(
            type="VideoMAE",
            mask="tube",
            mask_ratio=0.9,
            target="channel",
            decoder_dim=192,
            decoder_depth=4,
            decoder_num_heads=3,
        )
    )
)

_clips = dict(frames=16, stride=4, sampling="random", labels=False, on_error="skip")
train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="Concatenated",
        datasets=[
            dict(**_clips, type="VideoManifest", path="data/kinetics364/train.csv"),
            dict(**_clips, split="train"),
        ],
        # Clips come in all sizes and leave in one.
        transforms=[dict(type="ClipMultiScaleCrop", size=112, scales=(1.0, 0.875, 0.75, 0.66))],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=400)
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="bfloat16", optimizer=dict(type="SGD", lr=0.1)
)  # neither momentum nor a schedule is stated
