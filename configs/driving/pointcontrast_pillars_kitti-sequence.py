"""PointContrast (ECCV 2020) on the same sweeps: points without regions, what PRC is held against."""

from mmengine.config import read_base

with read_base():
    from .._base_.pillars_kitti_sequence import *

model.update(pretexts=dict(nce=dict(type="PointContrast", points=1024, temperature=0.07, projection_dim=64)))
