"""Small LiDAR backbones and sweeps that they read."""

import torch

from perception.backbones.pillars import PillarNet
from perception.backbones.voxelnet import VoxelNet

RANGE = (0.0, -8.0, -1.0, 16.0, 8.0, 3.0)


def record(**changes):
    return {"type": "DrivingPreprocess", "point_range": RANGE, **changes}


SMALL = dict(layers=(1, 1), strides=(2, 2), channels=(6, 8), scales=(1, 2), neck_channels=(5, 7), preprocess=record())


def pillars(**changes):
    torch.manual_seed(0)
    return PillarNet(**{**SMALL, "cell": (0.5, 0.5), "pillar_channels": (4,), **changes})


def voxels(**changes):
    torch.manual_seed(0)
    given = dict(cell=(0.25, 0.25, 0.5), encoder=((4, 4, 6), (6, 6)), encoder_channels=4)
    return VoxelNet(**{**SMALL, **given, **changes})


def sweeps(*sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([17.0, 17.0, 4.4, 1.0]), torch.tensor([-0.5, -8.5, -1.2, 0.0])
    return {"points": [torch.rand(n, 4, generator=random) * scale + shift for n in sizes]}
