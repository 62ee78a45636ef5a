"""RS-M-CLIP's objectives (SIGSPATIAL 2024) in small: CLIP with self-distillation on 1,200 images of RSICD.

Every global view is matched with the text, and the student's local views with the teacher's global ones.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_rsicd_mini import *

model.update(
    pretexts=dict(
        image_text=dict(type="ImageText", views="globals"),
        distill=dict(
            type="SelfDistillation",
            feature="pooled",  # the tokens before the projection that texts are compared in
            prototypes=1024,
            hidden_dim=512,
            bottleneck_dim=128,
            teacher_temperature=(0.04, 0.04),
            momentum=0.99,  # 18 steps an epoch: the teacher follows over 5 epochs
        ),
    ),
    balance={"image_text.loss": 1.0, "distill.loss": 0.2},
)
train_dataloader.update(
    dataset=dict(
        type="RSICDMini",
        split="train",
        size=_size,
        transforms=[
            dict(type="PickCaption"),
            dict(type="MultiCrop", size=_size, local_size=32, local_views=4, scale=(0.8, 1.0), local_scale=(0.15, 0.4)),
        ],
    )
)
