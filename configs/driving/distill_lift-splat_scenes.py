"""Plain distillation of features, in the manner of BEVDistill (ICLR 2023): what RAD is held against.

It starts from the run of driving/prc_pillars_scenes, as rad_lift-splat_scenes does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.lift_splat_scenes import *

model.update(
    type="Pretrainer",
    pretexts=dict(
        distill=dict(type="FeatureDistillation", teacher=dict(init_from="runs/driving/prc_pillars_scenes"), points=512)
    ),
)
