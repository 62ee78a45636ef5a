"""Fine-tuning on ImageNet-1K as in MAE (CVPR 2022): data, augmentation, head; sizes and rates are the child's."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_root = "data/imagenet"  # with train/<class>/ and val/<class>/

model = dict(
    type="Classifier",
    num_classes=1000,
    feature="norm-gap",  # the encoder's final norm after the mean over patches
    label_smoothing=0.1,
    init_std=2e-5,
)

train_dataloader = dict(
    batch_size=128,
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="ImageFolder",
        root=_root,
        split="train",
        transforms=[
            dict(type="RandomResizedCrop", size=224, scale=(0.08, 1.0), interpolation="bicubic"),
            dict(type="RandomFlip"),
            dict(type="RandAugment", magnitude=9, magnitude_std=0.5),
            dict(type="RandomErasing", probability=0.25),
            dict(type="Mix", num_classes=1000, mixup=0.8, cutmix=1.0),
        ],
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=10,
    dataset=dict(type="ImageFolder", root=_root, split="val", size=224, crop_fraction=0.875),
)
val_evaluator = dict(type="Accuracy", topk=(1, 5))
# ImageNet's test labels are secret: as everywhere, the figure is that of the validation set, at the last epoch.
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(type="AutocastOptimWrapper", dtype="bfloat16", constructor="LayerDecay")
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5, min_lr=1e-6)
