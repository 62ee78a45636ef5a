"""Surgical feedback from video and text (ML4H 2024) on a user's own table: columns, clips, and how heads are trained.

data/surgical_feedback/feedback.csv has a line for every remark: ``clip id`` (path of the clip), ``dialogue``
(transcript), ``trainee_behavior_change`` (0 or 1) and ``surgery``, by which the folds are divided.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_table = dict(
    type="VideoTable",
    table="data/surgical_feedback/feedback.csv",
    path="clip id",
    label="trainee_behavior_change",
    group="surgery",
    text="dialogue",
    remove_names=[],  # names of the people in the room
    missing="skip",  # counted and reported
    missing_text="keep",
    on_error="skip",  # likewise: never replaced by clips of zeros
    frames=16,
    sampling="whole",  # floor(linspace(0, n - 1, 16))
    size=224,
)
_preprocess = dict(type="VideoPreprocess", size=(224, 224), frames=16)

train_dataloader = dict(
    batch_size=16,
    num_workers=10,
    sampler=dict(type="BalancedSampler"),  # of the training clips alone
    dataset=dict(**_table, split="train"),
)
val_dataloader = dict(batch_size=16, num_workers=10, dataset=dict(**_table, split="val"))
test_dataloader = dict(batch_size=16, num_workers=10, dataset=dict(**_table, split="test"))
val_evaluator = dict(type="AUROC")
test_evaluator = [dict(type="AUROC"), dict(type="BinaryScores")]
train_cfg = dict(type="TrainLoop", max_epochs=10)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
