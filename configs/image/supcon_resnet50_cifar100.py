"""SupCon (NeurIPS 2020) with ResNet-50 on CIFAR-100, the public protocol: 76.5 % by image/linear_resnet50_cifar100.

Beside it stand 75.3 % of cross-entropy (image/ce_resnet50_cifar100) and 70.7 % of SimCLR, which is this config with
--set model.pretexts.supcon.supervised=False model.pretexts.supcon.options.temperature=0.5
and the linear classifier at a rate of 1. Batch 1,024 of two views, 1,000 epochs: 8e17 operations. Written for one GPU
of 40 GB (activations take 26 GB in bfloat16, by count); not run here. configs/_base_/resnet50_cifar100.py tells where
the data lies.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.resnet50_cifar100 import *

model = dict(
    type="Pretrainer",
    backbone=_backbone,
    pretexts=dict(
        supcon=dict(
            type="SupervisedContrast",
            # The loss is multiplied by 0.1 / 0.07, as in the public code that the rate belongs to.
            options=dict(temperature=0.1, base_temperature=0.07),
            hidden_dim=2048,
            projection_dim=128,
        )
    ),
)
train_dataloader["dataset"].update(
    transforms=[
        dict(
            type="MultiCrop",
            size=32,
            global_views=2,
            local_views=0,
            scale=(0.2, 1.0),
            interpolation="bilinear",
            turn=False,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            jitter_probability=0.8,
            grayscale=0.2,
        )
    ]
)
train_cfg = dict(type="TrainLoop", max_epochs=1000)
optim_wrapper["optimizer"].update(lr=0.5)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=10, min_lr=0.5e-3)

evaluation = dict(
    train=dict(**_data, split="train"),
    val=dict(**_data, split="val"),
    test=dict(**_data, split="test"),
    protocols=dict(knn=dict(type="KNN", k=20, temperature=0.07)),
    batch_size=500,
    num_workers=8,
)
