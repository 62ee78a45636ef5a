"""RAD of CALICO (ICLR 2024) on embedded driving scenes: a camera branch learns the map of the LiDAR branch.

It starts from the run of driving/prc_pillars_scenes, or from another one by
--set model.pretexts.rad.teacher.init_from=RUN. The teacher should be well trained: README.md has figures with
perception train driving/prc_pillars_scenes --set train_dataloader.dataset.count=600 --out runs/driving/prc-600
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
            # What a short training needs: with the defaults the branch gives a third of the mAP.
            space="map",
            hidden_dim=0,
            negatives="batch",
            anchors="all",  # half of the points are drawn from regions
        )
    ),
)
