"""Regions of objects in LiDAR sweeps as a transform: found once a sweep, remembered in memory and on disk."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from perception.errors import DataError, check_arguments
from perception.geometry.boxes import points_in_boxes
from perception.geometry.regions import RegionSettings, find_regions, region_quality
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

_REMEMBERED = 256  # sweeps; one of 64 beams takes half a megabyte


@TRANSFORMS.register_module()
class FindRegions(Transform):
    """Adds ``region``: per sweep (P,) int64, the cluster of every point, -1 for the ground and for what is no object.

    It belongs before whatever moves or drops points: regions are looked for in the frame of the sensor. What is found
    is remembered by the content of the sweep and the settings, so that nothing outdated is ever used.

    Args:
        eps: see ``RegionSettings``, as all below but ``cache``.
        min_points: see there.
        thin: see there.
        max_extent: see there.
        max_height: see there.
        ground_band: see there.
        max_tilt: see there.
        min_range: see there.
        sensor_height: see there.
        seed: see there.
        cache: folder that keeps the regions of all sweeps, one small file each; ``None`` remembers the last 256 sweeps
            of each worker.
        gauge: also ``region_iou`` (B,) float32, how well the regions agree with the labelled boxes: see
            ``region_quality``; NaN without a box of five points. It is for the log, which ``PointRegionContrast``
            writes it to; boxes are used for nothing else.
    """

    deterministic = True  # evaluation data may have it

    def __init__(
        self,
        eps: float = 0.75,
        min_points: int = 5,
        thin: float = 0.2,
        max_extent: float = 8.0,
        max_height: float = 4.0,
        ground_band: float = 0.25,
        max_tilt: float = 18.0,
        min_range: float = 2.5,
        sensor_height: float | None = None,
        seed: int = 0,
        cache: str | None = None,
        gauge: bool = False,
    ) -> None:
        arguments = check_arguments("transforms.FindRegions", self.check_config, locals())
        self.settings = _settings(arguments)
        self.folder = None if cache is None else Path(cache).expanduser()
        self.gauge = gauge
        self._remembered: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch with ``region``.

        Raises:
            DataError: the batch has no points, or views of them already; it has no boxes to gauge regions by.
        """
        if "points" not in batch or "views" in batch:
            raise DataError("FindRegions needs a batch of whole sweeps: put it before TwoViews and behind no other")
        found = [self.find(points.numpy()) for points in batch["points"]]
        out = {**batch, "region": [torch.from_numpy(region) for region in found]}
        if self.gauge:
            if batch.get("boxes") is None:
                raise DataError(f"FindRegions gauges regions by 'boxes', but the batch holds {sorted(batch)}")
            triples = zip(found, batch["points"], batch["boxes"], strict=True)
            shares = [region_quality(r, points_in_boxes(p.numpy(), b.numpy())).mean_iou for r, p, b in triples]
            out["region_iou"] = torch.tensor(shares)
        return out

    def find(self, points: np.ndarray) -> np.ndarray:
        """(P,) int64 of a sweep (P, >= 3): remembered, read or found."""
        xyz = np.ascontiguousarray(points[:, :3])
        key = blake2b(xyz.tobytes() + repr(asdict(self.settings)).encode(), digest_size=16).hexdigest()
        found = self._remembered.get(key)
        if found is None:
            found = self._read(key, len(xyz))
        if found is None:
            found = find_regions(xyz, self.settings).astype(np.int32)
            self._write(key, found)
        self._remembered[key] = found
        self._remembered.move_to_end(key)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return found.astype(np.int64)

    def _read(self, key: str, count: int) -> np.ndarray | None:
        if self.folder is None or not (file := self.folder / f"{key}.npy").is_file():
            return None
        try:
            found = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            found = np.empty(0)
        if found.shape != (count,) or found.dtype != np.int32:
            print_log(f"{file} is damaged: its regions are found again", logger="current", level=30)  # logging.WARNING
            return None
        return np.asarray(found)

    def _write(self, key: str, found: np.ndarray) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{key}.", suffix=".npy")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, found, allow_pickle=False)
            os.replace(name, self.folder / f"{key}.npy")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": OrderedDict()}  # workers begin with an empty memory

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        return _settings(cfg).faults()


def _settings(arguments: dict[str, Any]) -> RegionSettings:
    return RegionSettings(**{name: arguments[name] for name in RegionSettings.__dataclass_fields__})
