"""SupCon (NeurIPS 2020) of 4,500 labelled CIFAR-10 images with a small convolutional network.

The labels are those that the probes use, too; what a network learns without any is image/mae_vit-tiny_cifar-small.
One seed gives 61.1 % linear and 54.6 % kNN on 1,000 test images; the untrained network 33.6 and 28.3 %, raw pixels
36.5 and 37.6 %. About two minutes of one CPU core.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_mean, _std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)  # of CIFAR-10

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="ConvNet",
        widths=(32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        preprocess=dict(type="ImagePreprocess", size=32, mean=_mean, std=_std),
    ),
    pretexts=dict(
        supcon=dict(type="SupervisedContrast", options=dict(temperature=0.1), hidden_dim=256, projection_dim=128)
    ),
)

train_dataloader = dict(
    batch_size=100,
    num_workers=0,  # the images lie in memory
    dataset=dict(
        type="CIFARSmall",
        split="train",
        transforms=[
            dict(
                type="MultiCrop",
                size=32,
                local_views=0,
                scale=(0.5, 1.0),
                interpolation="bilinear",
                turn=False,
                # Milder than in the paper: in 900 steps there is less to become indifferent to.
                brightness=0.2,
                contrast=0.2,
                saturation=0.2,
                hue=0.05,
                grayscale=0.1,
            )
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=20)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    clip_grad=3.0,
    constructor="LayerDecay",  # no decay of biases and norms
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.04),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=1, min_lr=0.0, by_step=True)

evaluation = dict(
    train=dict(type="CIFARSmall", split="train"),
    val=dict(type="CIFARSmall", split="val"),
    test=dict(type="CIFARSmall", split="test"),
    protocols=dict(
        linear=dict(type="LinearLBFGS", refit=True),
        knn=dict(type="KNN", k=20, temperature=0.07, refit=True),
    ),
)
