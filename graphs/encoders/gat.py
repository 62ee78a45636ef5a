"""Graph attention (Velickovic et al., "Graph Attention Networks", ICLR 2018) as GraphMAE uses it (KDD 2022).

    e_ij = LeakyReLU(a_l . W x_j + a_r . W x_i)   for an edge j -> i,   alpha_i = softmax over the edges into i
    out_i = act(norm(concat over heads of (sum_j alpha_ij W x_j + b + residual_i)))

The scores never need W x: a . (W x) = (W^T a) . x, so the rows W^T a are appended to W and come out of the same
product. Where fewer rows are wanted than there are nodes, or there is one head that widens, the sum over neighbours
is taken before W: both orders are the same map, and the second multiplies only the wanted rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.graphs.encoders.base import GraphBackbone, build_activation, build_norm
from perception.layers.adjacency import Adjacency
from perception.layers.node_features import NodeFeatures, dropout
from perception.registry import BACKBONES
from perception.transforms.preprocess import Preprocess


class GATLayer(nn.Module):
    """One attention layer, (N, in_dim) -> (N, out_dim).

    Args:
        in_dim: width of the input.
        out_dim: width of all heads together.
        num_heads: number of heads.
        in_drop: dropout of the input.
        attn_drop: dropout of the attention after the softmax.
        negative_slope: slope of the LeakyReLU of the scores.
        activation: name, or ``None``.
        norm: name, or ``None``.
        residual: add the input, through a bias-free linear map if the widths differ.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int = 1,
        in_drop: float = 0.0,
        attn_drop: float = 0.0,
        negative_slope: float = 0.2,
        activation: str | None = None,
        norm: str | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if out_dim % num_heads:
            raise ValueError(f"num_heads = {num_heads} does not divide out_dim = {out_dim}")
        self.num_heads = num_heads
        self.head_dim = out_dim // num_heads
        self.in_dim, self.out_dim = in_dim, out_dim
        self.in_drop, self.attn_drop, self.negative_slope = in_drop, attn_drop, negative_slope
        self.fc = nn.Linear(in_dim, out_dim, bias=False)
        self.attn_l = nn.Parameter(torch.empty(1, num_heads, self.head_dim))
        self.attn_r = nn.Parameter(torch.empty(1, num_heads, self.head_dim))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.residual = residual
        self.res_fc = nn.Linear(in_dim, out_dim, bias=False) if residual and in_dim != out_dim else None
        self.norm = build_norm(norm, out_dim)
        self.activation = build_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-normal with gain sqrt(2); the fan of a score vector is that of its (1, heads, d) shape."""
        maps = [self.fc.weight, self.attn_l, self.attn_r]
        for weight in maps if self.res_fc is None else [*maps, self.res_fc.weight]:
            nn.init.xavier_normal_(weight, gain=math.sqrt(2.0))
        nn.init.zeros_(self.bias)

    def forward(self, x: NodeFeatures | Tensor, adjacency: Adjacency, rows: Tensor | None = None) -> Tensor:
        """Outputs (N, out_dim), or (R, out_dim) of the nodes ``rows`` (R,)."""
        aggregate_first = isinstance(x, Tensor) and self._aggregates_first(x.shape[0], rows)
        if rows is not None:
            adjacency = adjacency.restrict(rows)
        if aggregate_first:
            assert isinstance(x, Tensor)
            out = self._aggregate_then_project(dropout(x, self.in_drop, self.training), adjacency, rows)
        else:
            out = self._project_then_aggregate(x, adjacency, rows)
        return self.activation(self.norm(out))

    def _aggregates_first(self, num_nodes: int, rows: Tensor | None) -> bool:
        # The sum over neighbours costs heads * in_dim instead of out_dim numbers an edge, little beside the product.
        fewer = rows is not None and rows.numel() <= 0.7 * num_nodes
        return fewer or (self.num_heads == 1 and self.in_dim < self.out_dim)

    def _score_rows(self) -> Tensor:
        """(2H, in_dim): W^T a_l and W^T a_r of every head."""
        weight = self.fc.weight.view(self.num_heads, self.head_dim, self.in_dim)
        both = torch.cat([self.attn_l, self.attn_r])  # (2, H, d)
        return torch.einsum("khd,hdi->khi", both, weight).reshape(-1, self.in_dim)

    def _attention(self, source_score: Tensor, target_score: Tensor, adjacency: Adjacency) -> Tensor:
        """(E, H) attention of every edge, from (S, H) and (T, H) scores."""
        logits = source_score.index_select(0, adjacency.source) + target_score.index_select(0, adjacency.target)
        attention = adjacency.softmax(F.leaky_relu(logits, self.negative_slope))
        return dropout(attention, self.attn_drop, self.training)

    def _project_then_aggregate(self, x: NodeFeatures | Tensor, adjacency: Adjacency, rows: Tensor | None) -> Tensor:
        parts = [self.fc.weight, self._score_rows()]
        if self.res_fc is not None:
            parts.append(self.res_fc.weight)
        if isinstance(x, Tensor):
            x = dropout(x, self.in_drop, self.training)
            projected = F.linear(x, torch.cat(parts))
        else:
            if self.residual and self.res_fc is None:  # identity residual: it must see the same dropout
                x = NodeFeatures(dropout(x.dense(), self.in_drop, self.training))
                projected = F.linear(x.x, torch.cat(parts))
            else:
                projected = x.linear(torch.cat(parts), self.in_drop, self.training)
        sizes = [part.shape[0] for part in parts]
        heads = self.num_heads
        values, left, right, *residual = projected.split([sizes[0], heads, heads, *sizes[2:]], dim=1)
        attention = self._attention(left, right if rows is None else right.index_select(0, rows), adjacency)
        out = adjacency.aggregate(values.unflatten(1, (heads, self.head_dim)), attention).flatten(1) + self.bias
        if not self.residual:
            return out
        extra = residual[0] if residual else (x if isinstance(x, Tensor) else x.x)
        return out + (extra if rows is None else extra.index_select(0, rows))

    def _aggregate_then_project(self, x: Tensor, adjacency: Adjacency, rows: Tensor | None) -> Tensor:
        left, right = F.linear(x, self._score_rows()).split(self.num_heads, dim=1)
        attention = self._attention(left, right if rows is None else right.index_select(0, rows), adjacency)
        pooled = adjacency.aggregate(x, attention)  # (T, H, in_dim)
        if self.num_heads == 1:
            out = F.linear(pooled.squeeze(1), self.fc.weight, self.bias)
        else:
            weight = self.fc.weight.view(self.num_heads, self.head_dim, self.in_dim)
            out = torch.einsum("thi,hdi->thd", pooled, weight).flatten(1) + self.bias
        if not self.residual:
            return out
        extra = x if rows is None else x.index_select(0, rows)
        return out + (extra if self.res_fc is None else self.res_fc(extra))


@BACKBONES.register_module()
class GAT(GraphBackbone):
    """Stack of GATLayers; every layer, the last too, has heads, norm and activation.

    The reference leaves the activation out of an encoder of one layer; here one layer has it as well.

    Args:
        in_dim: width D of the node features.
        num_hidden: width H of every layer, all heads together.
        num_layers: number of layers.
        num_heads: heads of every layer.
        in_drop: dropout of the input of every layer.
        attn_drop: dropout of the attention.
        negative_slope: slope of the LeakyReLU of the scores.
        activation: ``'prelu'`` (one slope a layer), ``'relu'``, ``'gelu'``, ``'elu'``, ``'leakyrelu'``, ``'none'``.
        norm: ``'batchnorm'``, ``'layernorm'`` or ``None``.
        residual: add every layer's input to its output, through a bias-free linear map where the widths differ.
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
        num_heads: int = 4,
        in_drop: float = 0.2,
        attn_drop: float = 0.1,
        negative_slope: float = 0.2,
        activation: str | None = "prelu",
        norm: str | None = None,
        residual: bool = False,
        level: str = "node",
        pooling: str = "mean",
        out_indices: Sequence[int] | None = None,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_dim, num_hidden, num_layers, in_drop, level, pooling, out_indices, preprocess)
        self.attn_drop = attn_drop
        self.negative_slope = negative_slope
        self.norm = norm
        self.layers = nn.ModuleList(
            GATLayer(
                in_dim if depth == 0 else num_hidden,
                num_hidden,
                num_heads,
                in_drop,
                attn_drop,
                negative_slope,
                activation,
                norm,
                residual,
            )
            for depth in range(num_layers)
        )

    @property
    def mixes_nodes(self) -> bool:
        """True with batch norm."""
        return self.norm == "batchnorm"
