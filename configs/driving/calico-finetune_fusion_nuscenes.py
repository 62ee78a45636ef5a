"""CenterPoint on both branches of CALICO (ICLR 2024), tuned with a share of nuScenes' labels: whole scenes, seed 0.

dataset.fraction is 0.05, 0.1, 0.2 or 0.5. CALICO has 47.9 / 41.7 (NDS / mAP) with 0.05, random branches of LiDAR alone
37.4 / 33.1. model.backbone.lidar.init_from and model.backbone.camera.init_from name the pre-training runs.
Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.bevfusion_branches import camera as _camera
    from .._base_.bevfusion_branches import lidar as _lidar
    from .._base_.centerpoint_nuscenes import *

model.update(backbone=dict(type="BEVFusion", lidar=_lidar, camera=_camera, fused_channels=256))
train_dataloader["dataset"].update(fraction=0.1)
train_dataloader["dataset"]["transforms"].append(
    dict(type="AugmentCameras", size=(256, 704), scale=(0.38, 0.55), rotation=5.4, flip=0.5)
)
_test_views = [dict(type="AugmentCameras", size=(256, 704), scale=(0.48, 0.48), rotation=0.0, flip=0.0, centre=True)]
val_dataloader["dataset"].update(transforms=_test_views)
test_dataloader["dataset"].update(transforms=_test_views)
