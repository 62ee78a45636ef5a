"""CenterPoint on the camera branch of rad_lift-splat_scenes, from scratch or from a pre-training run.

model.frozen=True trains the head alone, which tells what the branch has learnt.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.centerpoint_scenes import *
    from .._base_.lift_splat_scenes import model as _lift_splat

model.update(_lift_splat)
