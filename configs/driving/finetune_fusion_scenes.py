"""CenterPoint on both branches, each from scratch or from a pre-training run of its own.

perception train driving/finetune_fusion_scenes --set
model.backbone.lidar.init_from=runs/driving/prc_pillars_scenes
model.backbone.camera.init_from=runs/driving/rad_lift-splat_scenes
"""

from mmengine.config import read_base

with read_base():
    from .._base_.centerpoint_scenes import *
    from .._base_.lift_splat_scenes import model as _lift_splat
    from .._base_.pillars_scenes import model as _pillars

model.update(
    backbone=dict(type="BEVFusion", lidar=_pillars["backbone"], camera=_lift_splat["backbone"], fused_channels=64)
)
