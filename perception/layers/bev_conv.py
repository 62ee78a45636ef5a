"""The 2-D network on a map of pillars or flattened voxels, and the neck that joins its stages.

"SECOND: Sparsely Embedded Convolutional Detection" (Yan et al., 2018) and "PointPillars" (Lang et al., 2019).
State-dict keys are those of mmdetection3d's ``SECOND`` and ``SECONDFPN``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class BEVStages(nn.Module):
    """Stages of 3 x 3 convolutions with batch norm and ReLU, without bias; the first of a stage has its stride.

    Args:
        inputs: channels of the map.
        layers: convolutions of every stage after its first.
        strides: of every stage.
        channels: of every stage.
    """

    def __init__(self, inputs: int, layers: Sequence[int], strides: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        blocks = []
        for count, stride, width in zip(layers, strides, channels, strict=True):
            parts: list[nn.Module] = []
            for place in range(count + 1):
                conv = nn.Conv2d(width if place else inputs, width, 3, 1 if place else stride, 1, bias=False)
                parts += [_kaiming(conv), nn.BatchNorm2d(width, **NORM), nn.ReLU()]
            blocks.append(nn.Sequential(*parts))
            inputs = width
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, Ny, Nx) -> the map of every stage."""
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


class BEVNeck(nn.Module):
    """Brings the maps of all stages to one size and joins their channels.

    Args:
        inputs: channels of every stage.
        scales: how many times longer the sides of a stage's map become: 2 and more by a transposed convolution whose
            kernel is its stride, 0.5 by a convolution of kernel and stride 2, 1 as ``conv_for_one`` says.
        channels: of every stage behind it.
        conv_for_one: a convolution where the scale is 1, instead of a transposed one; the weight's first two sizes are
            exchanged.
    """

    def __init__(
        self, inputs: Sequence[int], scales: Sequence[float], channels: Sequence[int], conv_for_one: bool = False
    ) -> None:
        super().__init__()
        deblocks = []
        for width, scale, out in zip(inputs, scales, channels, strict=True):
            size = round(scale if scale >= 1 else 1 / scale)
            up = scale > 1 or (scale == 1 and not conv_for_one)
            kind = nn.ConvTranspose2d if up else nn.Conv2d
            conv = kind(width, out, size, size, bias=False)
            deblocks.append(nn.Sequential(_kaiming(conv), nn.BatchNorm2d(out, **NORM), nn.ReLU()))
        self.deblocks = nn.ModuleList(deblocks)
        self.out_channels = sum(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of all stages -> (B, sum of channels, Ny, Nx)."""
        return torch.cat([block(x) for block, x in zip(self.deblocks, maps, strict=True)], dim=1)


def _kaiming(conv: nn.Module) -> nn.Module:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    return conv


def out_stride(strides: Sequence[int], scales: Sequence[float]) -> int | None:
    """Down-sampling of the joined map; ``None`` where the stages do not come to one size."""
    found, total = set(), 1
    for stride, scale in zip(strides, scales, strict=True):
        total *= stride
        found.add(Fraction(total) / Fraction(scale).limit_denominator(64))
    only = found.pop() if len(found) == 1 else Fraction(1, 2)
    return int(only) if only.denominator == 1 else None


def stage_faults(
    shape: tuple[int, int],
    layers: Sequence[int],
    strides: Sequence[int],
    channels: Sequence[int],
    scales: Sequence[float],
    neck_channels: Sequence[int],
) -> Iterable[tuple[str, str]]:
    """What is wrong with stages and neck on a map of ``shape`` (Ny, Nx): (key, message)."""
    named = {"layers": layers, "strides": strides, "channels": channels, "neck_channels": neck_channels}
    for key, values in named.items():
        least = 0 if key == "layers" else 1
        if not values or any(not isinstance(v, int) or v < least for v in values):
            yield key, f"needs whole numbers of at least {least}"
            return
    if any(not _is_scale(s) for s in scales):
        yield "scales", "needs 1, 2, 3, ... to enlarge a map, or 0.5, 0.25, ... to shrink it"
        return
    lengths = {key: len(values) for key, values in {**named, "scales": scales}.items()}
    if len(set(lengths.values())) > 1:
        yield "layers", f"stages are counted differently: {', '.join(f'{k} {n}' for k, n in lengths.items())}"
        return
    stride = out_stride(strides, scales)
    if stride is None:
        yield "scales", f"{tuple(scales)} do not bring stages of strides {tuple(strides)} to one size"
        return
    total = 1
    for value in strides:
        total *= value
    need = max(total, stride)
    if shape[0] % need or shape[1] % need:
        yield "strides", f"a map of {shape[0]} x {shape[1]} cells cannot be divided by {need} in all"


def _is_scale(scale: Any) -> bool:
    if not isinstance(scale, (int, float)) or not scale > 0:
        return False
    size = scale if scale >= 1 else 1 / scale
    return abs(size - round(size)) < 1e-6
