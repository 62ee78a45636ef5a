"""Fine-tune the ViT of mae_vit-tiny_cifar-small on few labels: 5, 25 or 50 CIFAR-10 images a class.

perception train image/finetune_vit-tiny_cifar-small --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch; .per_class and .split_seed of the training set choose
the images. tools/low_label.py makes the whole table. The last weights are tested on 1,000 images, 500 others are for
validation; the number of steps is the same for every number of labels. About half a minute on two CPU cores.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_mean, _std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)  # of CIFAR-10

model = dict(
    type="Classifier",
    backbone=dict(
        type="ViT",
        image_size=32,
        patch_size=4,
        embed_dim=192,
        depth=4,
        num_heads=6,
        mlp_ratio=2.0,
        drop_path_rate=0.1,
        preprocess=dict(type="ImagePreprocess", size=(32, 32), mean=_mean, std=_std),
    ),
    num_classes=10,
    feature="norm-gap",
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=50,
    dataset=dict(
        type="CIFARSmall",
        split="lowshot",
        per_class=25,
        split_seed=0,
        transforms=[dict(type="RandomFlip"), dict(type="RandomCropPad", padding=4)],
    ),
)
val_dataloader = dict(batch_size=500, dataset=dict(type="CIFARSmall", split="val"))
test_dataloader = dict(batch_size=500, dataset=dict(type="CIFARSmall", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_iters=400, val_interval=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",
    paramwise_cfg=dict(decay=0.75),
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=40)
