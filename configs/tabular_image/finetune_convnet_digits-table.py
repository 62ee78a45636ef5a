"""Fine-tune the encoder of tip_convnet_digits-table on the digits' 60 % training rows (embedded, no download).

perception train tabular_image/finetune_convnet_digits-table --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_digits_table import *
    from .._base_.tip_small_finetune import *

model = dict(type="Classifier", backbone=model["backbone"], num_classes=10, label_smoothing=0.1)
train_dataloader["dataset"].update(
    type="DigitsTable",
    transforms=[
        dict(type="RandomCropPad", padding=1),
        dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
    ],
)
val_dataloader["dataset"].update(type="DigitsTable")
test_dataloader["dataset"].update(type="DigitsTable")
