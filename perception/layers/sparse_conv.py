"""Sparse 3-D convolutions in plain torch: gather, multiply, add, one offset of the kernel after the other.

"3D Semantic Segmentation with Submanifold Sparse Convolutional Networks" (Graham et al., 2018): a *submanifold*
convolution keeps the active cells, a strided one makes every cell active that the kernel reaches from an active one.
Which pairs of cells an offset joins is found by binary search in sorted cell numbers, once for all layers of a
resolution. Weights are (kz, ky, kx, inputs, outputs), as in mmdetection3d's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.layers.pillar_features import NORM

Triple = tuple[int, int, int]
Pairs = list[tuple[int, Tensor, Tensor]]  # offset of the kernel, rows of the inputs, rows of the outputs


def triple(value: int | Sequence[int]) -> Triple:
    """``n`` -> ``(n, n, n)``; a sequence of three stays."""
    if isinstance(value, int):
        return value, value, value
    z, y, x = value
    return int(z), int(y), int(x)


@dataclass(frozen=True)
class SparseMap:
    """Features of the active cells of a batch of 3-D grids.

    Attributes:
        features: (N, C).
        cells: (N,) int64 numbers of the active cells, ``((sweep * nz + z) * ny + y) * nx + x``, rising.
        shape: (nz, ny, nx).
        batch_size: B.
        pairs: pairs of cells found so far for submanifold kernels of these cells, by kernel.
    """

    features: Tensor
    cells: Tensor
    shape: Triple
    batch_size: int
    pairs: dict[Triple, Pairs] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, features: Tensor, coors: Tensor, shape: Triple, batch_size: int) -> SparseMap:
        """Map of ``features`` (N, C) at ``coors`` (N, 4) sweep, z, y, x, in any order; no cell occurs twice."""
        sweep, z, y, x = coors.long().unbind(1)
        cells, order = torch.sort(((sweep * shape[0] + z) * shape[1] + y) * shape[2] + x)
        return cls(features.index_select(0, order), cells, shape, batch_size)

    def with_features(self, features: Tensor) -> SparseMap:
        """The same cells with other features."""
        return replace(self, features=features)

    def coors(self) -> Tensor:
        """(N, 4) int64 sweep, z, y, x."""
        nz, ny, nx = self.shape
        c = self.cells
        return torch.stack([c // (nz * ny * nx), c // (ny * nx) % nz, c // nx % ny, c % nx], dim=1)

    def flat(self) -> Tensor:
        """(B, C nz, ny, nx) seen from above: heights become channels, those of one feature together."""
        nz, ny, nx = self.shape
        channels = self.features.shape[1]
        sweep, z, y, x = self.coors().unbind(1)
        out = self.features.new_zeros(self.batch_size * ny * nx, nz, channels)
        out.index_put_(((sweep * ny + y) * nx + x, z), self.features)
        # Channels last in memory, as the convolutions that follow want it.
        return out.transpose(1, 2).reshape(self.batch_size, ny, nx, channels * nz).permute(0, 3, 1, 2)


def submanifold_pairs(sparse: SparseMap, kernel: Triple) -> Pairs:
    """Pairs of active cells that every offset of an odd kernel joins, the middle first."""
    found = sparse.pairs.get(kernel)
    if found is None:
        found = sparse.pairs[kernel] = _submanifold_pairs(sparse, kernel)
    return found


def _submanifold_pairs(sparse: SparseMap, kernel: Triple) -> Pairs:
    offsets = list(product(*(range(-(k // 2), k // 2 + 1) for k in kernel)))
    middle = len(offsets) // 2
    rows = torch.arange(len(sparse.cells), device=sparse.cells.device)
    pairs: Pairs = [(middle, rows, rows)]
    place = sparse.coors()[:, 1:]
    size = place.new_tensor(sparse.shape)
    for number, offset in enumerate(offsets[:middle]):
        step = place.new_tensor(offset)
        inside = ((place + step >= 0) & (place + step < size)).all(1)
        wanted = sparse.cells + (offset[0] * sparse.shape[1] + offset[1]) * sparse.shape[2] + offset[2]
        at = torch.searchsorted(sparse.cells, wanted).clamp_max(max(len(rows) - 1, 0))
        out = (inside & (sparse.cells[at] == wanted)).nonzero().squeeze(1)
        # The neighbour of a cell in one direction has that cell as neighbour in the opposite one.
        pairs += [(number, at[out], out), (len(offsets) - 1 - number, out, at[out])]
    return pairs


def strided_pairs(sparse: SparseMap, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Pairs, Tensor, Triple]:
    """Pairs of every offset of a strided kernel, the cells that become active, and the shape they lie in."""
    shape = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(sparse.shape, kernel, stride, padding, strict=True))
    coors = sparse.coors()
    place, size = coors[:, 1:], coors.new_tensor(shape)
    reached = []
    for number, offset in enumerate(product(*(range(k) for k in kernel))):
        # Output o reads the inputs o * stride - padding + offset.
        away = place + place.new_tensor(padding) - place.new_tensor(offset)
        target = torch.div(away, place.new_tensor(stride), rounding_mode="floor")
        fits = (target * place.new_tensor(stride) == away) & (target >= 0) & (target < size)
        rows = fits.all(1).nonzero().squeeze(1)
        z, y, x = target[rows].unbind(1)
        reached.append((number, rows, ((coors[rows, 0] * shape[0] + z) * shape[1] + y) * shape[2] + x))
    cells, places = torch.unique(torch.cat([cells for _, _, cells in reached]), return_inverse=True)
    split = places.split([len(rows) for _, rows, _ in reached])
    pairs = [(number, rows, out) for (number, rows, _), out in zip(reached, split, strict=True)]
    return pairs, cells, (shape[0], shape[1], shape[2])


class _GatherMultiplyAdd(torch.autograd.Function):
    """Sum over offsets k of x[inputs_k] W_k at outputs_k. Autograd would keep every gathered copy; this keeps none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pairs: Pairs, count: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        out = x.new_zeros(count, weight.shape[2])
        for k, inputs, outputs in pairs:
            out.index_add_(0, outputs, x.index_select(0, inputs) @ weight[k])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for k, inputs, outputs in ctx.pairs:
            rows = grad.index_select(0, outputs)
            if grad_x is not None:
                grad_x.index_add_(0, inputs, rows @ weight[k].t())
            if grad_weight is not None:
                grad_weight[k] = x.index_select(0, inputs).t() @ rows
        return grad_x, grad_weight, None, None


class SparseConv3d(nn.Module):
    """Sparse convolution without bias.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: size, or sizes along z, y and x.
        stride: likewise.
        padding: likewise. A submanifold convolution pads by half its kernel.
        submanifold: keep the active cells; needs an odd kernel and stride 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        submanifold: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = triple(kernel), triple(stride), triple(padding)
        self.submanifold = submanifold
        if submanifold and (self.stride != (1, 1, 1) or any(k % 2 == 0 for k in self.kernel)):
            raise ValueError("a submanifold convolution has an odd kernel and stride 1")
        self.weight = nn.Parameter(torch.empty(*self.kernel, inputs, outputs))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (inputs * math.prod(self.kernel))))

    def forward(self, sparse: SparseMap) -> SparseMap:
        """Sparse map -> sparse map, on the same cells or on those that the kernel reaches."""
        weight = self.weight.flatten(0, 2)
        with torch.autocast(weight.device.type, enabled=False):
            x = sparse.features.to(weight.dtype)
            if self.submanifold:
                pairs = submanifold_pairs(sparse, self.kernel)
                return sparse.with_features(_GatherMultiplyAdd.apply(x, weight, pairs, len(x)))
            pairs, cells, shape = strided_pairs(sparse, self.kernel, self.stride, self.padding)
            return SparseMap(_GatherMultiplyAdd.apply(x, weight, pairs, len(cells)), cells, shape, sparse.batch_size)


class SparseNorm(nn.BatchNorm1d):
    """Batch norm over active cells; one alone, or none, is normed by the running statistics also in training."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, **NORM)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        if not self.training or len(input) > 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        # Copies: the next view of the same step may change them in place before the backward pass.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)


class SparseUnit(nn.Sequential):
    """Sparse convolution, batch norm, ReLU."""

    def __init__(self, conv: SparseConv3d) -> None:
        super().__init__(conv, SparseNorm(conv.weight.shape[-1]), nn.ReLU())

    def forward(self, input: SparseMap) -> SparseMap:
        """Sparse map -> sparse map."""
        found = self[0](input)
        return found.with_features(self[2](self[1](found.features)))


class SparseBlock(nn.Module):
    """Two submanifold convolutions with batch norm around a shortcut ("Deep Residual Learning", He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SparseConv3d(channels, channels, submanifold=True)
        self.bn1 = SparseNorm(channels)
        self.conv2 = SparseConv3d(channels, channels, submanifold=True)
        self.bn2 = SparseNorm(channels)

    def forward(self, sparse: SparseMap) -> SparseMap:
        """Sparse map -> sparse map on the same cells."""
        out = self.conv1(sparse)
        out = self.conv2(out.with_features(F.relu(self.bn1(out.features))))
        return out.with_features(F.relu(self.bn2(out.features) + sparse.features))


class SparseEncoder(nn.Module):
    """The residual sparse encoder of SECOND in its CenterPoint form, state-dict keys as in mmdetection3d.

    Args:
        inputs: channels of the voxels.
        stages: widths of the residual blocks of every stage; the last entry of all but the last stage is the width of
            a convolution of stride 2 instead.
        outputs: channels of the last convolution, which shrinks heights alone (kernel 3, stride 2 along z).

    Heights of 41 cells become 2, so the map has 2 ``outputs`` channels at an eighth of the resolution.
    """

    def __init__(self, inputs: int, stages: Sequence[Sequence[int]], outputs: int) -> None:
        super().__init__()
        self.conv_input = SparseUnit(SparseConv3d(inputs, stages[0][0], submanifold=True))
        self.encoder_layers = nn.ModuleDict()
        width = stages[0][0]
        for place, widths in enumerate(stages):
            parts: list[nn.Module] = []
            strided = place < len(stages) - 1
            for block in widths[:-1] if strided else widths:
                parts.append(SparseBlock(block))
                width = block
            if strided:
                # The third stage does not pad heights: 11 cells become 5, which the last convolution brings to 2.
                padding = (0, 1, 1) if place == len(stages) - 2 else (1, 1, 1)
                parts.append(SparseUnit(SparseConv3d(width, widths[-1], 3, 2, padding)))
                width = widths[-1]
            self.encoder_layers[f"encoder_layer{place + 1}"] = nn.Sequential(*parts)
        self.conv_out = SparseUnit(SparseConv3d(width, outputs, (3, 1, 1), (2, 1, 1)))

    def forward(self, sparse: SparseMap) -> Tensor:
        """Sparse map -> (B, outputs x heights, Ny, Nx) seen from above."""
        x = self.conv_input(sparse)
        for stage in self.encoder_layers.values():
            x = stage(x)
        return self.conv_out(x).flat()


def encoded_shape(shape: Triple, stages: int) -> Triple:
    """Cells along z, y and x behind a ``SparseEncoder`` of that many stages."""
    nz, ny, nx = shape
    for place in range(stages - 1):
        pad = 0 if place == stages - 2 else 1
        nz, ny, nx = (nz + 2 * pad - 3) // 2 + 1, (ny - 1) // 2 + 1, (nx - 1) // 2 + 1
    return (nz - 3) // 2 + 1, ny, nx
