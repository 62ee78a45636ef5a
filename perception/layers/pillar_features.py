"""From points in pillars to a map: the pillar feature net and the scatter of "PointPillars" (Lang et al., 2019).

A point is decorated with its offsets to the mean of its pillar's points and to the pillar's centre, and passes linear
map, batch norm and ReLU; a pillar is the maximum over its points. All but the ReLU is linear in the point, and what
depends on the pillar alone is the same for all its points. So the maximum is taken of A x, x the offset to the centre
and the intensity, and one row B y a pillar, y the mean and the centre, is added behind it. The statistics of batch norm
follow from the covariance of (x, y). No tensor of decorated points exists, and of (points, channels) there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.geometry.grid import BEVGrid
from perception.layers.voxels import Voxels

NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class PillarLayer(nn.Module):
    """Linear map without bias, batch norm (eps 1e-3, momentum 0.01), ReLU and maximum over the points of a pillar.

    Args:
        inputs: width of the decorated points.
        outputs: width of the result. Before the last layer half of it is the point's and half the pillar's maximum.
        last: give the pillars' maxima alone.
    """

    def __init__(self, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.units = outputs if last else outputs // 2
        self.last = last
        self.linear = nn.Linear(inputs, self.units, bias=False)
        self.norm = nn.BatchNorm1d(self.units, **NORM)

    def affine(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,) that batch norm amounts to in training; the running statistics follow.

        Args:
            mean: (C,) of what the linear map gives.
            variance: (C,) likewise, not corrected.
            count: rows behind them, at least 2.
        """
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
        return self._affine(mean, variance)

    def running_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,) of the running statistics: in eval mode, and where one row has no statistics."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        mean, variance = self.norm.running_mean, self.norm.running_var
        if self.training:  # the next view of the same step may change them in place before the backward pass
            mean, variance = mean.clone(), variance.clone()
        return self._affine(mean, variance)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
        return scale, self.norm.bias - mean * scale

    def packed(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """The layer on points that are not padded.

        Args:
            x: (P, K) of the points.
            y: (V, L) of the pillars.
            a: (C, K) weight of ``x``.
            b: (C, L) weight of ``y``.
            voxels: which point belongs to which pillar.

        Returns:
            Activations of the points (P, C), empty for the last layer, and their maxima (V, C).
        """
        if self.training and len(x) > 1:
            scale, shift = self.affine(*_moments(x, y, a, b, voxels), len(x))
        else:
            scale, shift = self.running_affine()
        scale = scale[:, None]
        of_points = F.linear(x, scale * a)
        of_pillars = F.linear(y, scale * b, shift)
        highest = F.relu(segment_max(of_points, voxels.voxel, len(voxels)) + of_pillars)
        if self.last:
            return of_points[:0], highest
        return F.relu(of_points + of_pillars.index_select(0, voxels.voxel)), highest

    def padded(self, slots: Tensor) -> Tensor:
        """The layer on padded pillars (V, T, K): (V, T, 2 C), or (V, C) for the last. Padding takes part in all."""
        out = F.linear(slots, self.linear.weight)
        count = out.shape[0] * out.shape[1]
        if self.training and count > 1:
            variance, mean = torch.var_mean(out, (0, 1), correction=0)
            scale, shift = self.affine(mean, variance, count)
        else:
            scale, shift = self.running_affine()
        out = F.relu(out * scale + shift)
        highest = out.amax(1)
        return highest if self.last else torch.cat([out, highest[:, None].expand_as(out)], dim=2)


class PillarFeatureNet(nn.Module):
    """One or more ``PillarLayer`` on decorated points.

    Args:
        point_features: columns F of the points, x, y, z first.
        channels: output width of every layer.
        grid: whose cells the pillars stand on.
        legacy: the offsets to the centre take the place of x, y, z, as in KITTI's public checkpoints; the network then
            knows nothing of where a pillar stands. No tensor's shape shows this.
        with_distance: also the distance of the point from the sensor (with ``legacy`` from the pillar's centre).
        slots: T, where pillars are padded to T points and the zero rows take part in the maximum and in the statistics
            of batch norm, as in public hard-voxel checkpoints. 0 works on the points that are there.

    State-dict keys are those of mmdetection3d's ``PillarFeatureNet``.
    """

    def __init__(
        self,
        point_features: int,
        channels: Sequence[int],
        grid: BEVGrid,
        legacy: bool = False,
        with_distance: bool = False,
        slots: int = 0,
    ) -> None:
        super().__init__()
        self.grid, self.legacy, self.with_distance, self.slots = grid, legacy, with_distance, slots
        widths = [point_features + 6 + with_distance, *channels]
        self.pfn_layers = nn.ModuleList(
            PillarLayer(widths[i], widths[i + 1], last=i == len(channels) - 1) for i in range(len(channels))
        )
        self.out_channels = channels[-1]

    def forward(self, voxels: Voxels) -> Tensor:
        """Features of the pillars (V, C), in the precision of the points also under autocast."""
        with torch.autocast(voxels.points.device.type, enabled=False):
            return self._padded(voxels) if self.slots else self._packed(voxels)

    def centres(self, voxels: Voxels) -> Tensor:
        """Centres of the pillars (V, 3) in metres."""
        grid, points = self.grid, voxels.points
        cell = points.new_tensor((*grid.cell, (grid.z[1] - grid.z[0]) / voxels.shape[0]))
        first = points.new_tensor((grid.x[0], grid.y[0], grid.z[0])) + cell / 2
        return voxels.coors[:, [3, 2, 1]].to(points.dtype) * cell + first

    def _packed(self, voxels: Voxels) -> Tensor:
        points, count = voxels.points, voxels.num_points[:, None].to(voxels.points.dtype)
        centre = self.centres(voxels)
        offset = points[:, :3] - centre.index_select(0, voxels.voxel)
        mean = voxels.sums(offset) / count  # seen from the centre: small numbers, little rounding
        x = torch.cat([offset, points[:, 3:]], dim=1)
        if self.with_distance:
            x = torch.cat([x, (offset if self.legacy else points[:, :3]).norm(dim=1, keepdim=True)], dim=1)
        layers = self._layers()
        weight = layers[0].linear.weight
        extra = points.shape[1]
        own, to_mean, to_centre = weight[:, :3], weight[:, extra : extra + 3], weight[:, extra + 3 : extra + 6]
        a = torch.cat([own + to_mean + to_centre, weight[:, 3:extra], weight[:, extra + 6 :]], dim=1)
        y, b = (mean, -to_mean) if self.legacy else (torch.cat([mean, centre], 1), torch.cat([-to_mean, own], 1))
        for place, layer in enumerate(layers):
            if place:
                a, b = layer.linear.weight.split((x.shape[1], y.shape[1]), dim=1)
            x, y = layer.packed(x, y, a, b, voxels)
        return y

    def _padded(self, voxels: Voxels) -> Tensor:
        count = voxels.num_points[:, None, None]
        points = voxels.padded(self.slots)
        mean = points[..., :3].sum(1, keepdim=True) / count.clamp_min(1)
        offset = points[..., :3] - self.centres(voxels)[:, None]
        own = offset if self.legacy else points[..., :3]
        parts = [own, points[..., 3:], points[..., :3] - mean, offset]
        if self.with_distance:
            parts.append(own.norm(dim=2, keepdim=True))
        there = torch.arange(self.slots, device=count.device)[None, :, None] < count
        slots = torch.cat(parts, dim=2) * there
        for layer in self._layers():
            slots = layer.padded(slots)
        return slots

    def _layers(self) -> list[PillarLayer]:
        return list(self.pfn_layers)  # type: ignore[arg-type]


def _moments(x: Tensor, y: Tensor, a: Tensor, b: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) over all points of ``a x + b y``, y that of the point's pillar."""
    count = voxels.num_points[:, None].to(x.dtype)
    mean_x, mean_y = x.mean(0), (y * count).sum(0) / len(x)
    x, y = x - mean_x, y - mean_y
    cov_xx = x.t() @ x / len(x)
    cov_xy = voxels.sums(x).t() @ y / len(x)
    cov_yy = y.t() @ (y * count) / len(x)
    variance = ((a @ cov_xx) * a).sum(1) + 2 * ((a @ cov_xy) * b).sum(1) + ((b @ cov_yy) * b).sum(1)
    return a @ mean_x + b @ mean_y, variance.clamp_min(0)  # rounding may leave a little less than nothing


def segment_max(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Maxima (S, C) of the rows of ``values`` (P, C) in every segment; every segment has a row.

    The gradient goes to the rows that win, in equal parts where several do.

    Args:
        values: rows.
        segment: (P,) int64 in 0..S-1.
        count: S.
    """
    return _SegmentMax.apply(values, segment, count)


class _SegmentMax(torch.autograd.Function):
    """Torch's own backward of ``amax`` divides and counts over all rows; rows seldom tie, so one comparison does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, segment: Tensor, count: int) -> Tensor:
        lowest = values.new_full((count, values.shape[1]), -torch.inf)
        highest = lowest.scatter_reduce_(0, segment[:, None].expand_as(values), values, "amax")
        ctx.save_for_backward(values, segment, highest)
        return highest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, segment, highest = ctx.saved_tensors
        grad, blocks = grads[0], _blocks(values)
        loses = torch.empty_like(values, dtype=torch.bool)
        for rows in blocks:
            torch.ne(values[rows], highest.index_select(0, segment[rows]), out=loses[rows])
        if loses.numel() - int(loses.count_nonzero()) != grad.numel():
            winners = torch.zeros_like(grad)
            for rows in blocks:
                winners.index_add_(0, segment[rows], (~loses[rows]).to(grad.dtype))
            grad = grad / winners.clamp_min_(1)
        found = torch.empty_like(values)
        for rows in blocks:
            torch.index_select(grad, 0, segment[rows], out=found[rows]).masked_fill_(loses[rows], 0)
        return found, None, None


def _blocks(values: Tensor) -> list[slice]:
    """Rows in blocks that stay in the caches of a CPU's threads; all at once elsewhere."""
    step = max(len(values), 1) if values.device.type != "cpu" else 8192 * torch.get_num_threads()
    return [slice(start, start + step) for start in range(0, len(values), step)]


def scatter_to_map(features: Tensor, coors: Tensor, batch_size: int, shape: tuple[int, int]) -> Tensor:
    """Write features to their cells of an empty map.

    Args:
        features: (V, C).
        coors: (V, 4) sweep, z, y, x; no (sweep, y, x) occurs twice.
        batch_size: B.
        shape: (Ny, Nx).

    Returns:
        (B, C, Ny, Nx), zero elsewhere, channels last in memory: the writes are whole rows then, and convolutions of a
        CPU want it so.
    """
    rows, columns = shape
    sweep, _, y, x = coors.long().unbind(1)
    cells = _empty_cells(batch_size * rows * columns, features)
    cells.index_copy_(0, (sweep * rows + y) * columns + x, features)
    return cells.view(batch_size, rows, columns, features.shape[1]).permute(0, 3, 1, 2)


def _empty_cells(count: int, features: Tensor) -> Tensor:
    """Zeros (count, C).

    A map of 512 x 512 cells is 67 MB of fresh memory. numpy asks Linux for large pages, which come zeroed; torch takes
    thousands of small ones and clears them again: 30 ms of processor time against 8.
    """
    if features.device.type != "cpu" or features.dtype != torch.float32:
        return features.new_zeros(count, features.shape[1])
    return torch.from_numpy(np.zeros((count, features.shape[1]), np.float32))
