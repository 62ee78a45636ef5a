"""A dual encoder of 1.2 million parameters on 1,200 images of RSICD with five captions each, and how it is judged."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_size, _context = 64, 24
_mean, _std = (0.4032, 0.4135, 0.3725), (0.1999, 0.1758, 0.1757)  # of the training images

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="CLIP",
        model=dict(
            embed_dim=128,
            vision_cfg=dict(image_size=_size, patch_size=16, layers=4, width=128, head_width=32),
            text_cfg=dict(layers=1, width=128, heads=4),
        ),
        preprocess=dict(
            type="ImageTextPreprocess",
            size=_size,
            mean=_mean,
            std=_std,
            tokenizer=dict(
                type="WordTokenizer",
                fit=dict(type="RSICDMini", split="train"),
                min_count=2,
                context_length=_context,
            ),
        ),
    ),
    pretexts=dict(image_text=dict(type="ImageText", targets="multi_positive")),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # the images lie in memory
    drop_last=True,
    dataset=dict(
        type="RSICDMini",
        split="train",
        size=_size,
        transforms=[
            dict(type="PickCaption"),
            dict(type="MultiCrop", size=_size, global_views=1, local_views=0, scale=(0.9, 1.0)),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=40)  # 720 steps
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",  # no decay of biases, norms and the logit scale
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=50, min_lr=0.0, by_step=True)

evaluation = dict(
    test=dict(type="RSICDMini", split="test", size=_size),
    protocols=dict(
        retrieval=dict(type="Retrieval"),
        zero_shot=dict(type="ZeroShot", prompts=["an aerial photo of {}"]),
    ),
)
