"""The Preprocess record of graphs: how features are scaled and which self-loops there are."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault, not_among
from perception.layers.adjacency import Adjacency, csr
from perception.registry import PREPROCESSES
from perception.transforms.preprocess import Batch, Preprocess

_SCALINGS = ("none", "row", "zscore")


class _LastResult:
    """The latest graph and what became of it, valid while its tensors are the same objects, unchanged.

    Full-batch training asks for the same graph at every step. Copies and pickles of this object start empty.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._result: Any = None

    def get(self, tensors: tuple[Tensor, ...]) -> Any:
        """The stored result if it was computed from these very tensors, else ``None``."""
        if self._key is None or len(self._key) != len(tensors):
            return None
        same = all(
            ref() is x and versions == _versions(x) for (ref, versions), x in zip(self._key, tensors, strict=True)
        )
        return self._result if same else None

    def put(self, tensors: tuple[Tensor, ...], result: Any) -> None:
        """Remember ``result`` of ``tensors``; the tensors themselves are not kept alive."""
        self._key = tuple((weakref.ref(x), _versions(x)) for x in tensors)
        self._result = result

    def __deepcopy__(self, memo: dict[int, Any]) -> _LastResult:
        return _LastResult()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_LastResult, ())


def _versions(x: Tensor) -> tuple[int, ...]:
    if x.layout == torch.sparse_csr:
        return (x.values()._version, x.col_indices()._version, x.crow_indices()._version, x.values().data_ptr())
    return (x._version, x.data_ptr())


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class GraphPreprocess(Preprocess):
    """Scales node features and makes the self-loops of a ``torch_geometric`` graph.

    Attributes:
        scaling: ``'none'``; ``'row'`` divides every row by the sum of its absolute values (zero rows stay zero), as
            bags of words need; ``'zscore'`` standardises every column.
        self_loops: remove the self-loops of the data and add one to every node.
        mean: column means for ``'zscore'``, one a column. ``None`` takes those of the graph at hand, which is right
            for one graph that holds all nodes and refused for batches of several graphs.
        std: column standard deviations, together with ``mean``.

    The graph that comes out has float32 ``x`` (N, D) (dense, or CSR if it came in as CSR), ``edge_index`` (2, E)
    sorted by target, and ``adjacency``, the same edges ready for sparse products. Attributes of edges are left out:
    no encoder here reads them, and they would no longer match.
    """

    modality: ClassVar[str] = "graph"

    scaling: str = "none"
    self_loops: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    _last: _LastResult = field(default_factory=_LastResult, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults = [
            Fault(f"preprocess.{key}", getattr(self, key), message)
            for key, message in self.check_config({name: getattr(self, name) for name in self.field_names()})
        ]
        if faults:
            raise ConfigError(faults)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the recorded values."""
        return ("scaling", "self_loops", "mean", "std")

    def record(self) -> dict[str, Any]:
        """Plain values for checkpoints and exports."""
        return {"type": type(self).__name__, **{name: getattr(self, name) for name in self.field_names()}}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = []
        if cfg.get("scaling", "none") not in _SCALINGS:
            faults.append(("scaling", not_among(cfg["scaling"], _SCALINGS)))
        mean, std = cfg.get("mean"), cfg.get("std")
        if (mean is None) != (std is None):
            faults.append(("std", "mean and std are given together or not at all"))
        elif mean is not None and std is not None and len(mean) != len(std):
            faults.append(("std", f"{len(std)} values, but mean has {len(mean)}"))
        if mean is not None and cfg.get("scaling") != "zscore":
            faults.append(("mean", "column statistics need scaling='zscore'"))
        return faults

    def __call__(self, batch: Batch) -> Batch:
        """Return a shallow copy of ``batch`` with a new ``graph``; the result for the latest graph is remembered."""
        graph = batch["graph"]
        tensors = (graph.x, graph.edge_index)
        done = self._last.get(tensors)
        if done is None:
            done = self._scale(graph), self._edges(graph.edge_index, graph.x.shape[0])
            self._last.put(tensors, done)
        x, adjacency = done
        out = copy.copy(graph)
        for key in list(out.keys()):
            if key.startswith("edge_") and key != "edge_index":
                del out[key]
        out.x, out.edge_index, out.adjacency = x, adjacency.edge_index, adjacency
        return {**batch, "graph": out}

    def _edges(self, edge_index: Tensor, num_nodes: int) -> Adjacency:
        if self.self_loops:
            loops = torch.arange(num_nodes, device=edge_index.device).repeat(2, 1)
            edge_index = torch.cat([edge_index[:, edge_index[0] != edge_index[1]], loops.to(edge_index.dtype)], 1)
        return Adjacency.from_edges(edge_index.long(), num_nodes)

    def _scale(self, graph: Any) -> Tensor:
        x = graph.x if graph.x.is_floating_point() else graph.x.float()
        x = x.float()
        if self.scaling == "row":
            return _row_normalize(x)
        if self.scaling == "zscore":
            return self._standardize(x.to_dense() if x.layout == torch.sparse_csr else x, graph)
        return x

    def _standardize(self, x: Tensor, graph: Any) -> Tensor:
        if self.mean is not None and self.std is not None:
            if len(self.mean) != x.shape[1]:
                raise DataError(f"the graph has {x.shape[1]} features a node, preprocess.mean has {len(self.mean)}")
            mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
        elif getattr(graph, "batch", None) is not None:
            raise DataError(
                "preprocess.scaling='zscore' without mean and std takes the statistics of the graph at hand, which "
                "would differ from batch to batch here: set preprocess.mean and preprocess.std"
            )
        else:
            mean, std = x.mean(0), x.std(0, correction=0)
        return (x - mean) / torch.where(std > 0, std, torch.ones_like(std))


def _row_normalize(x: Tensor) -> Tensor:
    if x.layout == torch.sparse_csr:
        crow, col, value = x.crow_indices(), x.col_indices(), x.values()
        row = torch.repeat_interleave(crow[1:] - crow[:-1])
        total = value.new_zeros(x.shape[0]).index_add_(0, row, value.abs())
        return csr(crow, col, value / total.clamp_min(torch.finfo(value.dtype).tiny)[row], (x.shape[0], x.shape[1]))
    total = x.abs().sum(1, keepdim=True)
    return x / torch.where(total > 0, total, torch.ones_like(total))
