"""Fusion of maps of the ground."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.layers.image_fpn import conv_bn_relu


class ConvFuser(nn.Module):
    """Stacks the channels of maps and mixes them by a 3 x 3 convolution, batch norm and ReLU (Liu et al., 2023).

    Args:
        in_channels: channels of every map.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.mix = conv_bn_relu(sum(in_channels), out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_k, Ny, Nx) in the order of ``in_channels`` -> (B, out_channels, Ny, Nx)."""
        return self.mix(torch.cat(list(maps), dim=1))


def keep_one_at_least(size: int, rates: Sequence[float], device: torch.device) -> Tensor:
    """Which of S sensors or branches each sample keeps, all but at most one: (B, S) bool, drawn from torch's generator.

    Args:
        size: samples B.
        rates: (S,) probability with which each is dropped, at most 1 together; never several of a sample.
        device: of the result.
    """
    drawn = torch.rand(size)
    ends = [sum(rates[: place + 1]) for place in range(len(rates) - 1)]
    first = [(drawn < end - rate) | (drawn >= end) for end, rate in zip(ends, rates, strict=False)]
    return torch.stack([*first, drawn < 1 - rates[-1]], dim=1).to(device)
