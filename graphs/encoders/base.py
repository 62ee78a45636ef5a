"""What the graph encoders share: node or graph level, pooling, and the baselines that need no training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault, nearest, not_among
from perception.layers.adjacency import Adjacency
from perception.layers.node_features import NodeFeatures
from perception.transforms.preprocess import Batch, Preprocess

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "prelu": nn.PReLU,  # one slope, 0.25 at first
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leakyrelu": nn.LeakyReLU,
    "none": nn.Identity,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batchnorm": nn.BatchNorm1d,
    "layernorm": nn.LayerNorm,
    "none": lambda width: nn.Identity(),
}
POOLINGS = ("mean", "max", "sum")
LEVELS = ("node", "graph")


def build_activation(name: str | None) -> nn.Module:
    """Activation by name; ``None`` is the identity."""
    return ACTIVATIONS[_known(name or "none", ACTIVATIONS, "activation")]()


def build_norm(name: str | None, width: int) -> nn.Module:
    """Normalisation of (N, width) by name; ``None`` is the identity."""
    return NORMS[_known(name or "none", NORMS, "norm")](width)


def _known(name: str, choices: Any, key: str) -> str:
    if name not in choices:
        raise ConfigError(
            [Fault(f"model.backbone.{key}", name, f"not one of {sorted(choices)}", nearest(name, choices))]
        )
    return name


def pool(nodes: Tensor, graph: Any, how: str) -> Tensor:
    """Pool node rows (N, D) over each graph -> (G, D); a graph without nodes gives zeros."""
    index, count = graph_index(graph, nodes.shape[0], nodes.device)
    if how == "max":
        out = nodes.new_zeros(count, nodes.shape[1])
        return out.scatter_reduce(0, index.unsqueeze(1).expand_as(nodes), nodes, "amax", include_self=False)
    total = nodes.new_zeros(count, nodes.shape[1]).index_add(0, index, nodes)
    if how == "sum":
        return total
    return total / torch.bincount(index, minlength=count).clamp_min(1).unsqueeze(1).to(nodes.dtype)


def graph_index(graph: Any, num_nodes: int, device: torch.device) -> tuple[Tensor, int]:
    """Graph of every node (N,), and the number of graphs. A graph that is no batch counts as one."""
    index = getattr(graph, "batch", None)
    if index is None:
        return torch.zeros(num_nodes, dtype=torch.long, device=device), 1
    pointers = getattr(graph, "ptr", None)
    return index, len(pointers) - 1 if pointers is not None else int(index.max()) + 1


def graph_adjacency(graph: Any) -> Adjacency:
    """The adjacency that ``GraphPreprocess`` attached, or one made of ``edge_index`` as it is."""
    adjacency = getattr(graph, "adjacency", None)
    return adjacency if adjacency is not None else Adjacency.from_edges(graph.edge_index, graph.x.shape[0])


class GraphBackbone(Backbone):
    """Base of the encoders: a stack ``self.layers`` of one operator.

    Args:
        in_dim: width D of the node features.
        num_hidden: width H of every layer's output.
        num_layers: number L of layers.
        in_drop: dropout of the input of every layer.
        level: what ``encode`` gives: one row a node (``'node'``) or a graph (``'graph'``).
        pooling: ``'mean'``, ``'max'`` or ``'sum'`` over a graph's nodes.
        out_indices: layers whose node rows ``forward`` gives; ``None`` means all. Negative ones count from the end.
        preprocess: the GraphPreprocess record.
    """

    modality: ClassVar[str] = "graph"
    layers: nn.ModuleList

    def __init__(
        self,
        in_dim: int,
        num_hidden: int,
        num_layers: int,
        in_drop: float,
        level: str,
        pooling: str,
        out_indices: Sequence[int] | None,
        preprocess: Preprocess | dict[str, Any] | None,
    ) -> None:
        super().__init__({"type": "GraphPreprocess"} if preprocess is None else preprocess)
        self.in_dim = in_dim
        self.embed_dims = num_hidden
        self.num_layers = num_layers
        self.in_drop = in_drop
        self.level = _known(level, LEVELS, "level")
        self.pooling = _known(pooling, POOLINGS, "pooling")
        indices = range(num_layers) if out_indices is None else out_indices
        self.out_indices = tuple(i % num_layers for i in indices)
        self.strides = ()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message), found without building."""
        faults = []
        for key in ("in_dim", "num_hidden", "num_layers"):
            value = cfg.get(key)
            if isinstance(value, int) and value < 1:
                faults.append((key, "must be at least 1"))
        for key in ("in_drop", "attn_drop"):
            value = cfg.get(key)
            if isinstance(value, (int, float)) and not 0 <= value < 1:
                faults.append((key, "a dropout probability lies in [0, 1)"))
        for key, choices in (
            ("level", LEVELS),
            ("pooling", POOLINGS),
            ("activation", tuple(ACTIVATIONS)),
            ("norm", tuple(NORMS)),
        ):
            value = cfg.get(key)
            if value is not None and value not in choices:
                faults.append((key, not_among(value, choices)))
        heads, width = cfg.get("num_heads"), cfg.get("num_hidden")
        if isinstance(heads, int) and isinstance(width, int) and (heads < 1 or width % heads):
            faults.append(("num_heads", f"{heads} heads do not divide num_hidden = {width}"))
        layers = cfg.get("num_layers")
        if isinstance(layers, int) and cfg.get("out_indices") is not None:
            wrong = [i for i in cfg["out_indices"] if not -layers <= i < layers]
            if wrong:
                faults.append(("out_indices", f"{wrong} lie outside the {layers} layers"))
        return faults

    def layer(self, depth: int, x: NodeFeatures | Tensor, adjacency: Adjacency, rows: Tensor | None) -> Tensor:
        """Output of layer ``depth``; with ``rows`` only those of its targets may be computed."""
        return self.layers[depth](x, adjacency, rows)

    @property
    @abstractmethod
    def mixes_nodes(self) -> bool:
        """Whether a layer's norm sees all nodes together, so that no node may be left out of a training step."""

    def forward_nodes(
        self, features: NodeFeatures | Tensor, adjacency: Adjacency, last_rows: Tensor | None = None
    ) -> list[Tensor]:
        """Node rows (N, H) after every layer.

        Args:
            features: (N, D) node features.
            adjacency: edges with self-loops.
            last_rows: (R,) nodes that are wanted of the last layer, whose output then is (R, H).
        """
        first = NodeFeatures.of(features)
        if first.width != self.in_dim:
            raise DataError(f"the graph has {first.width} features a node, model.backbone.in_dim is {self.in_dim}")
        x: NodeFeatures | Tensor = first
        maps: list[Tensor] = []
        for depth in range(self.num_layers):
            rows = last_rows if depth == self.num_layers - 1 and not self.mixes_nodes else None
            x = self.layer(depth, x, adjacency, rows)
            maps.append(x)
        if last_rows is not None and self.mixes_nodes:
            maps[-1] = maps[-1].index_select(0, last_rows)
        return maps

    def forward(self, x: Any) -> tuple[Tensor, ...]:
        """Node rows (N, H) of the layers at ``out_indices`` for a preprocessed ``torch_geometric`` graph."""
        maps = self.forward_nodes(x.x, graph_adjacency(x))
        return tuple(maps[i] for i in self.out_indices)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """(N, H) rows of all nodes at node level, (G, H) at graph level.

        Args:
            batch: a preprocessed batch with ``graph``.
            feature: ``'pooled'`` (``pooling`` as configured) or the name of a pooling.
        """
        choices = self.feature_choices()
        if feature is not None and feature not in choices:
            raise ConfigError(
                [Fault("evaluation.feature", feature, f"not one of {choices}", nearest(feature, choices))]
            )
        graph = batch["graph"]
        nodes = self.forward_nodes(graph.x, graph_adjacency(graph))[-1]
        return self._pooled(nodes, graph, feature)

    def _pooled(self, nodes: Tensor, graph: Any, feature: str | None = None) -> Tensor:
        if self.level == "node":
            return nodes
        return pool(nodes, graph, self.pooling if feature in (None, "pooled") else str(feature))

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """``'pooled'`` as configured, or one of the poolings (the same at node level)."""
        return ("pooled", *POOLINGS)

    def raw_features(self, batch: Batch) -> Tensor:
        """The node features themselves, pooled at graph level."""
        graph = batch["graph"]
        return self._pooled(_dense(graph.x), graph)

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Raw features, and the features after two steps of symmetric propagation (SGC, Wu et al. 2019)."""
        graph = batch["graph"]
        raw = _dense(graph.x)
        propagated = propagate(raw, graph_adjacency(graph), steps=2)
        return {"raw": self._pooled(raw, graph), "propagated": self._pooled(propagated, graph)}

    def layer_count(self) -> int:
        """Input, the layers, the head."""
        return self.num_layers + 2

    def layer_id(self, name: str) -> int:
        """Layer ``i`` (from 0) is group ``i + 1``."""
        parts = name.split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else 0


def propagate(x: Tensor, adjacency: Adjacency, steps: int) -> Tensor:
    """(D_in^-1/2 A D_out^-1/2)^steps x for dense ``x`` (N, D)."""
    into = adjacency.in_degree().clamp_min(1).rsqrt().unsqueeze(1)
    out_of = adjacency.out_degree().clamp_min(1).rsqrt().unsqueeze(1)
    for _ in range(steps):
        x = into * adjacency.aggregate(out_of * x)
    return x


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if x.layout == torch.sparse_csr else x
