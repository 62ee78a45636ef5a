"""Fine-tune the encoder of tip_convnet_leaf99 on six leaves of each of 99 species.

perception train tabular_image/finetune_convnet_leaf99 --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.tip_leaf99 import *
    from .._base_.tip_small_finetune import *

model = dict(type="EnsembleClassifier", backbone=model["backbone"], num_classes=99, label_smoothing=0.1)
train_dataloader["dataset"].update(
    type="Leaf99",
    transforms=[
        dict(type="MultiCrop", size=64, global_views=1, local_views=0, scale=(0.8, 1.0), interpolation="bilinear"),
        dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
    ],
)
val_dataloader["dataset"].update(type="Leaf99")
test_dataloader["dataset"].update(type="Leaf99")
train_cfg = dict(type="TrainLoop", max_epochs=100, val_interval=10)  # 1,000 steps
