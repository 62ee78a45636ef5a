"""CDFSL-V (ICCV 2023) in small, second stage: Weizmann4 with labels, the train clips of RailWagon4 without.

perception train video/cdfsl-v_vit-tiny_weizmann4-railwagon4 --seeds 0 1 2 --set model.backbone.init_from=RUN
starts from runs of videomae_vit-tiny_weizmann4-railwagon4. Learning from the source alone is
--set model.pretexts.cdfsl_v.consistency=0. Reads PERCEPTION_DATA.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_tiny import *

model.update(pretexts=dict(cdfsl_v=dict(type="CDFSLV", num_classes=4, temperature=0.1, teacher_momentum=0.9)))

_weak = [dict(type="ClipResizedCrop", size=64, scale=(0.5, 1.0)), dict(type="RandomFlip")]
_strong = [
    *_weak,
    dict(type="ClipJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
    dict(type="ClipGrey", probability=0.2),
    dict(type="ClipBlur", sigma=(0.1, 1.0)),
]
_views = dict(type="ClipViews", views=[_weak, _strong])
train_dataloader = dict(
    batch_size=16,  # of the source, and as many of the target
    num_workers=0,  # the films lie in memory
    dataset=dict(
        type="Paired",
        datasets=[
            dict(type="Weizmann4", split="all", frames=8, stride=4, transforms=_weak),
            dict(type="RailWagon4", split="pretrain", frames=8, stride=6, transforms=[_views]),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=80)
_head = "pretexts.cdfsl_v.head"
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",
    paramwise_cfg=dict(separate=[_head]),
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),  # the paper's SGD is slower here
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type="CurriculumRate", group=_head)
