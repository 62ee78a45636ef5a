"""CDFSL-V (ICCV 2023), second stage: Kinetics-364 with labels, RareAct without; 200 epochs of batches of 16 + 16.

perception train video/cdfsl-v_vit-small_kinetics364-rareact --set model.backbone.init_from=RUN starts from a run of
videomae_vit-small_kinetics364-rareact. The paper's figure for 5-way 5-shot episodes is 49.80 %; if its test script
made it, it compares with legacy_accuracy, not with accuracy (see _base_/cdfsl_v). data/rareact/list.csv has the
columns path, label and split; set first_label=1 if labels are numbers from 1. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_curriculum import *

_target = dict(type="VideoManifest", path="data/rareact/list.csv")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
