"""Necks that bring the maps of an image network to one map of the finest stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

MERGES = ("concat", "add")


def conv_bn_relu(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; odd kernels keep the size at stride 1."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class ImageFPN(nn.Module):
    """Merges maps from coarse to fine: every map takes in the one above it, bilinearly enlarged.

    ``'concat'`` stacks the channels of both and mixes them by two convolutions with norms: BEVFusion's neck with
    ``lateral_kernel=1`` (Liu et al., 2023), LSS's with 3 (Philion and Fidler, 2020). ``'add'`` is the plain pyramid
    ("Feature Pyramid Networks for Object Detection", Lin et al., 2017): 1 x 1 convolutions, sums, and one 3 x 3
    convolution on the finest map.

    Args:
        in_channels: channels of the maps, finest first.
        out_channels: channels of the result.
        merge: ``'concat'`` or ``'add'``.
        lateral_kernel: kernel of the first convolution after a concatenation.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, merge: str = "concat", lateral_kernel: int = 1
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge = {merge!r} is not one of {', '.join(MERGES)}")
        self.merge = merge
        if merge == "add":
            self.lateral = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in in_channels)
            self.out: nn.Module = nn.Conv2d(out_channels, out_channels, 3, padding=1)
            return
        # Finest first, as the maps; the coarsest is taken as it is. One map alone has nothing to be stacked on.
        above = [out_channels] * (len(in_channels) - 2) + [in_channels[-1]]
        pairs = zip(in_channels, above, strict=False) if len(in_channels) > 1 else [(in_channels[0], 0)]
        self.lateral = nn.ModuleList(
            nn.Sequential(
                *conv_bn_relu(fine + coarse, out_channels, lateral_kernel), *conv_bn_relu(out_channels, out_channels)
            )
            for fine, coarse in pairs
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_k, h_k, w_k), finest first -> (B, out_channels, h_0, w_0)."""
        if self.merge == "add":
            merged = self.lateral[-1](maps[-1])
            for lateral, fine in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
                merged = lateral(fine) + functional.interpolate(merged, size=fine.shape[-2:], mode="nearest")
            return self.out(merged)
        if len(maps) == 1:
            return self.lateral[0](maps[0])
        merged = maps[-1]
        for lateral, fine in zip(reversed(self.lateral), maps[-2::-1], strict=True):
            merged = lateral(_stack(fine, merged))
        return merged


def _stack(fine: Tensor, coarse: Tensor) -> Tensor:
    size = fine.shape[-2:]
    return torch.cat([fine, functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)], dim=1)
