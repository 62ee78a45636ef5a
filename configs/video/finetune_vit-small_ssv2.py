"""Fine-tune VideoMAE's ViT-S on Something-Something V2: 66.8 % top-1 in the paper.

One random frame of every segment (TSN) for training, 2 x 3 clips for the test, no mirroring. Global batch 384 = 64 GPUs
x 6, every video drawn twice; not run here. Start it from video/videomae_vit-small_ssv2 with
--set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=384, depth=12, num_heads=6)
model.update(num_classes=174)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(type="SomethingSomethingV2", root="data/ssv2")
train_dataloader["dataset"].update(
    sampling="uniform",
    transforms=[  # no flip: left and right are labels
        dict(type="ClipResizedCrop", size=224, scale=(0.08, 1.0)),
        dict(type="RandAugment", magnitude=7, magnitude_std=0.5, num_ops=4),
        dict(type="RandomErasing", probability=0.25),
        dict(type="Mix", num_classes=174, mixup=0.8, cutmix=1.0),
    ],
)
val_dataloader["dataset"].update(sampling="uniform_views")
test_dataloader["dataset"].update(sampling="uniform_views", views=2)
train_cfg.update(max_epochs=30)
