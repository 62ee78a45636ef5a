"""``nn.Linear`` by the faster of torch's two float32 matrix products on CPUs.

Torch multiplies float32 matrices with MKL, which takes its slow path on processors that are not Intel's; oneDNN, which
torch uses for convolutions, takes the wide one everywhere. A linear map is a 1 x 1 convolution over channels-last data,
so the same numbers can be had about twice as fast on such machines (247 against 114 GFLOP/s on one Zen core).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST = 16  # narrower maps gain nothing


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: (..., K) x (N, K) -> (..., N)."""
    if not _by_convolution(x, weight):
        return F.linear(x, weight, bias)
    batch, length, _ = x.shape
    # (B, K, 1, T) with K innermost in memory: a view, and so is the way back.
    pixels = x.contiguous().view(batch, 1, length, -1).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(batch, length, -1)


class Linear(nn.Linear):
    """``nn.Linear`` through ``linear``; parameters and their names are the same."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return linear(input, self.weight, self.bias)


def use_fast_linear(module: nn.Module) -> None:
    """Let every plain ``nn.Linear`` below ``module`` multiply through ``linear``, parameters and names kept."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            fast = Linear(1, 1, bias=child.bias is not None)
            fast.in_features, fast.out_features = child.in_features, child.out_features
            fast.weight, fast.bias = child.weight, child.bias
            setattr(module, name, fast)
        else:
            use_fast_linear(child)


def _by_convolution(x: Tensor, weight: Tensor) -> bool:
    # A rule, not a timing: the choice must be the same in a run and in its resumption.
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 3
        and x.numel() > 0
        and min(weight.shape) >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and _slow_mkl()
    )


@cache
def _slow_mkl() -> bool:
    """Whether torch has oneDNN, and MKL on a processor of another vendor than Intel."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    described = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        with cpuinfo.open() as lines:
            described = next((line for line in lines if line.startswith("vendor_id")), described)
    return bool(described) and "intel" not in described.lower()
