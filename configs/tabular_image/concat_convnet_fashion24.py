"""The baseline of TIP that concatenates image and table features, on fashion24.

Missing cells are filled in with the mean and the most frequent category of the training rows.
"""

from mmengine.config import read_base

with read_base():
    from .finetune_convnet_fashion24 import *

model["backbone"] = dict(
    type="TableImageFusion",
    fusion="concat",
    image_backbone=model["backbone"]["image_backbone"],
    table_backbone=dict(type="TableMLP", embed_dim=128, impute="mode"),
    preprocess=model["backbone"]["preprocess"],
)
model = dict(type="Classifier", backbone=model["backbone"], num_classes=24, label_smoothing=0.1)
