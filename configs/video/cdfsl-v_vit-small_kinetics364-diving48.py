"""CDFSL-V (ICCV 2023), second stage: Kinetics-364 with labels, Diving48 without; 200 epochs of batches of 16 + 16.

perception train video/cdfsl-v_vit-small_kinetics364-diving48 --set model.backbone.init_from=RUN starts from a run of
videomae_vit-small_kinetics364-diving48. The paper's figure for 5-way 5-shot episodes is 17.84 %; if its test script
made it, it compares with legacy_accuracy, not with accuracy (see _base_/cdfsl_v). data/diving48 holds rgb/ and the
lists of version 2. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.cdfsl_v_curriculum import *

_target = dict(type="Diving48", root="data/diving48")
train_dataloader["dataset"]["datasets"][1].update(_target)
evaluation["test"].update(_target)
