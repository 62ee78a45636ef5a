"""CDFSL-V (ICCV 2023), first stage: VideoMAE ViT-S on Kinetics-364 and HMDB51, 400 epochs of batches of 32.

The target is HMDB51: 51 classes, 3,570 train and 1,530 test clips in the released lists. Its labels are for the
episodes alone. data/kinetics364: see _base_/cdfsl_v; data/hmdb51 holds videos/ and testTrainMulti_7030_splits/. Not
run here; the paper names no hardware. The second stage starts from it: video/cdfsl-v_vit-small_kinetics364-hmdb51.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_pretrain import *

_target = dict(type="HMDB51", root="data/hmdb51")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
