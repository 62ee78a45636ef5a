"""Is a train moving, from the clip and from the words of its camera's place: video and text trained together.

perception train video/finetune_vit-tiny_railwagon4 --set model.backbone.init_from=RUN
starts from a run of video/videomae-ssl_vit-tiny_railwagon4, without init_from from scratch. One of five camera
locations is tested, the one after it validates: fold=0 of the three data sets is that split, 1 to 4 are the others.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.video_tiny import *

_table = dict(
    type="VideoTable",
    table="$PERCEPTION_DATA/video/railwagon4/manifest.csv",
    path="file",
    label="label",
    classes=dict(still=["bridge_down", "bridge_up", "no_action"], moving="train_in_out"),
    group="location",
    text=["place", "location"],
    frames=8,
    size=32,
    keep=True,
)

model = dict(
    type="FusionClassifier",
    backbone=_encoder,  # as video/videomae-ssl_vit-tiny_railwagon4
    branches=dict(video=[256, 128], text=[128, 64]),
    joint=[256, 128],
    text_encoder=dict(type="HashingTfidf", dim=384),
    freeze_encoder=False,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="BalancedSampler"),
    dataset=dict(**_table, split="train", sampling="uniform"),
)
val_dataloader = dict(batch_size=40, dataset=dict(**_table, split="val", sampling="whole"))
test_dataloader = dict(batch_size=40, dataset=dict(**_table, split="test", sampling="whole"))
val_evaluator = dict(type="AUROC", resamples=0)
test_evaluator = [dict(type="AUROC", resamples=0), dict(type="BinaryScores")]  # one location gives no interval
train_cfg = dict(type="TrainLoop", max_epochs=20)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=10)
