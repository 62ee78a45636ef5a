"""Fine-tune the encoder of tip_convnet_cxr-missing: is the finding COVID? For tests only, no diagnostic claim.

perception train tabular_image/finetune_convnet_cxr-missing --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_cxr_missing import *
    from .._base_.tip_small_finetune import *

model = dict(type="EnsembleClassifier", backbone=model["backbone"], num_classes=2, label_smoothing=0.1)
train_dataloader.update(batch_size=32)
train_dataloader["dataset"].update(
    type="CXRMissing",
    transforms=[
        dict(type="RandomResizedCrop", size=64, scale=(0.7, 1.0), interpolation="bilinear"),
        dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
    ],
)
val_dataloader["dataset"].update(type="CXRMissing")
test_dataloader["dataset"].update(type="CXRMissing")
test_evaluator = [dict(type="Accuracy"), dict(type="MacroF1"), dict(type="AUROC")]
train_cfg = dict(type="TrainLoop", max_epochs=20, val_interval=5)
