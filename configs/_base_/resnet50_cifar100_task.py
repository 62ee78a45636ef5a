"""The classifier of resnet50_cifar100, tested on the 10,000 test images after the last epoch."""

from mmengine.config import read_base

with read_base():
    from .resnet50_cifar100 import *

model = dict(type="Classifier", backbone=_backbone, num_classes=100)
train_dataloader["dataset"].update(
    transforms=[
        dict(type="RandomResizedCrop", size=32, scale=(0.2, 1.0), interpolation="bilinear"),
        dict(type="RandomFlip"),
    ]
)
test_dataloader = dict(batch_size=500, num_workers=8, dataset=dict(**_data, split="test"))
test_evaluator = dict(type="Accuracy", topk=(1, 5))
