"""The small TIP on houses535: montages of four views, zip code, bedrooms, bathrooms and area."""

from mmengine.config import read_base

with read_base():
    from .tip_small import *

model["backbone"]["preprocess"].update(
    mean=(0.5656, 0.5278, 0.4801),  # of the training images
    std=(0.2145, 0.2168, 0.2457),
    fit=dict(type="Houses535", split="train"),
)
train_dataloader.update(batch_size=64)
train_dataloader["dataset"].update(type="Houses535", size=64)
