"""Convolutional encoders of a camera's map of the ground."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from perception.layers.image_fpn import conv_bn_relu


class Downsample(nn.Sequential):
    """BEVFusion's (Liu et al., 2023): three 3 x 3 convolutions with norms, the second of stride ``stride``.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        stride: cells per cell of the result.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__(
            *conv_bn_relu(in_channels, out_channels),
            *conv_bn_relu(out_channels, out_channels, stride=stride),
            *conv_bn_relu(out_channels, out_channels),
        )


class BEVResNet(nn.Module):
    """Three stages of two residual blocks, the deepest enlarged onto the first, and back to full resolution.

    LSS's encoder (Philion and Fidler, 2020) is a ResNet-18 without its last stage: a 7 x 7 convolution of stride 2 and
    stages of 64, 128 and 256 channels. BEVDet's ("BEVDet", Huang et al., 2021) has no such convolution, and its first
    stage has a stride, too.

    Args:
        in_channels: channels of the map.
        widths: channels of the three stages.
        mixed: channels after the first enlargement.
        out_channels: channels of the result.
        stem: begin with the 7 x 7 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (64, 128, 256),
        mixed: int = 256,
        out_channels: int = 128,
        stem: bool = True,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = conv_bn_relu(in_channels, first, kernel=7, stride=2) if stem else nn.Identity()
        before = first if stem else in_channels
        self.layer1 = _stage(before, first, 1 if stem else 2)
        self.layer2 = _stage(first, second, 2)
        self.layer3 = _stage(second, third, 2)
        self.up1 = nn.Sequential(*conv_bn_relu(third + first, mixed), *conv_bn_relu(mixed, mixed))
        self.up2 = conv_bn_relu(mixed, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Ny, Nx) -> (B, out_channels, Ny, Nx)."""
        fine = self.layer1(self.stem(x))
        coarse = self.layer3(self.layer2(fine))
        merged = self.up1(torch.cat([fine, _enlarge(coarse, fine)], dim=1))
        return self.up2(_enlarge(merged, x))


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    # Edges of the corner cells coincide, not their centres as in LSS: the map stays where it is in metres.
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    return nn.Sequential(BasicBlock(before, after, stride, shortcut), BasicBlock(after, after))
