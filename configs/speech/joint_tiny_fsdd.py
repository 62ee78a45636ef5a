"""Regime C of language varieties on digits of an unseen speaker (FSDD): cross-entropy and multi-similarity together.

"Speech Analysis of Language Varieties in Italy" (2024) found this the best of its regimes; the weight is ours.
Compare with speech/ce_tiny_fsdd: model.weight=0 is that to the last bit.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_unseen_speakers_task import *

model.update(type="ContrastiveClassifier", weight=0.5, loss="multi-similarity", projection_dim=64)
