"""Regime A of language varieties on digits of an unseen speaker (FSDD): cross-entropy alone.

perception train speech/ce_tiny_fsdd --set train_dataloader.dataset.held_out_speaker=theo
test_dataloader.dataset.held_out_speaker=theo leaves out another of the six.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_unseen_speakers_task import *
