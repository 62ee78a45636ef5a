"""CDFSL-V (ICCV 2023), second stage: Kinetics-364 with labels, UCF101 without; 200 epochs of batches of 16 + 16.

perception train video/cdfsl-v_vit-small_kinetics364-ucf101 --set model.backbone.init_from=RUN starts from a run of
videomae_vit-small_kinetics364-ucf101. The paper's figure for 5-way 5-shot episodes is 65.42 %; if its test script
made it, it compares with legacy_accuracy, not with accuracy (see _base_/cdfsl_v). data/ucf101 holds UCF-101/ and
ucfTrainTestlist/. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_curriculum import *

_target = dict(type="UCF101", root="data/ucf101")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
