"""The small TIP on leaf99: silhouettes of 99 species, one grey band, the first 16 of 64 margin columns."""

from mmengine.config import read_base

with read_base():
    from .tip_small import *

_image = dict(size=64, bands=("grey",), mean=(0.2796,), std=(0.4410,))  # of the training images
model["backbone"]["preprocess"].update(**_image, fit=dict(type="Leaf99", split="train"))
model["backbone"]["image_backbone"].update(in_channels=1, preprocess=dict(type="ImagePreprocess", **_image))
train_dataloader["dataset"].update(type="Leaf99")
