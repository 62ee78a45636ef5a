"""SupCon's public protocol on CIFAR-100 (NeurIPS 2020): ResNet-50 with the stem for 32 pixels, all 50,000 images.

data/cifar100 holds cifar-100-python. To fetch it:
python -c "from perception.datasets.cifar100 import CIFAR100; CIFAR100('data/cifar100', 'test', download=True)"
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_data = dict(type="CIFAR100", root="data/cifar100")
_backbone = dict(
    type="TimmModel",
    name="resnet50",
    small_images=True,
    preprocess=dict(
        type="ImagePreprocess",
        size=32,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        interpolation="bilinear",
    ),
)
train_dataloader = dict(
    batch_size=1024,
    num_workers=8,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(**_data, split="train50000"),
)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="SGD", momentum=0.9, weight_decay=1e-4),  # decays norms and biases, too
)
