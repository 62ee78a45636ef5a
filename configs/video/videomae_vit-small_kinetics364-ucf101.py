"""CDFSL-V (ICCV 2023), first stage: VideoMAE ViT-S on Kinetics-364 and UCF101, 400 epochs of batches of 32.

The target is UCF101: 101 classes, 9,534 train and 3,783 test clips in the released lists. Its labels are for the
episodes alone. data/kinetics364: see _base_/cdfsl_v; data/ucf101 holds UCF-101/ and ucfTrainTestlist/. Not run here;
the paper names no hardware. The second stage starts from it: video/cdfsl-v_vit-small_kinetics364-ucf101.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_pretrain import *

_target = dict(type="UCF101", root="data/ucf101")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
