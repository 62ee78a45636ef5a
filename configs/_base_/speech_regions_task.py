"""The classifier of speech_regions and its test on whole clips of unheard speakers; it stops by macro-F1."""

from mmengine.config import read_base

with read_base():
    from .speech_regions import *

model = dict(type="Classifier", backbone=_encoder, num_classes=_regions)
val_dataloader = dict(batch_size=8, num_workers=6, dataset=dict(**_clips, split="val"))
test_dataloader = dict(batch_size=8, num_workers=6, dataset=dict(**_clips, split="test"))
val_evaluator = dict(type="MacroF1")
test_evaluator = [dict(type="Accuracy"), dict(type="MacroF1")]
default_hooks.update(checkpoint=dict(type="SafeCheckpointHook", save_best="f1/macro"))
custom_hooks = [dict(type="EarlyStopping", monitor="f1/macro", patience=3)]
