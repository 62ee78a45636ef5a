"""PRC, the first stage of CALICO (ICLR 2024), on nuScenes: 1024 + 1024 points, 20 epochs.

Aims at 53.1 NDS of a LiDAR detector tuned on a tenth of the labels (alpha 0.5). Temperature, projector, optimiser and
what becomes of the ground are not published; here they are BEVFusion's and PointContrast's. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.bevfusion_branches import lidar as _lidar
    from .._base_.nuscenes import *

model = dict(
    type="Pretrainer",
    backbone=_lidar,
    pretexts=dict(prc=dict(type="PointRegionContrast", rich=1024, poor=1024, alpha=0.5, temperature=0.07)),
)
train_dataloader["dataset"].update(
    cameras=False,
    transforms=[
        dict(type="FindRegions", eps=0.75, min_points=5, sensor_height=1.84, cache="data/nuscenes_regions"),
        dict(type="TwoViews", rotation=90.0, scale=(0.9, 1.1), flip_x=0.5, flip_y=0.5),
    ],
)
