"""TIP (ECCV 2024) on DVM-Car at full size: ResNet-50 at 128 px, width 512, 4 + 4 blocks, 500 epochs at batch 256.

Values are those of the authors' code: losses weighed 1/3 each, temperature 0.1, 30 % of the table's cells corrupted,
50 % hidden, one softmax over all categories, images in [0, 1] without further normalisation, strong augmentation of
95 % of them. Linear evaluation there: 98.75 % with 10 % and 88.93 % with 1 % of the labels. Statistics of columns are
those of the training rows alone, theirs of all rows. Written for one GPU of 40 GB; not run here.

See ``DVMCar`` for the layout of data/tabular_image/dvm_car.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.dvm_car import *

train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    drop_last=True,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(
        type="DVMCar",
        split="pretrain",
        transforms=[
            dict(
                type="Albumentations",
                probability=0.95,
                operations=[
                    dict(
                        name="ColorJitter",
                        brightness=(0.2, 1.8),
                        contrast=(0.2, 1.8),
                        saturation=(0.2, 1.8),
                        hue=(0.0, 0.0),
                        p=0.8,
                    ),
                    dict(name="ToGray", p=0.2),
                    dict(name="GaussianBlur", blur_limit=(29, 29), sigma_limit=(0.1, 2.0), p=0.5),
                    dict(name="RandomResizedCrop", size=(128, 128), scale=(0.08, 1.0), p=1.0),
                    dict(name="HorizontalFlip", p=0.5),
                ],
            ),
            dict(type="CorruptTable", rate=0.3),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=500)
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(type="Adam", lr=3e-4, weight_decay=1.5e-6))
param_scheduler = dict(type="CosineWarmup", warmup_epochs=10, min_lr=0.0, by_step=False)

evaluation = dict(
    train=dict(type="DVMCar", split="train"),
    val=dict(type="DVMCar", split="val"),
    test=dict(type="DVMCar", split="test"),
    protocols=dict(knn=dict(type="KNN", k=20, temperature=0.07)),
    batch_size=256,
    num_workers=10,
)
