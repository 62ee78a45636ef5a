"""PRC of CALICO (ICLR 2024) on embedded driving scenes: no download, 40 seconds of one CPU core with the evaluation.

Probes ask the map what stands at a place: car, truck, pedestrian or something else. Three seeds give 78.6 % in kNN and
81.1 linear, the untrained encoder 73.0 and 75.8. Statistics of the points around a place are better than both, with
86.6 and 88.9 %: this shows that the objective teaches the map something, not that a map is needed here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.pillars_scenes import *

_regions = dict(type="FindRegions", sensor_height=1.8)
_views = dict(type="TwoViews", rotation=90.0, scale=(0.9, 1.1), flip_y=0.5, drop=(0.0, 0.5))
_places = [dict(type="QueryBoxes", background=6, min_height=0.3, extent=15.0)]

model.update(
    type="Pretrainer",
    pretexts=dict(prc=dict(type="PointRegionContrast", rich=256, poor=256, projection_dim=64)),
)
train_dataloader["dataset"].update(count=60, transforms=[_regions, _views])
train_cfg = dict(type="TrainLoop", max_epochs=10)  # 150 steps

evaluation = dict(
    train=dict(type="DrivingScenes", split="train", count=60, cameras=False, transforms=_places),
    val=dict(type="DrivingScenes", split="val", count=20, cameras=False, transforms=_places),
    test=dict(type="DrivingScenes", split="test", count=60, cameras=False, transforms=_places),
    batch_size=20,
    protocols=dict(
        linear=dict(type="LinearLBFGS"),
        knn=dict(type="KNN", k=20, temperature=0.07),
        regions=dict(
            type="RegionRetrieval",
            points=256,
            views=_views,
            dataset=dict(type="DrivingScenes", split="test", count=20, cameras=False, transforms=[_regions]),
        ),
    ),
)

demo = dict(title="driving", protocol="knn")
