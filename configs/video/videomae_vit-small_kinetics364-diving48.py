"""CDFSL-V (ICCV 2023), first stage: VideoMAE ViT-S on Kinetics-364 and Diving48, 400 epochs of batches of 32.

The target is Diving48: 48 classes, 15,943 train and 2,096 test clips in the released lists. Its labels are for the
episodes alone. data/kinetics364: see _base_/cdfsl_v; data/diving48 holds rgb/ and the lists of version 2. Not run
here; the paper names no hardware. The second stage starts from it: video/cdfsl-v_vit-small_kinetics364-diving48.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_pretrain import *

_target = dict(type="Diving48", root="data/diving48")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
