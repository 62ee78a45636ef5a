"""Fine-tune the network of simclr_convnet_eurosat-mini on labels of EuroSAT: 600 tiles, or the first few a class.

perception train remote_sensing/finetune_convnet_eurosat-mini --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch; .per_class of the training set takes fewer labels.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_mean, _std = (0.34526, 0.38081, 0.41008), (0.20229, 0.13864, 0.11738)  # of the training tiles

model = dict(
    type="Classifier",
    backbone=dict(
        type="ConvNet",
        widths=(32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        preprocess=dict(type="ImagePreprocess", size=64, mean=_mean, std=_std),
    ),
    num_classes=10,
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=50,
    num_workers=0,  # the tiles lie in memory
    dataset=dict(
        type="EuroSATMini",
        split="train",
        transforms=[
            dict(
                type="MultiCrop",
                size=64,
                global_views=1,
                local_views=0,
                scale=(0.5, 1.0),
                interpolation="bilinear",
                brightness=0.15,
                contrast=0.15,
                saturation=0.15,
                band_shift=6.0,
                jitter_probability=1.0,
            )
        ],
    ),
)
val_dataloader = dict(batch_size=100, dataset=dict(type="EuroSATMini", split="val"))
test_dataloader = dict(batch_size=300, dataset=dict(type="EuroSATMini", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_iters=400, val_interval=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    clip_grad=3.0,
    constructor="LayerDecay",  # no decay of biases and norms
    paramwise_cfg=dict(decay=0.75),
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=40, min_lr=0.0)
