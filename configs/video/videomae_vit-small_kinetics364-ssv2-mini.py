"""CDFSL-V (ICCV 2023), first stage: VideoMAE ViT-S on Kinetics-364 and SSv2, 400 epochs of batches of 32.

The target is Something-Something V2, a part with 87 classes, 14,005 test clips in the released lists. Its labels are
for the episodes alone. data/kinetics364: see _base_/cdfsl_v; data/ssv2-mini/list.csv has the columns path, label and
split; set first_label=1 if labels are numbers from 1. Not run here; the paper names no hardware. The second stage
starts from it: video/cdfsl-v_vit-small_kinetics364-ssv2-mini.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_pretrain import *

_target = dict(type="VideoManifest", path="data/ssv2-mini/list.csv")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
