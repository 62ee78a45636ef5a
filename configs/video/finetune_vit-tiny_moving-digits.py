"""Fine-tune the ViT of videomae_vit-tiny_moving-digits on few labels: 10 moving digits a class (embedded, no download).

perception train video/finetune_vit-tiny_moving-digits --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch; .per_class of the training set chooses how many clips.
Mean of the cubes, a new norm and a linear layer, as in VideoMAE. About a minute of one CPU core. Three seeds give
61.2 +- 6.8 % from pre-training and 30.2 +- 2.1 % from scratch; chance is 25 %.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.video_tiny import *

_clips = dict(type="MovingDigits", task="direction", texture=40.0)

model = dict(
    type="Classifier",
    backbone=dict(_encoder, drop_path_rate=0.1),
    num_classes=4,
    feature="mean",
    norm="layer",
    label_smoothing=0.1,
)

train_dataloader = dict(batch_size=20, num_workers=0, dataset=dict(**_clips, split="train", per_class=10))
val_dataloader = dict(batch_size=200, dataset=dict(**_clips, split="val"))
test_dataloader = dict(batch_size=200, dataset=dict(**_clips, split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_iters=300, val_interval=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    constructor="LayerDecay",
    paramwise_cfg=dict(decay=0.75),
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=30)
