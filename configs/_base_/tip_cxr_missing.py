"""The small TIP on cxr_missing: 269 radiographs, one grey band, 16 columns of which 0 to 100 % of cells are missing."""

from mmengine.config import read_base

with read_base():
    from .tip_small import *

_image = dict(size=64, bands=("grey",), mean=(0.4835,), std=(0.2352,))  # of the training images
model["backbone"]["preprocess"].update(**_image, fit=dict(type="CXRMissing", split="train"))
model["backbone"]["image_backbone"].update(in_channels=1, preprocess=dict(type="ImagePreprocess", **_image))
train_dataloader.update(batch_size=32)
train_dataloader["dataset"].update(type="CXRMissing")
