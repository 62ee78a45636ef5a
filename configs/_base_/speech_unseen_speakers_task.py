"""The classifier of speech_unseen_speakers and its test on all clips of the unseen speaker."""

from mmengine.config import read_base

with read_base():
    from .speech_unseen_speakers import *

model = dict(type="Classifier", backbone=_backbone, num_classes=10)
test_dataloader = dict(
    batch_size=50, dataset=dict(type="FSDD", split="test", held_out_speaker=_unseen, sample_rate=_rate)
)
test_evaluator = [dict(type="Accuracy"), dict(type="MacroF1")]
train_cfg = dict(type="TrainLoop", max_epochs=40)
