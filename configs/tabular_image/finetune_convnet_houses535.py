"""Fine-tune the encoder of tip_convnet_houses535: in which quartile is the price of a house? 321 labels.

perception train tabular_image/finetune_convnet_houses535 --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_houses535 import *
    from .._base_.tip_small_finetune import *

model = dict(type="EnsembleClassifier", backbone=model["backbone"], num_classes=4, label_smoothing=0.1)
train_dataloader.update(batch_size=32)
train_dataloader["dataset"].update(
    type="Houses535",
    size=64,
    transforms=[
        dict(type="RandomCropPad", padding=4),
        dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
    ],
)
val_dataloader["dataset"].update(type="Houses535", size=64)
test_dataloader["dataset"].update(type="Houses535", size=64)
train_cfg = dict(type="TrainLoop", max_epochs=40, val_interval=5)
