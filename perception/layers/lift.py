"""Lift of image features along their rays, and where those rays run: the camera half of "Lift, Splat, Shoot".

Philion and Fidler, 2020; with cameras placed in the (augmented) LiDAR frame as in "BEVFusion: Multi-Task Multi-Sensor
Fusion with Unified Bird's-Eye View Representation" (Liu et al., 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.geometry.grid import BEVGrid
from perception.layers.splat import IndexCache, SplatIndex, cells_of_rays, splat

_STRAIGHT = 1e-6


@dataclass(frozen=True)
class Frustum:
    """Pixels of a feature map and the depths at which each is placed.

    Attributes:
        image_size: height and width of the images that the features come from.
        stride: image pixels per feature.
        depth: first depth, end (not reached) and step, in metres.
        exact_centres: pixel i of w stands at (i + 0.5) * stride, the middle of what it covers when pixels count from
            the image's edge, as everywhere in ``perception.geometry``. By default at i (W - 1) / (w - 1), as in the
            reference: the corner features stand on the corner pixels.
    """

    image_size: tuple[int, int]
    stride: int
    depth: tuple[float, float, float]
    exact_centres: bool = False

    def __post_init__(self) -> None:
        height, width = self.image_size
        if height % self.stride or width % self.stride:
            raise ValueError(f"images of {height} x {width} pixels are no multiple of the stride {self.stride}")
        if self.num_depths < 1 or self.depth[0] <= 0 or self.depth[2] <= 0:
            raise ValueError(f"depth = {self.depth}: needs a positive start, a later end and a positive step")

    @property
    def feature_size(self) -> tuple[int, int]:
        """Rows h and columns w of the feature map."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def num_depths(self) -> int:
        """Number of depths D."""
        start, end, step = self.depth
        return max(math.ceil((end - start) / step - 1e-6), 0)

    def depths(self) -> Tensor:
        """(D,) float64 metres."""
        return self.depth[0] + self.depth[2] * torch.arange(self.num_depths, dtype=torch.float64)

    def pixels(self) -> Tensor:
        """(h, w, 2) float64 positions (u, v) in pixels of the augmented image."""
        v, u = (self._places(n, size) for n, size in zip(self.feature_size, self.image_size, strict=True))
        return torch.stack([u.expand(len(v), -1), v[:, None].expand(-1, len(u))], dim=-1)

    def _places(self, count: int, size: int) -> Tensor:
        if self.exact_centres:
            return (torch.arange(count, dtype=torch.float64) + 0.5) * self.stride
        return torch.linspace(0, size - 1, count, dtype=torch.float64)

    def points(self) -> Tensor:
        """(D, h, w, 3) float64 (u, v, depth), as the reference lays them out."""
        pixels, depths = self.pixels(), self.depths()
        shape = (len(depths), *self.feature_size)
        return torch.cat([pixels.expand(*shape, 2), depths[:, None, None, None].expand(*shape, 1)], dim=-1)


def camera_rays(
    pixels: Tensor, lidar2cam: Tensor, cam2img: Tensor, img_aug: Tensor | None = None, lidar_aug: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rays of pixels in the (augmented) LiDAR frame: the point of a pixel at depth d is ``origin + d * ray``.

    The inverse of ``perception.geometry.projection.project``, in float64 whatever the matrices are.

    Args:
        pixels: (h, w, 2) in augmented pixels.
        lidar2cam: (B, N, 4, 4).
        cam2img: (B, N, 4, 4).
        img_aug: (B, N, 4, 4), or None for none.
        lidar_aug: (B, 4, 4), or None for none.

    Returns:
        (B, N, h, w, 3) metres per metre of depth, and (B, N, 3) metres; float64.

    Raises:
        ValueError: an image augmentation changes the depth or depends on it.
    """
    to_lidar = torch.linalg.inv(cam2img.double() @ lidar2cam.double())
    if lidar_aug is not None:
        to_lidar = lidar_aug.double()[:, None] @ to_lidar
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1).double()
    linear = to_lidar[..., :3, :3]
    if img_aug is not None:
        aug = img_aug.double()
        mixed = torch.cat([aug[..., :2, 2].flatten(), (aug[..., 2, :] - aug.new_tensor([0, 0, 1, 0])).flatten()])
        if mixed.numel() and mixed.abs().max() > _STRAIGHT:
            raise ValueError("img_aug changes depths or depends on them; it may move pixels within the image alone")
        # (u, v, 1) -> (u', v', 1): the translation stands in the fourth column.
        plane = torch.eye(3, dtype=aug.dtype, device=aug.device).repeat(*aug.shape[:2], 1, 1)
        plane[..., :2, :2], plane[..., :2, 2] = aug[..., :2, :2], aug[..., :2, 3]
        linear = linear @ torch.linalg.inv(plane)
    rays = torch.einsum("bnij,hwj->bnhwi", linear, homogeneous.to(linear.device))
    return rays, to_lidar[..., :3, 3]


def frustum_points(rays: Tensor, origins: Tensor, depths: Tensor) -> Tensor:
    """(B, N, D, h, w, 3) points in metres of ``camera_rays`` at all depths (D,)."""
    return origins[:, :, None, None, None] + depths.to(rays).view(-1, 1, 1, 1) * rays[:, :, None]


class LiftSplatTransform(nn.Module):
    """View transform: features of N cameras -> a map of the ground.

    One 1 x 1 convolution gives every feature a distribution over the depths and a context vector; alpha_d c of every
    depth d is summed into the cell that the point lies in. Cells come from calibration and augmentation alone; those of
    the last rigs are kept, by the content of their matrices.

    Args:
        in_channels: width of the image features.
        context_channels: width C of the context.
        frustum: pixels and depths.
        grid: cells of the ground, and the range of heights outside which points are dropped.
        z_slices: slices Nz of the heights, which become channels.
        compat: ``'floor'``, or ``'trunc'`` for weights of the public code: see ``cells_of_rays``.
        cached_rigs: how many geometries are kept (a batch is one); 0 for training under augmentation, where none
            comes twice.
    """

    def __init__(
        self,
        in_channels: int,
        context_channels: int,
        frustum: Frustum,
        grid: BEVGrid,
        z_slices: int = 1,
        compat: str = "floor",
        cached_rigs: int = 2,
    ) -> None:
        super().__init__()
        self.frustum, self.grid = frustum, grid
        self.z_slices, self.compat = z_slices, compat
        self.context_channels = context_channels
        self.depthnet = nn.Conv2d(in_channels, frustum.num_depths + context_channels, 1)
        self.indices = IndexCache(cached_rigs)

    @property
    def out_channels(self) -> int:
        """Channels of the map."""
        return self.z_slices * self.context_channels

    def lift(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, K, h, w) -> distribution alpha (B, N, D, h, w) and context (B, N, C, h, w)."""
        found = self.depthnet(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        logits, context = found.split([self.frustum.num_depths, self.context_channels], dim=2)
        return logits.softmax(dim=2), context

    def index(
        self, lidar2cam: Tensor, cam2img: Tensor, img_aug: Tensor | None = None, lidar_aug: Tensor | None = None
    ) -> SplatIndex:
        """Entries for calibrations (B, N, 4, 4), on their device; from the cache if they are known."""
        device = lidar2cam.device
        # Inverses of a few small matrices: on the CPU also for models on a GPU, where the cache needs their bytes.
        rig = (lidar2cam.detach().cpu(), cam2img.detach().cpu())
        img_aug, lidar_aug = (None if m is None else m.detach().cpu() for m in (img_aug, lidar_aug))

        def build() -> SplatIndex:
            rays, origins = camera_rays(self.frustum.pixels(), *rig, img_aug, lidar_aug)
            rays, origins, depths = (t.to(device) for t in (rays, origins, self.frustum.depths()))
            cells = cells_of_rays(rays, origins, depths, self.grid, self.z_slices, self.compat)
            return SplatIndex.from_cells(cells, (*self.grid.shape, self.z_slices))

        return self.indices.get((device, self.frustum, self.grid, *rig, img_aug, lidar_aug), build)

    def forward(
        self,
        features: Tensor,
        lidar2cam: Tensor,
        cam2img: Tensor,
        img_aug: Tensor | None = None,
        lidar_aug: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, N, K, h, w) -> map (B, Nz * C, Ny, Nx) float32, and alpha (B, N, D, h, w)."""
        alpha, context = self.lift(features)
        return splat(alpha, context, self.index(lidar2cam, cam2img, img_aug, lidar_aug)), alpha
