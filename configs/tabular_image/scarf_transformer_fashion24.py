"""SCARF (ICLR 2022) on the tables of fashion24: rows against their copies with 60 % of the cells replaced."""

from mmengine.config import read_base

with read_base():
    from .mtr_transformer_fashion24 import *

model["pretexts"] = dict(scarf=dict(type="SCARF", projection_dim=64, temperature=1.0))
train_dataloader["dataset"].update(transforms=[dict(type="CorruptTable", rate=0.6)])
