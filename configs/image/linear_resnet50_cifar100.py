"""The linear classifier on a frozen ResNet-50 of image/supcon_resnet50_cifar100: 76.5 % on CIFAR-100 (NeurIPS 2020).

perception train image/linear_resnet50_cifar100 --set model.backbone.init_from=RUN
100 epochs at batch 512; after SimCLR, optim_wrapper.optimizer.lr=1 (70.7 %). Without init_from it measures a network
that was never trained. Written for one GPU of 16 GB; not run here. configs/_base_/resnet50_cifar100.py tells where the
data lies.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.resnet50_cifar100_task import *

model.update(frozen=True)
train_dataloader.update(batch_size=512)
train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper["optimizer"].update(lr=5.0, weight_decay=0.0)
param_scheduler = dict(type="MultiStepLR", milestones=[60, 75, 90], gamma=0.2)
