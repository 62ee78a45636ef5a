"""Regime B of language varieties, second step: cross-entropy from the weights of speech/supcon_tiny_fsdd (FSDD).

perception train speech/finetune_supcon-tiny_fsdd --set model.backbone.init_from=runs/speech/supcon_tiny_fsdd
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_unseen_speakers_task import *

train_cfg.update(max_epochs=20)
optim_wrapper.update(optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05))
