"""The image branch of finetune_convnet_fashion24 alone, from scratch or, with init_from, from a run of TIP."""

from mmengine.config import read_base

with read_base():
    from .finetune_convnet_fashion24 import *

model = dict(type="Classifier", backbone=model["backbone"], num_classes=24, feature="image", label_smoothing=0.1)
