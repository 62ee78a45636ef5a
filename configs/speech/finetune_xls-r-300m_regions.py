"""Regime B of language varieties (LREC-COLING 2024), second step: cross-entropy from the contrast of the first.

perception train speech/finetune_xls-r-300m_regions --set model.backbone.init_from=runs/speech/supcon_xls-r-300m_regions
The figure it is compared with is regime C's. One GPU of 40 GB, five seeds: --seeds 0 1 2 3 4; not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_regions_task import *

model["backbone"].update(pretrained=None)  # the first step has them
