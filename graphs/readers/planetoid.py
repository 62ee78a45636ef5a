"""Citation graphs with bags of words: Cora, Citeseer and PubMed with the public split of 20 labels a class.

Yang, Cohen, Salakhutdinov: "Revisiting Semi-Supervised Learning with Graph Embeddings", ICML 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from perception.datasets.base import load_arrays
from perception.errors import ConfigError, Fault, nearest, not_among
from perception.graphs.readers.base import (
    NodeDataset,
    check_edges,
    check_labels,
    csr_features,
    download_folder,
    fetch_geometric,
    find_file,
    geometric_splits,
    no_file,
    sparse_if_worth,
    split_mask,
)
from perception.registry import DATASETS
from perception.transforms.base import Transform

_CLASSES = {
    "cora": (
        "Theory",
        "Reinforcement_Learning",
        "Genetic_Algorithms",
        "Neural_Networks",
        "Probabilistic_Methods",
        "Case_Based",
        "Rule_Learning",
    ),
    "citeseer": ("Agents", "AI", "DB", "IR", "ML", "HCI"),
    "pubmed": ("Experimental", "Type_1", "Type_2"),
}


@DATASETS.register_module()
class Planetoid(NodeDataset):
    """Cora (2,708 nodes), Citeseer (3,327) or PubMed (19,717).

    Features are the file's own values (binary words; TF-IDF in PubMed) in CSR form: row normalisation belongs to the
    Preprocess record. Citeseer has 15 nodes without features and label, which lie in no split.

    Args:
        name: ``'cora'``, ``'citeseer'`` or ``'pubmed'``.
        split: ``'train'``, ``'val'``, ``'test'`` (public split) or ``'all'``.
        root: folder with ``planetoid_<name>.npz``, or where a download goes; ``None`` takes
            ``$PERCEPTION_DATA/graph``, then the user's cache.
        download: fetch through ``torch_geometric`` what is not there.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    def __init__(
        self,
        name: str = "cora",
        split: str = "train",
        root: str | None = None,
        download: bool = True,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)
        name = name.lower()
        if name not in _CLASSES:
            raise ConfigError([Fault("dataset.name", name, f"not one of {sorted(_CLASSES)}", nearest(name, _CLASSES))])
        self.classes = _CLASSES[name]
        file = f"planetoid_{name}.npz"
        path = find_file(root, file)
        if path is not None:
            source = str(path)
            arrays = load_arrays(
                path, ("edge_index", "x_indptr", "x_indices", "x_shape", "y", "train_mask", "val_mask", "test_mask")
            )
            x = csr_features(source, arrays["x_indptr"], arrays["x_indices"], arrays["x_shape"])
            edges = check_edges(source, arrays["edge_index"], x.shape[0])
            label = check_labels(source, arrays["y"], x.shape[0], len(self.classes))
            self._set(x, edges, label, split_mask(source, arrays, split, x.shape[0]))
            return
        if not download:
            raise no_file(root, f"Planetoid {name!r}", file)
        data = _geometric(name, download_folder(root))
        label = check_labels(name, data.y.numpy(), data.num_nodes, len(self.classes))
        x = sparse_if_worth(data.x.to(torch.float32))
        self._set(x, check_edges(name, data.edge_index.numpy(), data.num_nodes), label, geometric_splits(data, split))

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = super().check_config(cfg)
        name = str(cfg.get("name", "cora")).lower()
        return faults if name in _CLASSES else [("name", not_among(name, _CLASSES)), *faults]

    @classmethod
    def file_name(cls, cfg: dict[str, Any]) -> str | None:
        """``planetoid_<name>.npz``."""
        return f"planetoid_{str(cfg.get('name', 'cora')).lower()}.npz"


def _geometric(name: str, folder: str) -> Any:
    def build() -> Any:
        from torch_geometric.datasets import Planetoid as Geometric

        return Geometric(folder, {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}[name])[0]

    return fetch_geometric(f"Planetoid {name!r}", build)
