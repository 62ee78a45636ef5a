"""Lift-splat of six cameras at BEVFusion's size: ours, lift + index_add, and lift + gather + cumsum."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from perception.geometry.augmentation import image_matrix
from perception.geometry.grid import BEVGrid
from perception.layers.lift import Frustum, camera_rays
from perception.layers.splat import OUTSIDE, SplatIndex, cells_of_rays, splat

from .harness import Contender, Step, Target, compare

GRID = BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-10.0, 10.0), (0.3, 0.3))
FRUSTUM = Frustum((256, 704), 8, (1.0, 60.0, 0.5))
CHANNELS = 80
FOCAL, IMAGE_SIZE, RESIZE = 1260.0, (900, 1600), 0.48
# Six cameras around the car like those of nuScenes: (yaw in degrees from forward, x, y); the LiDAR's y is forward.
CAMERAS = [(0, 0.0, 0.7), (-55, 0.5, 0.6), (55, -0.5, 0.6), (180, 0.0, -1.0), (110, -0.5, -0.2), (-110, 0.5, -0.2)]
HEIGHT, PITCH, ROLL = -0.3, 0.5, 0.4  # metres below the LiDAR, and degrees: no camera is quite level


def rig() -> tuple[Tensor, Tensor, Tensor]:
    """lidar2cam, cam2img and img_aug, (1, 6, 4, 4) each."""
    placed = []
    for yaw, x, y in CAMERAS:
        turn, pitch, roll = (torch.deg2rad(torch.tensor(v, dtype=torch.float64)) for v in (yaw, PITCH, ROLL))
        about_z = torch.eye(4, dtype=torch.float64)
        about_z[:2, :2] = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
        about_x, about_axis = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        about_x[1:3, 1:3] = torch.stack([pitch.cos(), -pitch.sin(), pitch.sin(), pitch.cos()]).view(2, 2)
        about_axis[:2, :2] = torch.stack([roll.cos(), -roll.sin(), roll.sin(), roll.cos()]).view(2, 2)
        # Camera axes: x right, y down, z forward.
        axes = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
        cam2lidar = about_z @ axes @ about_x @ about_axis
        cam2lidar[:3, 3] = torch.tensor([x, y, HEIGHT], dtype=torch.float64)
        placed.append(torch.linalg.inv(cam2lidar))
    intrinsics = torch.eye(4, dtype=torch.float64)
    intrinsics[0, 0] = intrinsics[1, 1] = FOCAL
    intrinsics[0, 2], intrinsics[1, 2] = IMAGE_SIZE[1] / 2, IMAGE_SIZE[0] / 2
    height, width = FRUSTUM.image_size
    crop = ((IMAGE_SIZE[1] * RESIZE - width) / 2, IMAGE_SIZE[0] * RESIZE - height)
    aug = torch.from_numpy(image_matrix(RESIZE, crop, size=FRUSTUM.image_size))
    return torch.stack(placed)[None], intrinsics.expand(1, 6, 4, 4), aug.expand(1, 6, 4, 4)


def cells(device: str) -> Tensor:
    """Cell of every point, -1 outside."""
    lidar2cam, cam2img, img_aug = rig()
    rays, origins = camera_rays(FRUSTUM.pixels(), lidar2cam, cam2img, img_aug)
    return cells_of_rays(rays.to(device), origins.to(device), FRUSTUM.depths().to(device), GRID)


@cache
def inputs(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Depth distribution, context and the gradient that comes back, the same for all contenders."""
    random = torch.Generator().manual_seed(0)
    rows, columns = FRUSTUM.feature_size
    alpha = torch.randn(1, 6, FRUSTUM.num_depths, rows, columns, generator=random).softmax(2)
    context = torch.randn(1, 6, CHANNELS, rows, columns, generator=random)
    gradient = torch.randn(1, CHANNELS, *GRID.shape, generator=random).to(memory_format=torch.channels_last)
    return alpha.to(device), context.to(device), gradient.to(device)


def lifted(alpha: Tensor, context: Tensor) -> Tensor:
    """(points, C): the outer product of every pixel."""
    return (alpha.unsqueeze(5) * context.permute(0, 1, 3, 4, 2).unsqueeze(2)).flatten(0, 4)


def to_map(rows: Tensor) -> Tensor:
    """(cells, C) -> (1, C, Ny, Nx)."""
    return rows.view(1, *GRID.shape, -1).permute(0, 3, 1, 2)


class SegmentSums(torch.autograd.Function):
    """Sums of equal neighbours by a running sum, as in the reference; the gradient is a gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
        """(points, C) sorted by rank -> (cells with points, C) and their ranks."""
        total = x.cumsum(0)
        last = torch.ones_like(rank, dtype=torch.bool)
        last[:-1] = rank[1:] != rank[:-1]
        total, found = total[last], rank[last]
        total = torch.cat([total[:1], total[1:] - total[:-1]])
        place = last.cumsum(0)
        place[last] -= 1
        ctx.save_for_backward(place)
        ctx.mark_non_differentiable(found)
        return total, found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of every point."""
        (place,) = ctx.saved_tensors
        return grads[0][place], None


def ours(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The sparse product with a cached index."""
    index = SplatIndex.from_cells(cells(device), (*GRID.shape, 1))
    return lambda alpha, context: splat(alpha, context, index)


def ours_new_index(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The sparse product with an index built each time, rays and cells included, as augmentation asks for."""
    return lambda alpha, context: splat(alpha, context, SplatIndex.from_cells(cells(device), (*GRID.shape, 1)))


def by_index_add(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Lift, take the points inside, add to their cells."""
    place = cells(device).flatten()
    kept = (place != OUTSIDE).nonzero().squeeze(1)
    place = place[kept].long()

    def run(alpha: Tensor, context: Tensor) -> Tensor:
        out = torch.zeros(GRID.ny * GRID.nx, CHANNELS, device=device)
        return to_map(out.index_add(0, place, lifted(alpha, context)[kept]))

    return run


def by_cumsum(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The reference: lift, take the points inside, sort them by cell, running sum, differences at the ends."""
    place = cells(device).flatten()
    inside = place != OUTSIDE

    def run(alpha: Tensor, context: Tensor) -> Tensor:
        x, rank = lifted(alpha, context)[inside], place[inside].long()
        order = rank.argsort()
        sums, found = SegmentSums.apply(x[order], rank[order])
        out = torch.zeros(GRID.ny * GRID.nx, CHANNELS, device=device)
        return to_map(out.index_put((found,), sums))

    return run


def forward_step(device: str, make: Callable[[str], Callable[[Tensor, Tensor], Tensor]]) -> Step:
    """The map alone."""
    alpha, context, _ = inputs(device)
    run = make(device)

    def step() -> Tensor:
        with torch.no_grad():
            return run(alpha, context)

    return step


def whole_step(device: str, make: Callable[[str], Callable[[Tensor, Tensor], Tensor]]) -> Step:
    """The map and both gradients."""
    alpha, context, gradient = inputs(device)
    alpha, context = (t.clone().requires_grad_() for t in (alpha, context))
    run = make(device)

    def step() -> Tensor:
        alpha.grad = context.grad = None
        run(alpha, context).backward(gradient)
        return alpha

    return step


def forward_ours(device: str) -> Step:
    """Forward, cached index."""
    return forward_step(device, ours)


def forward_index_add(device: str) -> Step:
    """Forward, lift + index_add."""
    return forward_step(device, by_index_add)


def forward_cumsum(device: str) -> Step:
    """Forward, lift + gather + cumsum."""
    return forward_step(device, by_cumsum)


def whole_ours(device: str) -> Step:
    """Forward and backward, cached index."""
    return whole_step(device, ours)


def whole_ours_new_index(device: str) -> Step:
    """Forward and backward, index built."""
    return whole_step(device, ours_new_index)


def whole_index_add(device: str) -> Step:
    """Forward and backward, lift + index_add."""
    return whole_step(device, by_index_add)


def whole_cumsum(device: str) -> Step:
    """Forward and backward, lift + gather + cumsum."""
    return whole_step(device, by_cumsum)


BUILDS: dict[str, Callable[[str], Step]] = {
    "forward, ours": forward_ours,
    "forward, index_add": forward_index_add,
    "forward, cumsum": forward_cumsum,
    "both ways, ours": whole_ours,
    "both ways, ours with a new index": whole_ours_new_index,
    "both ways, index_add": whole_index_add,
    "both ways, cumsum": whole_cumsum,
}
LIMIT_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: the size is the one that the targets are set for."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """At most a tenth of the cumsum route both ways, even with a new index, and 0.3 s forward."""
    names = list(BUILDS)
    targets = [
        Target(names[0], names[2], limit=0.1),
        Target(names[3], names[6], limit=0.1),
        Target(names[4], names[6], limit=0.1),
        Target(names[3], names[5], limit=0.5),
        Target(names[3], names[6], limit=0.2, measure="memory"),
    ]
    contenders = [Contender(name, build) for name, build in BUILDS.items()]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    fastest = result["rows"][0]["fastest_s"]
    place = cells("cpu")
    result["notes"] = [
        f"6 cameras, {FRUSTUM.num_depths} depths, {FRUSTUM.feature_size} features, {GRID.shape} cells, "
        f"{CHANNELS} channels; {int((place != OUTSIDE).sum())} of {place.numel()} points inside",
        f"forward in {fastest:.3f} s at best; the aim is {LIMIT_S} s: {'met' if fastest <= LIMIT_S else 'NOT met'}",
    ]
    return result
