"""Objects in a LiDAR sweep without labels: clusters of the points above the ground.

Step A of CALICO ("CALICO: Self-Supervised Camera-LiDAR Contrastive Pre-training for BEV Perception", Sun et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from perception.geometry.ground import ground_plane


@dataclass(frozen=True)
class RegionSettings:
    """How regions are found. CALICO states ``eps`` and ``min_points``; the others are our reading of its text.

    Attributes:
        eps: radius of a neighbourhood in metres.
        min_points: points within ``eps``, the point itself included, that make it a core of a cluster.
        thin: edge of the voxels that neighbourhoods are searched between, in metres; 0 searches between all points,
            exactly and at a price: a sweep of 64 beams has thousands of neighbours a point.
        max_extent: largest length of a region along x and along y, in metres.
        max_height: largest height of a region's top above the ground, in metres.
        ground_band: points less than that far above the ground plane belong to the ground, in metres.
        max_tilt: of the ground, in degrees.
        min_range: points nearer to the sensor, seen from above, belong to the own vehicle, in metres.
        sensor_height: of the LiDAR above the ground in metres: 1.73 in KITTI, 1.84 in nuScenes; ``None``: unknown.
        seed: of the random planes that the ground is looked for with.
    """

    eps: float = 0.75
    min_points: int = 5
    thin: float = 0.2
    max_extent: float = 8.0
    max_height: float = 4.0
    ground_band: float = 0.25
    max_tilt: float = 18.0
    min_range: float = 2.5
    sensor_height: float | None = None
    seed: int = 0

    def faults(self) -> list[tuple[str, str]]:
        """(key, message) of every setting out of range."""
        positive = ("eps", "min_points", "max_extent", "max_height", "ground_band")
        found = [(key, "must be positive") for key in positive if getattr(self, key) <= 0]
        if self.min_range < 0:
            found.append(("min_range", "must not be negative"))
        if not 0 <= self.thin < self.eps:
            found.append(("thin", f"must lie between 0 and eps = {self.eps:g}"))
        if not 0 < self.max_tilt < 90:
            found.append(("max_tilt", "must lie between 0 and 90 degrees"))
        return found


def find_regions(points: np.ndarray, settings: RegionSettings | None = None) -> np.ndarray:
    """Region of every point of a sweep.

    Args:
        points: (P, >= 3) float32 x, y, z in metres, z up, the sensor at the origin.
        settings: how; ``None`` takes the defaults.

    Returns:
        (P,) int64: 0, 1, ... by falling number of points; -1 for the ground, the own vehicle, noise and clusters that
        are too long or too high. The order of the points changes nothing but the order of the result.
    """
    settings = settings or RegionSettings()
    regions = np.full(len(points), -1, dtype=np.int64)
    if len(points) == 0:
        return regions
    points = np.asarray(points[:, :3], dtype=np.float32)
    order = np.lexsort(points.T)  # so that random draws and sums do not see the order of the points
    sweep = points[order]
    plane = ground_plane(sweep, settings.sensor_height, settings.ground_band, settings.max_tilt, seed=settings.seed)
    height = plane.height(sweep)
    outside = np.hypot(sweep[:, 0], sweep[:, 1]) >= settings.min_range
    above = np.flatnonzero((height >= settings.ground_band) & outside)
    labels = cluster(sweep[above], settings.eps, settings.min_points, settings.thin)
    kept = _of_object_size(sweep[above], height[above], labels, settings)
    regions[order[above]] = kept
    return regions


def cluster(points: np.ndarray, eps: float, min_points: int, thin: float = 0.0) -> np.ndarray:
    """Density-based clusters ("A Density-Based Algorithm for Discovering Clusters", Ester et al., 1996).

    With ``thin`` the points of a voxel are one point at their mean that counts as many; what is found there goes to
    all of them. Neighbourhoods then are exact up to the size of a voxel, and a sweep of 64 beams takes well below a
    second instead of gigabytes.

    Args:
        points: (P, 3) in metres.
        eps: radius of a neighbourhood, its border included.
        min_points: least number of points in the neighbourhood of a core point, itself included.
        thin: edge of a voxel in metres; 0 takes every point for itself.

    Returns:
        (P,) int64: cluster of each point, -1 for noise. A border point between clusters goes to the nearest core.
    """
    if len(points) == 0:
        return np.empty(0, dtype=np.int64)
    sites, weight, site_of = _thinned(points, thin)
    tree = cKDTree(sites)
    first, second = tree.query_pairs(eps, output_type="ndarray").T
    count = len(sites)
    near = weight + np.bincount(first, weight[second], count) + np.bincount(second, weight[first], count)
    core = near >= min_points
    linked = core[first] & core[second]
    links = coo_matrix((np.ones(int(linked.sum()), dtype=bool), (first[linked], second[linked])), (count, count))
    component = connected_components(links, directed=False)[1]
    label = np.where(core, component, -1)
    border = np.flatnonzero(~core)
    if core.any() and len(border):
        cores = np.flatnonzero(core)
        distance, nearest = cKDTree(sites[cores]).query(sites[border], distance_upper_bound=np.nextafter(eps, np.inf))
        reached = np.isfinite(distance)
        label[border[reached]] = component[cores[nearest[reached]]]
    found = label >= 0
    label[found] = np.unique(label[found], return_inverse=True)[1]
    return np.asarray(label[site_of], dtype=np.int64)


def _thinned(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (S, 3) and numbers (S,) of the points of each voxel, and the voxel (P,) of each point."""
    if edge <= 0:
        return points, np.ones(len(points)), np.arange(len(points))
    cell = np.floor((points - points.min(axis=0)) / edge).astype(np.int64)
    size = cell.max(axis=0) + 1
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    _, site_of, weight = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(site_of, points[:, axis]) for axis in range(3)]
    return np.stack(sums, axis=1) / weight[:, None], weight.astype(np.float64), site_of


def _of_object_size(points: np.ndarray, height: np.ndarray, labels: np.ndarray, settings: RegionSettings) -> np.ndarray:
    """Labels of the clusters of a fair size, numbered by falling number of points; -1 for the rest."""
    count = int(labels.max(initial=-1)) + 1
    if count == 0:
        return labels
    inside = labels >= 0
    of, own, top = labels[inside], points[inside], height[inside]
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, of, own[:, :2])
    np.maximum.at(high, of, own[:, :2])
    tops = np.full(count, -np.inf)
    np.maximum.at(tops, of, top)
    number = np.bincount(of, minlength=count)
    fair = (number >= settings.min_points) & ((high - low).max(axis=1) <= settings.max_extent)
    fair &= tops <= settings.max_height
    ranked = np.argsort(-number, kind="stable")
    ranked = ranked[fair[ranked]]
    names = np.full(count + 1, -1, dtype=np.int64)
    names[ranked] = np.arange(len(ranked))
    return names[labels]  # the last entry serves the label -1


@dataclass(frozen=True)
class RegionQuality:
    """How well regions agree with labelled boxes.

    Attributes:
        mean_iou: mean over the boxes of the best region's intersection over union with the box, counted in points.
        boxes: number of boxes with enough points.
        regions: number of regions.
        share: share of all points that lie in a region.
    """

    mean_iou: float
    boxes: int
    regions: int
    share: float


def region_quality(regions: np.ndarray, in_box: np.ndarray, min_points: int = 5) -> RegionQuality:
    """Gauge regions (P,) by ``in_box`` (P, M) bool, which tells the points of each labelled box.

    Boxes with fewer than ``min_points`` points are left out; without any, ``mean_iou`` is NaN.
    """
    regions = np.asarray(regions)
    in_box = np.asarray(in_box, dtype=bool)
    count = int(regions.max(initial=-1)) + 1
    inside = regions >= 0
    share = float(inside.mean()) if len(regions) else 0.0
    of_box = in_box.sum(axis=0)
    told = of_box >= min_points
    if not told.any():
        return RegionQuality(float("nan"), 0, count, share)
    if count == 0:
        return RegionQuality(0.0, int(told.sum()), 0, share)
    of_region = np.bincount(regions[inside], minlength=count)
    both = np.zeros((count, int(told.sum())))
    np.add.at(both, regions[inside], in_box[inside][:, told])
    union = of_region[:, None] + of_box[told][None, :] - both
    return RegionQuality(float((both / union).max(axis=0).mean()), int(told.sum()), count, share)
