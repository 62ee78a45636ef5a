"""RAD of CALICO (ICLR 2024) on embedded driving scenes: a camera branch learns the map of the LiDAR branch.

It starts from the run of driving/prc_pillars_scenes, or from another one by
--set model.pretexts.rad.teacher.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.lift_splat_scenes import *

model.update(
    type="Pretrainer",
    pretexts=dict(
        rad=dict(
            type="RegionDistillation",
            teacher=dict(init_from="runs/driving/prc_pillars_scenes"),
            rich=256,
            poor=256,
            # A short training needs all four; the paper's defaults give a third of the mAP.
            space="map",
            hidden_dim=0,
            negatives="batch",
            poor_weight=0.5,
        )
    ),
)
