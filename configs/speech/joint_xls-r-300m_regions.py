"""Regime C of language varieties (LREC-COLING 2024): cross-entropy and multi-similarity together, on your own table.

The paper's best: macro-F1 of about 51 % on 17 regions of VIVALDI, where chance is 5.9 % accuracy. Its weight and the
loss's values are not told. To be tried: model.weight 0.1, 0.5, 1 by model.loss supcon, eps-supinfonce,
multi-similarity, triplet (with another loss, model.options={}). One GPU of 40 GB, five seeds: --seeds 0 1 2 3 4; not
run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_regions_task import *

model.update(
    type="ContrastiveClassifier",
    weight=0.5,
    loss="multi-similarity",
    options=dict(alpha=2.0, beta=50.0, base=0.5),
    projection_dim=128,
)
