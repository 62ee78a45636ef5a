"""DAFT (NeuroImage 2022) as TIP compares with it: the table scales and shifts the image's channels; fashion24."""

from mmengine.config import read_base

with read_base():
    from .finetune_convnet_fashion24 import *

model["backbone"] = dict(
    type="TableImageFusion",
    fusion="daft",
    image_backbone=model["backbone"]["image_backbone"],
    table_backbone=dict(type="TableMLP", embed_dim=128, depth=0, impute="mode"),
    preprocess=model["backbone"]["preprocess"],
)
model = dict(type="Classifier", backbone=model["backbone"], num_classes=24, label_smoothing=0.1)
