"""Graph convolution (Kipf and Welling, "Semi-Supervised Classification with GCNs", ICLR 2017) as GraphMAE uses it.

    out_i = act(norm(residual_i + D_in(i)^-1/2 (W sum over edges j -> i of D_out(j)^-1/2 x_j + b)))

The bias is inside the scaling, as in the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from perception.graphs.encoders.base import GraphBackbone, build_activation, build_norm
from perception.layers.adjacency import Adjacency
from perception.layers.node_features import NodeFeatures, dropout
from perception.registry import BACKBONES
from perception.transforms.preprocess import Preprocess


class GCNLayer(nn.Module):
    """One GCN layer, (N, in_dim) -> (N, out_dim).

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        in_drop: dropout of the input.
        activation: name, or ``None``.
        norm: name, or ``None``.
        residual: add the input, through a bias-free linear map if the widths differ.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        in_drop: float = 0.0,
        activation: str | None = None,
        norm: str | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.in_drop = in_dim, out_dim, in_drop
        self.fc = nn.Linear(in_dim, out_dim)
        self.residual = residual
        self.res_fc = nn.Linear(in_dim, out_dim, bias=False) if residual and in_dim != out_dim else None
        self.norm = build_norm(norm, out_dim)
        self.activation = build_activation(activation)

    def forward(self, x: NodeFeatures | Tensor, adjacency: Adjacency, rows: Tensor | None = None) -> Tensor:
        """Outputs (N, out_dim), or (R, out_dim) of the nodes ``rows`` (R,)."""
        source_scale = adjacency.out_degree().clamp_min(1).rsqrt().unsqueeze(1)
        if rows is not None:
            adjacency = adjacency.restrict(rows)
        target_scale = adjacency.in_degree().clamp_min(1).rsqrt().unsqueeze(1)
        if isinstance(x, NodeFeatures) and (x.is_sparse or self.in_dim > self.out_dim) and not self.residual:
            own = None
            out = adjacency.aggregate(source_scale * x.linear(self.fc.weight, self.in_drop, self.training))
            out = out + self.fc.bias
        else:
            own = dropout(x.dense() if isinstance(x, NodeFeatures) else x, self.in_drop, self.training)
            if self.in_dim > self.out_dim:
                out = adjacency.aggregate(source_scale * F.linear(own, self.fc.weight)) + self.fc.bias
            else:
                out = self.fc(adjacency.aggregate(source_scale * own))
        out = target_scale * out
        if self.residual and own is not None:
            own = own if rows is None else own.index_select(0, rows)
            out = out + (own if self.res_fc is None else self.res_fc(own))
        return self.activation(self.norm(out))


@BACKBONES.register_module()
class GCN(GraphBackbone):
    """Stack of GCNLayers.

    Args:
        in_dim: width D of the node features.
        num_hidden: width H of every layer.
        num_layers: number of layers.
        in_drop: dropout of the input of every layer.
        activation: ``'prelu'``, ``'relu'``, ``'gelu'``, ``'elu'``, ``'leakyrelu'``, ``'none'``.
        norm: ``'batchnorm'``, ``'layernorm'`` or ``None``.
        residual: add every layer's input to its output.
        level: what ``encode`` gives, one row a ``'node'`` or a ``'graph'``.
        pooling: ``'mean'``, ``'max'`` or ``'sum'``, for graphs.
        out_indices: layers that ``forward`` gives, ``None`` for all.
        preprocess: the GraphPreprocess record.
    """

    def __init__(
        self,
        in_dim: int,
        num_hidden: int = 512,
        num_layers: int = 2,
        in_drop: float = 0.2,
        activation: str | None = "prelu",
        norm: str | None = None,
        residual: bool = False,
        level: str = "node",
        pooling: str = "mean",
        out_indices: Sequence[int] | None = None,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_dim, num_hidden, num_layers, in_drop, level, pooling, out_indices, preprocess)
        self.norm = norm
        self.layers = nn.ModuleList(
            GCNLayer(in_dim if depth == 0 else num_hidden, num_hidden, in_drop, activation, norm, residual)
            for depth in range(num_layers)
        )

    @property
    def mixes_nodes(self) -> bool:
        """True with batch norm."""
        return self.norm == "batchnorm"
