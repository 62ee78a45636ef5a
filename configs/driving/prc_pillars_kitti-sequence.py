"""PRC of CALICO (ICLR 2024) on 12 sweeps of a KITTI drive, judged on the 4 that follow: two minutes on a CPU core.

Points of an object find it in another view of the sweep, and themselves within a metre. alpha=0 is RAPC alone, alpha=1
PLRC alone.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.pillars_kitti_sequence import *

model.update(
    pretexts=dict(
        prc=dict(type="PointRegionContrast", rich=512, poor=512, alpha=0.5, temperature=0.07, projection_dim=64)
    )
)
