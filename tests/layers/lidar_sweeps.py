"""Sweeps for the tests of LiDAR layers: random ones, and the real ones where the data are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.grid import BEVGrid

SMALL = BEVGrid.from_range((-2.0, -1.0, -1.0, 2.0, 2.0, 1.0), (0.5, 0.5))
KITTI = BEVGrid.from_range((0, -39.68, -3, 69.12, 39.68, 1), (0.16, 0.16))
NUSCENES = BEVGrid.from_range((-51.2, -51.2, -5, 51.2, 51.2, 3), (0.2, 0.2))


def random_sweeps(*sizes, seed=0, columns=4, dtype=torch.float32):
    """Points on and around ``SMALL``, so that some of them lie outside."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.tensor([4.4, 3.4, 2.2, *[1.0] * (columns - 3)], dtype=dtype)
    shift = torch.tensor([-2.2, -1.2, -1.1, *[0.0] * (columns - 3)], dtype=dtype)
    return [torch.rand(n, columns, generator=random, dtype=dtype) * scale + shift for n in sizes]


def kitti_sweep(frame="000008"):
    return _read(f"bev/kitti/training/velodyne_fov/{frame}.bin", 4)


def nuscenes_sweep():
    """Column 5 of the file is the ring; a key frame's time lag is 0."""
    points = _read("bev/nuscenes_frame/LIDAR_TOP.bin", 5)
    points[:, 4] = 0
    return points


def _read(name, columns):
    root = os.environ.get("PERCEPTION_DATA")
    path = Path(root or ".") / name
    if root is None or not path.is_file():
        pytest.skip(f"PERCEPTION_DATA holds no {name}")
    return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, columns))


def group_one_by_one(sweeps, grid, max_points, max_voxels, layers=1):
    """Hard voxels by the definition: {(sweep, z, y, x): row numbers}, in the order of their opening."""
    voxels = {}
    for number, sweep in enumerate(sweeps):
        opened = 0
        low = np.array([grid.x[0], grid.y[0], grid.z[0]], np.float32)
        cell = np.array([*grid.cell, (grid.z[1] - grid.z[0]) / layers], np.float32)
        cells = np.floor((sweep[:, :3].numpy() - low) / cell)
        for row, (x, y, z) in enumerate(cells):
            if not (0 <= x < grid.nx and 0 <= y < grid.ny and 0 <= z < layers):
                continue
            key = (number, int(z), int(y), int(x))
            if key not in voxels:
                if opened >= max_voxels:
                    continue
                opened += 1
                voxels[key] = []
            if len(voxels[key]) < max_points:
                voxels[key].append(row)
    return voxels
