"""ResNet-50 on CIFAR-100 by cross-entropy alone, what SupCon (NeurIPS 2020) is held against: 75.3 %.

Batch 1,024, and 500 epochs as in the public code. Written for one GPU of 24 GB (activations take 13 GB in bfloat16, by
count); not run here. configs/_base_/resnet50_cifar100.py tells where the data lies.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.resnet50_cifar100_task import *

train_cfg = dict(type="TrainLoop", max_epochs=500)
optim_wrapper["optimizer"].update(lr=0.8)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=10, min_lr=0.8e-3)
