"""RAD, the second stage of CALICO (ICLR 2024), on nuScenes: a Swin-T camera branch learns the map of the LiDAR branch.

The teacher is the run of driving/calico-prc_pillars_nuscenes. Image augmentation is not published; it is BEVFusion's.
Together they aim at 47.9 NDS and 41.7 mAP with a twentieth of the labels. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.bevfusion_branches import camera as _camera
    from .._base_.nuscenes import *

model = dict(
    type="Pretrainer",
    backbone=_camera,
    pretexts=dict(
        rad=dict(
            type="RegionDistillation",
            teacher=dict(init_from="runs/driving/calico-prc_pillars_nuscenes"),
            rich=1024,
            poor=1024,
            temperature=0.07,
        )
    ),
)
train_dataloader["dataset"].update(
    transforms=[
        dict(type="FindRegions", eps=0.75, min_points=5, sensor_height=1.84, cache="data/nuscenes_regions"),
        dict(type="AugmentPoints", rotation=90.0, scale=(0.9, 1.1), translation=0.0),
        dict(type="AugmentCameras", size=(256, 704), scale=(0.38, 0.55), rotation=5.4, flip=0.5),
    ],
)
