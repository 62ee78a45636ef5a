"""Larger node-level benchmarks, all through downloads: ogbn-arxiv (package ``ogb``), Reddit and PPI.

Hu et al.: "Open Graph Benchmark", NeurIPS 2020; Hamilton et al.: "Inductive Representation Learning on Large Graphs",
NeurIPS 2017; Zitnik and Leskovec: "Predicting multicellular function through multi-layer tissue networks", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from perception.errors import DataError
from perception.graphs.readers.base import (
    GraphDataset,
    NodeDataset,
    check_edges,
    check_features,
    check_labels,
    download_folder,
    fetch_geometric,
    geometric_splits,
)
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch


@DATASETS.register_module()
class OGBNodes(NodeDataset):
    """A node-classification graph of the Open Graph Benchmark, made undirected; needs ``pip install ogb``.

    Args:
        name: such as ``'ogbn-arxiv'``.
        split: ``'train'``, ``'val'``, ``'test'`` (the benchmark's) or ``'all'``.
        root: where the download goes; ``None`` takes the user's cache.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    def __init__(
        self,
        name: str = "ogbn-arxiv",
        split: str = "train",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)
        try:
            from ogb.nodeproppred import PygNodePropPredDataset
        except ImportError as error:
            raise DataError(f"reading {name!r} needs the package ogb: pip install ogb") from error
        from torch_geometric.utils import to_undirected

        data_set = fetch_geometric(name, lambda: PygNodePropPredDataset(name, download_folder(root)))
        data = data_set[0]
        mask = np.ones(data.num_nodes, dtype=bool)
        if split != "all":
            mask[:] = False
            mask[data_set.get_idx_split()["valid" if split == "val" else split].numpy()] = True
        label = check_labels(name, data.y.reshape(-1).numpy(), data.num_nodes)
        self.classes = tuple(str(c) for c in range(data_set.num_classes))
        edges = check_edges(name, to_undirected(data.edge_index).numpy(), data.num_nodes)
        self._set(torch.from_numpy(check_features(name, data.x.numpy())), edges, label, mask)


@DATASETS.register_module()
class Reddit(NodeDataset):
    """Reddit posts: 232,965 nodes, 602 features, 41 communities, 114 million directed edges.

    Every column of the features is standardised with the statistics of all nodes, for the induced subgraph too.

    Args:
        split: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        induced: only the subgraph of the training nodes, for inductive pre-training.
        root: where the download goes; ``None`` takes the user's cache.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    classes = tuple(str(c) for c in range(41))

    def __init__(
        self,
        split: str = "train",
        induced: bool = False,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)

        def build() -> Any:
            from torch_geometric.datasets import Reddit as Geometric

            return Geometric(download_folder(root) + "/Reddit")[0]

        data = fetch_geometric("Reddit", build)
        mask = geometric_splits(data, split)
        mean = data.x.mean(0, dtype=torch.float64).float()
        x = data.x - mean
        std = x.square().mean(0, dtype=torch.float64).sqrt().float()
        x /= torch.where(std > 0, std, torch.ones_like(std))
        if induced:
            from torch_geometric.utils import subgraph

            edge_index, _ = subgraph(data.train_mask, data.edge_index, relabel_nodes=True)
            rows = data.train_mask
            label = check_labels("Reddit", data.y[rows].numpy(), int(rows.sum()), len(self.classes))
            self._set(x[rows], edge_index.numpy(), label, mask[rows.numpy()])
            return
        label = check_labels("Reddit", data.y.numpy(), data.num_nodes, len(self.classes))
        self._set(x, check_edges("Reddit", data.edge_index.numpy(), data.num_nodes), label, mask)


@DATASETS.register_module()
class PPI(GraphDataset):
    """Protein interactions: 20 training, 2 validation and 2 test graphs, 50 features and 121 labels a node.

    The batch holds ``graph`` (a ``torch_geometric`` Batch), ``label`` (N, 121) float of 0 and 1, and ``index`` (B,).

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        root: where the download goes; ``None`` takes the user's cache.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    classes = tuple(str(c) for c in range(121))

    def __init__(
        self,
        split: str = "train",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)

        def build() -> Any:
            from torch_geometric.datasets import PPI as Geometric

            parts = ("train", "val", "test") if split == "all" else (split,)
            return [graph for part in parts for graph in Geometric(download_folder(root) + "/PPI", part)]

        self.graphs = fetch_geometric("PPI", build)

    def __len__(self) -> int:
        return len(self.graphs)

    def fetch(self, indices: np.ndarray) -> Batch:
        """RAW batch of the graphs at ``indices`` (B,)."""
        from torch_geometric.data import Batch as GeometricBatch

        graph = GeometricBatch.from_data_list([self.graphs[i] for i in indices])
        return {"graph": graph, "label": graph.y, "index": torch.from_numpy(np.asarray(indices))}
