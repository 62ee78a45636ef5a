"""Regions of a 64-beam sweep: voxel-weighted clusters and the ground plane, against DBSCAN of scikit-learn."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

import numpy as np
from sklearn.cluster import DBSCAN

from perception.datasets.driving_rays import LidarModel
from perception.datasets.driving_world import build_world
from perception.datasets.kitti_raw import KITTISequence
from perception.errors import DataError
from perception.geometry.ground import ground_plane
from perception.geometry.regions import RegionSettings, find_regions

from .harness import Contender, Step, Target, compare

NAMES = ("perception", "scikit-learn on the same voxels", "scikit-learn on all points")
LIMIT_S, LIMIT_MIB = 1.0, 500
SETTINGS = RegionSettings(sensor_height=1.73)


@cache
def sweep() -> tuple[np.ndarray, str]:
    """(P, 3) float32 of the first sweep of the KITTI drive, or of made-up streets; and which."""
    try:
        return KITTISequence("train", cameras=False).sweep(0)[:, :3], "the first sweep of the KITTI drive"
    except DataError:
        world = build_world(np.random.default_rng(0), 60.0, 1.73)
        lidar = LidarModel(beams=64, azimuths=2000, reach=80.0)
        return lidar.sweep(world, np.random.default_rng(1))[:, :3], "a sweep of made-up streets"


def above_ground() -> np.ndarray:
    """Points that are clustered."""
    points = sweep()[0]
    height = ground_plane(points, SETTINGS.sensor_height, SETTINGS.ground_band).height(points)
    far = np.hypot(points[:, 0], points[:, 1]) >= SETTINGS.min_range
    return points[(height >= SETTINGS.ground_band) & far]


def build_ours(device: str) -> Step:
    """The whole way from a sweep to regions."""
    points = sweep()[0]
    return lambda: find_regions(points, SETTINGS)


def build_voxels(device: str) -> Step:
    """DBSCAN with the number of points of each voxel as its weight."""
    points = sweep()[0]

    def step() -> np.ndarray:
        own = above_ground()
        cell = np.floor((own - own.min(0)) / SETTINGS.thin).astype(np.int64)
        _, voxel, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        centre = np.stack([np.bincount(voxel.ravel(), own[:, k]) for k in range(3)], 1) / count[:, None]
        labels = DBSCAN(eps=SETTINGS.eps, min_samples=SETTINGS.min_points).fit(centre, sample_weight=count).labels_
        return labels[voxel.ravel()]

    assert len(points)
    return step


def build_points(device: str) -> Step:
    """DBSCAN as it stands."""
    assert len(sweep()[0])
    return lambda: DBSCAN(eps=SETTINGS.eps, min_samples=SETTINGS.min_points).fit(above_ground()).labels_


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--all-points``."""
    parser.add_argument("--all-points", action="store_true", help="also DBSCAN on all points, which takes gigabytes")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare, and tell whether a sweep takes less than a second and half a gigabyte."""
    contenders = [Contender(NAMES[0], build_ours), Contender(NAMES[1], build_voxels)]
    if args.all_points:
        contenders.append(Contender(NAMES[2], build_points))
    print(f"{len(sweep()[0]):,} points of {sweep()[1]}, {len(above_ground()):,} above the ground", flush=True)
    result = compare(contenders, [Target(NAMES[0], NAMES[1], 1.0)], args.rounds, args.warmup, args.threads, args.device)
    ours = result["rows"][0]
    print(
        f"{ours['fastest_s']:.2f} s a sweep at best (limit {LIMIT_S:g}), peak {ours['peak_mib']:.0f} MiB "
        f"(limit {LIMIT_MIB})"
    )
    return result
