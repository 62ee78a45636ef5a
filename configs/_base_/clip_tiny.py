"""A dual encoder of 1.2 million parameters for tiles of 64 px, trained from scratch: everything but the data."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

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
            tokenizer=dict(type="WordTokenizer", min_count=2, context_length=24),  # fit: the child's captions
        ),
    ),
    pretexts=dict(image_text=dict(type="ImageText")),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # the tiles lie in memory
    drop_last=True,
    dataset=dict(
        split="train",
        transforms=[
            dict(type="PickCaption"),
            # The share of the area was chosen among 0.5, 0.7, 0.9 and 1 on the validation images of RSICD.
            dict(type="MultiCrop", size=64, global_views=1, local_views=0, scale=(0.7, 1.0)),
        ],
    ),
)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",  # no decay of biases, norms and the logit scale
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=50, min_lr=0.0, by_step=True)
