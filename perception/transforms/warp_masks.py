"""Maps that a data set draws in the frame of the sensor, brought into the frame of augmented points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.errors import DataError, check_arguments
from perception.geometry.grid import BEVGrid, grid_faults
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

UNKNOWN = -1
_TILT = 1e-5


def warp_mask(mask: Tensor, source: BEVGrid, target: BEVGrid, matrix: Tensor) -> Tensor:
    """A map in another frame and on another grid: every cell takes the value of the cell that its centre comes from.

    Args:
        mask: (K, Ny, Nx) whole numbers on ``source``.
        source: where its cells lie.
        target: where those of the outcome lie, in the frame that ``matrix`` maps to.
        matrix: (4, 4), old coordinates -> new ones, upright: x and y must not depend on z.

    Returns:
        (K, *target.shape) int8, ``UNKNOWN`` where ``source`` does not reach.

    Raises:
        DataError: the matrix tilts the ground or flattens it.
    """
    m = matrix.double()
    if m[:2, 2].abs().max() > _TILT or m[2, :2].abs().max() > _TILT:
        raise DataError(
            f"a map lies on the ground, which lidar_aug tilts: {[[round(v, 4) for v in r] for r in m.tolist()]}"
        )
    if torch.linalg.det(m[:2, :2]).abs() < 1e-9:
        raise DataError("lidar_aug has no inverse: the scale of its ground plane is 0")
    centres = target.centres(mask.device).double() - m[:2, 3]
    row, column, inside = source.index(centres @ torch.linalg.inv(m[:2, :2]).T)
    return torch.where(inside, mask[:, row, column].to(torch.int8), UNKNOWN)


@TRANSFORMS.register_module()
class WarpMasks(Transform):
    """Brings ``bev_mask`` (B, K, Ny, Nx) into the frame of ``points``, by ``lidar_aug``; it belongs after augmentation.

    One reading of the nearest cell, however many transforms moved the points before. Cells that come from beyond the
    data set's map are -1, which losses and metrics leave out. ``meta['map_range']`` of the batch says where the map
    lies; it is taken away, so that nobody warps twice.

    Args:
        point_range: (x_min, y_min, z_min, x_max, y_max, z_max) of the outcome in metres: that of the model.
        cell: size of its cells in metres.
    """

    deterministic = True  # evaluation data may have it, to cut its map to the model's

    def __init__(
        self,
        point_range: Sequence[float] = (-50.0, -50.0, -5.0, 50.0, 50.0, 3.0),
        cell: Sequence[float] = (0.5, 0.5),
    ) -> None:
        check_arguments("transforms.*", self.check_config, locals())
        self.grid = BEVGrid.from_range(point_range, cell)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        yield from grid_faults(cfg["point_range"], cfg["cell"])

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: the batch has no map, or does not say where it lies in the frame of the sensor.
        """
        if batch.get("bev_mask") is None:
            raise DataError(
                f"WarpMasks needs 'bev_mask', but the batch holds {sorted(batch)}: DrivingScenes(map_cell=)"
            )
        meta = dict(batch.get("meta") or {})
        extent = meta.pop("map_range", None)
        if extent is None:
            raise DataError(
                "WarpMasks needs meta['map_range'], which data sets with a map give: masks of DrawBoxMasks, or that "
                "were warped before, are in the frame of the points already"
            )
        masks = batch["bev_mask"]
        ny, nx = masks.shape[-2:]
        source = BEVGrid.from_range(extent, ((extent[3] - extent[0]) / nx, (extent[4] - extent[1]) / ny))
        moves = batch.get("lidar_aug")
        moves = torch.eye(4).expand(len(masks), 4, 4) if moves is None else moves
        warped = [warp_mask(mask, source, self.grid, m) for mask, m in zip(masks, moves, strict=True)]
        return {**batch, "bev_mask": torch.stack(warped), "meta": meta}
