"""Splat of lifted pixels into a bird's-eye view as a sparse matrix product, without the lifted tensor.

"Lift, Splat, Shoot" (Philion and Fidler, 2020) multiplies a depth distribution alpha (D) and a context vector c (C) of
every pixel to D x C numbers and sums them into cells. The sum is linear in either: with rows = cells, columns = pixels
and values = alpha, BEV = A c, so that nothing of size pixels x D x C is ever written. Which entries A has depends on
the geometry alone: ``SplatIndex`` holds them, sorted by cell for the forward pass and by pixel for the backward pass.

Every sum runs in the fixed order of its sorted entries and is accumulated in float32 (float64 for float64 input): the
same bits on every run, on a CPU as on a GPU. Products are ``embedding_bag`` of torch: on a CPU less than half the time
of a CSR matrix by MKL, and vectorised kernels on a GPU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from perception.geometry.grid import BEVGrid

OUTSIDE = -1
ROUNDINGS = ("floor", "trunc")
_LARGEST = 2**24  # float32 counts cells exactly up to here
_INT32 = 2**31 - 1


def cells_of_rays(
    rays: Tensor, origins: Tensor, depths: Tensor, grid: BEVGrid, z_slices: int = 1, compat: str = "floor"
) -> Tensor:
    """Cell of every point ``origin + depth * ray``.

    Args:
        rays: (B, N, h, w, 3) displacement in metres per metre of depth.
        origins: (B, N, 3) point at depth 0, in metres.
        depths: (D,) in metres.
        grid: cells; its z range is cut into ``z_slices``.
        z_slices: slices Nz of a column.
        compat: ``'floor'``, or ``'trunc'``: the reference's rounding, which pulls points up to one cell outside the
            low edges into the first cells.

    Returns:
        (B, N, D, h, w) int32: (y * Nx + x) * Nz + z within its sample, or -1 outside. Its memory is ordered by
        (B, N, w, h, D).

    Raises:
        ValueError: an unknown rounding, or more cells than can be numbered.
    """
    if compat not in ROUNDINGS:
        raise ValueError(f"compat = {compat!r} is not one of {', '.join(ROUNDINGS)}")
    count = grid.ny * grid.nx * z_slices
    if count >= _LARGEST:
        raise ValueError(f"a grid of {grid.ny} x {grid.nx} x {z_slices} cells is too large: fewer than {_LARGEST}")
    low = origins.new_tensor([grid.x[0], grid.y[0], grid.z[0]])
    size = origins.new_tensor([*grid.cell, (grid.z[1] - grid.z[0]) / z_slices])
    # In units of cells, and in float64 up to the last step: a point is a ray times a depth plus an offset.
    steps = (rays / size).transpose(2, 3).flatten(0, 1).float()
    offsets = ((origins - low) / size).flatten(0, 1).float()
    depths = depths.to(steps)
    found = torch.empty(*steps.shape[:3], len(depths), dtype=torch.int32, device=steps.device)
    for camera in range(len(steps)):  # one camera at a time stays in cache, and needs no memory to speak of
        x, y, z = (_rounded(steps[camera, ..., i, None] * depths + offsets[camera, i], compat) for i in range(3))
        inside = _within(x, grid.nx) & _within(y, grid.ny) & _within(z, z_slices)
        number = x.add_(y, alpha=grid.nx) if z_slices == 1 else x.add_(y, alpha=grid.nx).mul_(z_slices).add_(z)
        found[camera] = number.masked_fill_(~inside, OUTSIDE)
    batch, cameras, rows, columns = rays.shape[:4]
    return found.view(batch, cameras, columns, rows, len(depths)).permute(0, 1, 4, 3, 2)


def _rounded(value: Tensor, compat: str) -> Tensor:
    return value.floor_() if compat == "floor" else value.trunc_()


def _within(index: Tensor, count: int) -> Tensor:
    return (index >= 0) & (index < count)


@dataclass(frozen=True)
class SplatIndex:
    """Which pixel and depth goes to which cell, twice: sorted by cell, and by pixel.

    Pixels are numbered in the order (B, N, w, h): those above each other see nearly the same cells, so that what one
    has fetched the next finds in cache. E entries lie inside the grid.

    Attributes:
        shape: B, N, D, h, w.
        bev_shape: Ny, Nx, Nz.
        pixel: (E,) pixel of every entry, sorted by cell.
        pixel_slot: (E,) its position in the flattened alpha (B, N, D, h, w).
        cell_start: (B * Ny * Nx * Nz + 1,) first entry of every cell.
        cell: (E,) cell of every entry, sorted by pixel.
        cell_slot: (E,) its position in alpha.
        pixel_start: (B * N * w * h + 1,) first entry of every pixel.
    """

    shape: tuple[int, int, int, int, int]
    bev_shape: tuple[int, int, int]
    pixel: Tensor
    pixel_slot: Tensor
    cell_start: Tensor
    cell: Tensor
    cell_slot: Tensor
    pixel_start: Tensor

    @property
    def kept(self) -> int:
        """Number of entries E."""
        return len(self.cell)

    @classmethod
    @torch.no_grad()
    def from_cells(cls, cells: Tensor, bev_shape: tuple[int, int, int]) -> SplatIndex:
        """Sort the entries of ``cells`` (B, N, D, h, w), as ``cells_of_rays`` gives them, into both orders."""
        batch, cameras, depths, rows, columns = cells.shape
        ny, nx, nz = bev_shape
        num_cells, num_pixels = batch * ny * nx * nz, batch * cameras * columns * rows
        if max(num_cells, num_pixels * depths) > _INT32:
            raise ValueError(f"{num_pixels * depths} points and {num_cells} cells: take smaller batches")
        by_pixel = cells.permute(0, 1, 4, 3, 2)
        inside = (by_pixel != OUTSIDE).reshape(num_pixels, depths)
        kept = inside.flatten().nonzero().squeeze(1)
        if batch > 1:
            sample = torch.arange(batch, dtype=torch.int32, device=cells.device)
            by_pixel = by_pixel + (sample * (ny * nx * nz)).view(-1, 1, 1, 1, 1)
        cell = by_pixel.reshape(-1).index_select(0, kept)
        slots = torch.arange(cells.numel(), dtype=torch.int32, device=cells.device).view(cells.shape)
        cell_slot = slots.permute(0, 1, 4, 3, 2).reshape(-1).index_select(0, kept)
        per_pixel = inside.sum(1)
        pixel = torch.arange(num_pixels, dtype=torch.int32, device=cells.device).repeat_interleave(per_pixel)
        order = torch.sort(cell, stable=True).indices
        return cls(
            shape=(batch, cameras, depths, rows, columns),
            bev_shape=(ny, nx, nz),
            pixel=pixel.index_select(0, order),
            pixel_slot=cell_slot.index_select(0, order),
            cell_start=_starts(torch.bincount(cell, minlength=num_cells)),
            cell=cell,
            cell_slot=cell_slot,
            pixel_start=_starts(per_pixel),
        )


def _starts(counts: Tensor) -> Tensor:
    """(n,) counts -> (n + 1,) int32 positions of the first of each."""
    return functional.pad(counts.cumsum(0), (1, 0)).int()


class IndexCache:
    """The last indices, by the content of what they were made from. A copy starts empty.

    Args:
        size: how many are kept; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, SplatIndex] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexCache, (self.size,)

    def get(self, parts: Sequence[Any], build: Callable[[], SplatIndex]) -> SplatIndex:
        """The index of ``parts`` (tensors on the CPU count by their content), built unless it is kept."""
        if self.size < 1:
            return build()
        key = tuple(_content(part) for part in parts)
        found = self._kept.pop(key, None)
        while len(self._kept) >= self.size:  # before a new one is built, so that they are never both in memory
            self._kept.popitem(last=False)
        self._kept[key] = build() if found is None else found
        return self._kept[key]


def _content(part: Any) -> Hashable:
    if isinstance(part, Tensor):
        return part.dtype, tuple(part.shape), part.contiguous().numpy().tobytes()
    return part


def splat(alpha: Tensor, context: Tensor, index: SplatIndex) -> Tensor:
    """Sum alpha times context of every pixel and depth into its cell.

    Args:
        alpha: (B, N, D, h, w) weight of every depth.
        context: (B, N, C, h, w) features.
        index: entries for this geometry.

    Returns:
        (B, Nz * C, Ny, Nx), channels-last in memory, channel z * C + c; float32, or float64 if an input is. Cells
        without a point are 0. Exact gradients for both inputs, once.

    Raises:
        ValueError: alpha or context have another shape than the index.
    """
    batch, cameras, depths, rows, columns = index.shape
    if (
        alpha.shape != index.shape
        or context.ndim != 5
        or context.shape[:2] + context.shape[3:]
        != (
            *index.shape[:2],
            *index.shape[3:],
        )
    ):
        raise ValueError(
            f"alpha {tuple(alpha.shape)} and context {tuple(context.shape)} do not fit an index for {cameras} cameras, "
            f"{depths} depths and {rows} x {columns} pixels of {batch} samples"
        )
    kind = torch.float64 if torch.float64 in (alpha.dtype, context.dtype) else torch.float32
    channels = context.shape[2]
    pixels = context.permute(0, 1, 4, 3, 2).reshape(-1, channels).to(kind)
    cells = _Splat.apply(alpha.to(kind).flatten(), pixels, index)
    ny, nx, nz = index.bev_shape
    return cells.view(batch, ny, nx, nz * channels).permute(0, 3, 1, 2)


class _Splat(torch.autograd.Function):
    """Rows of cells from values (flattened alpha) and rows of pixels."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pixels: Tensor, index: SplatIndex) -> Tensor:
        ctx.save_for_backward(values, pixels)
        ctx.index = index
        return _weighted_sums(pixels, index.pixel, index.cell_start, values.index_select(0, index.pixel_slot))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, pixels = ctx.saved_tensors
        index: SplatIndex = ctx.index
        weight = values.index_select(0, index.cell_slot).requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            grad_pixels = _weighted_sums(grad.contiguous(), index.cell, index.pixel_start, weight)
        grad_values = None
        if weight.requires_grad:
            # d <grad_pixels, pixels> / d weight = <grad[cell], pixels[pixel]>, the gradient of every entry's value.
            (entries,) = torch.autograd.grad(grad_pixels, weight, pixels)
            grad_values = torch.zeros_like(values).index_copy_(0, index.cell_slot.long(), entries)
        return grad_values, grad_pixels.detach() if ctx.needs_input_grad[1] else None, None


def _weighted_sums(table: Tensor, rows: Tensor, starts: Tensor, weight: Tensor) -> Tensor:
    """out[i] = sum of weight[e] table[rows[e]] over starts[i] <= e < starts[i + 1]."""
    if not len(rows):
        return table.new_zeros(len(starts) - 1, table.shape[1]) + weight.sum()
    return functional.embedding_bag(
        rows, table, starts, mode="sum", per_sample_weights=weight, include_last_offset=True
    )
