"""Masked reconstruction of table cells without images (the table part of TIP, ECCV 2024) on fashion24.

A run of it starts the table branch: model.backbone.table_backbone.init_from of finetune_convnet_fashion24.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_fashion24 import *

_record = model["backbone"]["preprocess"]
model = dict(
    type="Pretrainer",
    backbone=dict(**model["backbone"]["table_backbone"], preprocess=_record),
    pretexts=dict(tip=dict(type="TIP", losses=("mtr",), mask_ratio=0.5)),
)
train_dataloader["dataset"].update(only="table", transforms=[])
train_cfg = dict(type="TrainLoop", max_epochs=60)

evaluation = dict(
    train=dict(type="Fashion24", split="train", only="table"),
    val=dict(type="Fashion24", split="val", only="table"),
    test=dict(type="Fashion24", split="test", only="table"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)
