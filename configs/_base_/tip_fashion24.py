"""The small TIP on fashion24: 4,721 products of 24 types, five columns."""

from mmengine.config import read_base

with read_base():
    from .tip_small import *

model["backbone"]["preprocess"].update(
    mean=(0.8430, 0.8320, 0.8285),  # of the training images
    std=(0.2788, 0.2869, 0.2874),
    fit=dict(type="Fashion24", split="train"),
)
train_dataloader["dataset"].update(type="Fashion24")
