"""CDFSL-V, second stage: from supervised learning on the source to consistency on the target, which is the child's."""

from mmengine.config import read_base

with read_base():
    from .cdfsl_v import *

model.update(
    pretexts=dict(
        cdfsl_v=dict(
            type="CDFSLV",
            num_classes=364,
            temperature=0.1,
            teacher_momentum=0.9,  # 0.99 in the public code
            teacher_update="step",  # "epoch" there
            feature="norm-gap",
        )
    )
)

# The crop's scale is not stated: this is torchvision's habit for self-supervised learning.
_weak = [dict(type="ClipResizedCrop", size=112, scale=(0.2, 1.0)), dict(type="RandomFlip")]
_strong = [
    *_weak,
    dict(type="ClipJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
    dict(type="ClipGrey", probability=0.2),
    dict(type="ClipBlur"),
]
_clips = dict(frames=16, stride=4, sampling="random", on_error="skip")
train_dataloader = dict(
    batch_size=16,  # of the source, and as many of the target
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="Paired",
        datasets=[
            dict(**_clips, type="VideoManifest", path="data/kinetics364/train.csv", transforms=_weak),
            dict(
                **_clips,
                split="train",
                labels=False,
                transforms=[dict(type="ClipViews", views=[_weak, _strong])],
            ),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=200)
_head = "pretexts.cdfsl_v.head"
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",
    paramwise_cfg=dict(separate=[_head]),
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, nesterov=True),
    clip_grad=dict(max_norm=5.0),  # the public code
)
param_scheduler = dict(type="CurriculumRate", group=_head)
