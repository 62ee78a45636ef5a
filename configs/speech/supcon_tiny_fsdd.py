"""Regime B of language varieties, first step: supervised contrast (NeurIPS 2020) of digits, one speaker unheard (FSDD).

Start speech/finetune_supcon-tiny_fsdd from it, with the same held_out_speaker.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_unseen_speakers import *

model = dict(
    type="Pretrainer",
    backbone=_backbone,
    pretexts=dict(supcon=dict(type="SupervisedContrast", options=dict(temperature=0.1), projection_dim=64)),
)
train_cfg = dict(type="TrainLoop", max_epochs=40)
evaluation = dict(
    train=dict(type="FSDD", split="train", held_out_speaker=_unseen, sample_rate=_rate),
    test=dict(type="FSDD", split="test", held_out_speaker=_unseen, sample_rate=_rate),
    protocols=dict(linear=dict(type="LinearLBFGS", penalty=1e-3), knn=dict(type="KNN", k=20)),
)
