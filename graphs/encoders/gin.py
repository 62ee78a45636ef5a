"""Graph isomorphism network (Xu et al., "How Powerful are Graph Neural Networks?", ICLR 2019) as GraphMAE uses it.

    out_i = act(norm(MLP((1 + eps) x_i + sum over edges j -> i of x_j))) ,   MLP = Linear, norm, act, Linear

``eps`` is fixed at 0. The graphs here carry self-loops, so a node counts itself twice.
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


class GINLayer(nn.Module):
    """One GIN layer, (N, in_dim) -> (N, out_dim).

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        hidden_dim: width inside the MLP; ``None`` takes ``out_dim``.
        in_drop: dropout of the input.
        activation: name of the activation in the MLP and after it.
        norm: name of the norm in the MLP and after it, or ``None``.
        residual: add the input, through a bias-free linear map if the widths differ.
        bare: leave out norm and activation after the MLP, as a decoder does.
        eps: weight of the node itself beside its neighbours.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        in_drop: float = 0.0,
        activation: str | None = "prelu",
        norm: str | None = None,
        residual: bool = False,
        bare: bool = False,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden_dim or out_dim
        self.in_dim, self.in_drop, self.eps = in_dim, in_drop, eps
        self.fc1 = nn.Linear(in_dim, hidden)
        self.norm1 = build_norm(norm, hidden)
        self.activation1 = build_activation(activation)
        self.fc2 = nn.Linear(hidden, out_dim)
        self.norm = build_norm(None if bare else norm, out_dim)
        self.activation = build_activation(None if bare else activation)
        self.residual = residual
        self.res_fc = nn.Linear(in_dim, out_dim, bias=False) if residual and in_dim != out_dim else None

    def forward(self, x: NodeFeatures | Tensor, adjacency: Adjacency, rows: Tensor | None = None) -> Tensor:
        """Outputs (N, out_dim), or (R, out_dim) of the nodes ``rows`` (R,)."""
        if rows is not None and isinstance(self.norm1, nn.BatchNorm1d):  # its statistics are those of all nodes
            return self(x, adjacency).index_select(0, rows)
        if rows is not None:
            adjacency = adjacency.restrict(rows)
        if isinstance(x, NodeFeatures) and (x.is_sparse or self.in_dim > self.fc1.out_features) and not self.residual:
            # Linear maps commute with the sum over neighbours: project the wide rows first.
            hidden = self._gather(x.linear(self.fc1.weight, self.in_drop, self.training), adjacency, rows)
            hidden = hidden + self.fc1.bias
            own = None
        else:
            own = dropout(x.dense() if isinstance(x, NodeFeatures) else x, self.in_drop, self.training)
            hidden = F.linear(self._gather(own, adjacency, rows), self.fc1.weight, self.fc1.bias)
        out = self.fc2(self.activation1(self.norm1(hidden)))
        out = self.activation(self.norm(out))
        if not self.residual or own is None:
            return out
        own = own if rows is None else own.index_select(0, rows)
        return out + (own if self.res_fc is None else self.res_fc(own))

    def _gather(self, x: Tensor, adjacency: Adjacency, rows: Tensor | None) -> Tensor:
        own = x if rows is None else x.index_select(0, rows)
        return (1 + self.eps) * own + adjacency.aggregate(x)


@BACKBONES.register_module()
class GIN(GraphBackbone):
    """Stack of GINLayers.

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
        norm: str | None = "batchnorm",
        residual: bool = False,
        level: str = "graph",
        pooling: str = "mean",
        out_indices: Sequence[int] | None = None,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_dim, num_hidden, num_layers, in_drop, level, pooling, out_indices, preprocess)
        self.norm = norm
        self.layers = nn.ModuleList(
            GINLayer(
                in_dim if depth == 0 else num_hidden,
                num_hidden,
                in_drop=in_drop,
                activation=activation,
                norm=norm,
                residual=residual,
            )
            for depth in range(num_layers)
        )

    @property
    def mixes_nodes(self) -> bool:
        """True with batch norm."""
        return self.norm == "batchnorm"
