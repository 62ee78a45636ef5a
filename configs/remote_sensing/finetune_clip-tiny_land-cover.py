"""Fine-tune the image tower of clip_tiny_land-cover on 216 labelled tiles, a sixth of its training images (embedded).

perception train remote_sensing/finetune_clip-tiny_land-cover --set model.backbone.init_from=RUN
starts from a pre-training run, without init_from from scratch. The text tower is neither used nor changed, and stays in
checkpoints and exports.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_tiny import *

_backbone = model["backbone"]
_backbone["preprocess"].update(mean=(0.5375, 0.5476, 0.4534), std=(0.2360, 0.1871, 0.2167))  # of train
_backbone["preprocess"]["tokenizer"].update(fit=dict(type="LandCover", split="train"), context_length=32)

model = dict(type="Classifier", backbone=_backbone, num_classes=12, label_smoothing=0.1)

train_dataloader = dict(
    batch_size=54,
    num_workers=0,
    dataset=dict(
        type="LandCover",
        split="train",
        count=216,
        transforms=[
            dict(type="MultiCrop", size=64, global_views=1, local_views=0, scale=(0.7, 1.0)),
        ],
    ),
)
val_dataloader = dict(batch_size=216, dataset=dict(type="LandCover", split="val"))
test_dataloader = dict(batch_size=432, dataset=dict(type="LandCover", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_epochs=40, val_interval=10)  # 160 steps
optim_wrapper.update(paramwise_cfg=dict(decay=0.75))
param_scheduler.update(warmup_steps=16)
