"""The small network in which embeddings are compared, and which is thrown away afterwards."""

from __future__ import annotations

from torch import nn

from perception.layers.linear import Linear


def projection_head(width: int, hidden: int, out: int, layers: int = 2, norm: bool = True) -> nn.Sequential:
    """SimCLR's (Chen et al., 2020): linear maps from ``width`` to ``out``, a batch norm and a ReLU behind all but one.

    Args:
        width: of the input.
        hidden: of the layers between.
        out: of the output.
        layers: number of linear maps.
        norm: with the batch norms.
    """
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [Linear(width, hidden), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
        width = hidden
    return nn.Sequential(*parts, Linear(width, out))
