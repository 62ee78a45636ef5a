"""Regime B of language varieties (LREC-COLING 2024), first step: XLS-R 300M by contrast of regions, on your own table.

Then speech/finetune_xls-r-300m_regions starts from it. To be tried: model.pretexts.supcon.loss supcon, eps-supinfonce,
multi-similarity, triplet (with another loss, model.pretexts.supcon.options={}). One GPU of 40 GB; not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_regions import *

model = dict(
    type="Pretrainer",
    backbone=_encoder,
    pretexts=dict(
        supcon=dict(type="SupervisedContrast", loss="supcon", options=dict(temperature=0.1), projection_dim=128)
    ),
)
train_cfg.pop("val_interval")
evaluation = dict(
    train=dict(**_clips, split="train"),
    val=dict(**_clips, split="val"),
    test=dict(**_clips, split="test"),
    batch_size=8,
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20)),
)
