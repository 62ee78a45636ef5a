"""Self-supervised fine-tuning of VideoMAE's ViT-B on unlabelled surgical clips (ML4H 2024), from Kinetics-400.

The first stage of "Multi-Modal Self-Supervised Learning for Surgical Feedback Effectiveness Assessment": 500 epochs at
5e-7 on the first 10 s of every clip, 1,332 of 1,568 cubes hidden. Batch 24 on one GPU of 24 GB; not run here. Start it
with --set load_from=RUN of video/videomae_vit-base_kinetics400. The clips of the test fold are not seen, not even
without labels. ``distance/...`` in scalars.jsonl tells whether so small a rate has changed anything.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_pretrain import *

model["backbone"].update(
    embed_dim=768, depth=12, num_heads=12, preprocess=dict(type="VideoPreprocess", size=(224, 224), frames=16)
)
model["pretexts"]["video_mae"].update(decoder_dim=384, decoder_depth=4, decoder_num_heads=6)
model["pretexts"]["video_mae"].update(mask="shuffle", mask_ratio=0.85)

train_dataloader = dict(
    batch_size=24,
    num_workers=10,
    dataset=dict(
        type="VideoTable",
        table="data/surgical_feedback/feedback.csv",
        path="clip id",
        label="trainee_behavior_change",  # for the folds of the other configs, not for training
        group="surgery",
        labels=False,
        missing="skip",
        on_error="skip",
        split="train",
        frames=16,
        sampling="whole",
        first_seconds=10.0,  # the supervised stage sees the whole clip
        size=224,
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=500)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    optimizer=dict(type="AdamW", lr=5e-7, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = dict(type="LinearDecay")
custom_hooks = [dict(type="ParameterDistance", interval=50)]
