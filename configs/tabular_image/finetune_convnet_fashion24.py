"""Fine-tune the encoder of tip_convnet_fashion24 on the labels of 2,833 products: 24 article types.

perception train tabular_image/finetune_convnet_fashion24 --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch. Cells are taken away by
--set train_dataloader.dataset.missing="dict(strategy='RVM', rate=0.3)", likewise of val_ and test_dataloader.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_fashion24 import *
    from .._base_.tip_small_finetune import *

model = dict(
    type="EnsembleClassifier",
    backbone=model["backbone"],
    num_classes=24,
    features=("multimodal", "image", "table"),
    label_smoothing=0.1,
)
train_dataloader["dataset"].update(type="Fashion24")
val_dataloader["dataset"].update(type="Fashion24")
test_dataloader["dataset"].update(type="Fashion24")
