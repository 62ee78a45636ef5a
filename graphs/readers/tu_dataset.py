"""Sets of small graphs from the TU Dortmund collection: MUTAG, PROTEINS, IMDB, NCI1, COLLAB, REDDIT.

Morris et al.: "TUDataset: A collection of benchmark datasets for learning with graphs", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from perception.datasets.base import load_arrays
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.graphs.readers.base import (
    GraphDataset,
    check_edges,
    check_features,
    check_labels,
    download_folder,
    fetch_geometric,
    find_file,
    no_file,
)
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

FEATURES = ("auto", "attributes", "tags", "degree")


@DATASETS.register_module()
class TUDataset(GraphDataset):
    """A set of graphs with one label each. A batch is built by slicing flat arrays, without a loop over graphs.

    The batch holds ``graph`` (a ``torch_geometric`` Batch with ``x`` (N, D) dense float32, ``edge_index``, ``batch``
    and ``ptr``), ``label`` (B,) and ``index`` (B,).

    Features: node attributes if there are any; else one-hot node tags; else one-hot in-degrees, capped. They are
    never derived from the label.

    Args:
        name: as the collection spells it: ``'MUTAG'``, ``'PROTEINS'``, ``'IMDB-BINARY'``, ``'IMDB-MULTI'``, ``'NCI1'``,
            ``'COLLAB'``, ``'REDDIT-BINARY'``, ...
        split: the collection has none, so ``'all'`` unless ``fold`` is given.
        fold: with a number, ``'test'`` is that part of a stratified 10-fold split (shuffled, seed 0), ``'val'`` the
            next one and ``'train'`` the rest.
        features: ``'auto'`` as above, or ``'attributes'``, ``'tags'``, ``'degree'`` by force.
        max_degree: larger degrees count as this one.
        root: folder with ``tu_<name>.npz``, or where a download goes; ``None`` takes ``$PERCEPTION_DATA/graph``, then
            the user's cache.
        download: fetch through ``torch_geometric`` what is not there.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.

    Attributes:
        num_features: width D.
    """

    cut_by = ("fold",)

    def __init__(
        self,
        name: str,
        split: str = "all",
        fold: int | None = None,
        features: str = "auto",
        max_degree: int = 400,
        root: str | None = None,
        download: bool = True,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)
        faults = self.check_config({"name": name, "split": split, "fold": fold, "features": features})
        if faults:
            given = {"split": split, "fold": fold, "features": features}
            raise ConfigError([Fault(f"dataset.{key}", given.get(key), message) for key, message in faults])
        path = find_file(root, f"tu_{name}.npz")
        if path is not None:
            source, arrays = str(path), load_arrays(path, ("node_ptr", "edge_ptr", "edge_index", "node_tag", "y"))
        elif download:
            source, arrays = name, _from_geometric(name, download_folder(root))
        else:
            raise no_file(root, f"TUDataset {name!r}", f"tu_{name}.npz")
        self.node_ptr = _check_pointers(source, "node_ptr", arrays["node_ptr"])
        self.edge_ptr = _check_pointers(source, "edge_ptr", arrays["edge_ptr"])
        graphs, nodes = len(self.node_ptr) - 1, int(self.node_ptr[-1])
        self.edge_index = check_edges(source, arrays["edge_index"], nodes)
        if len(self.edge_ptr) != graphs + 1 or self.edge_ptr[-1] != self.edge_index.shape[1]:
            raise DataError(
                f"{source!r}: edge_ptr does not describe {graphs} graphs of {self.edge_index.shape[1]} edges"
            )
        owner = np.repeat(np.arange(graphs), np.diff(self.node_ptr))
        crossing = owner[self.edge_index] != np.repeat(np.arange(graphs), np.diff(self.edge_ptr))
        if crossing.any():
            raise DataError(f"{source!r}: column {int(crossing.any(0).argmax())} of edge_index leaves its graph")
        self.label = check_labels(source, arrays["y"], graphs)
        self.classes = tuple(str(c) for c in range(int(self.label.max(initial=-1)) + 1))
        self._set_features(source, arrays, features, max_degree)
        self.graphs = np.arange(graphs) if split == "all" or fold is None else _fold(self.label, fold, split)

    def _set_features(self, source: str, arrays: dict[str, np.ndarray], features: str, max_degree: int) -> None:
        nodes = int(self.node_ptr[-1])
        tags = arrays["node_tag"]
        if features == "auto":
            tagged = "tags" if len(tags) and tags.max() > 0 else "degree"
            features = "attributes" if "x" in arrays else tagged
        self.attributes: torch.Tensor | None = None
        self.codes: torch.Tensor | None = None
        if features == "attributes":
            if "x" not in arrays:
                raise DataError(f"{source!r} has no node attributes 'x'")
            self.attributes = torch.from_numpy(check_features(source, arrays["x"]))
            self.num_features = self.attributes.shape[1]
            return
        if features == "tags":
            codes = tags.astype(np.int64)
            if codes.shape != (nodes,) or (codes < 0).any():
                raise DataError(f"{source!r}: node_tag must be {nodes} numbers from 0 on, not shape {codes.shape}")
        else:
            codes = np.minimum(np.bincount(self.edge_index[1], minlength=nodes), max_degree)
        self.codes = torch.from_numpy(codes)
        self.num_features = int(codes.max(initial=0)) + 1

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = super().check_config(cfg)
        if cfg.get("features", "auto") not in FEATURES:
            faults.append(("features", not_among(cfg["features"], FEATURES)))
        fold = cfg.get("fold")
        if fold is not None and not 0 <= fold < 10:
            faults.append(("fold", "there are 10 folds, 0 to 9"))
        if fold is None and cfg.get("split", "all") in ("train", "val", "test"):
            faults.append(("split", "the collection has no split: take 'all', or set fold"))
        return faults

    @classmethod
    def file_name(cls, cfg: dict[str, Any]) -> str | None:
        """``tu_<name>.npz``."""
        return f"tu_{cfg['name']}.npz" if "name" in cfg else None

    def __len__(self) -> int:
        return len(self.graphs)

    def fetch(self, indices: np.ndarray) -> Batch:
        """RAW batch of the graphs at ``indices`` (B,)."""
        from torch_geometric.data import Batch as GeometricBatch

        graphs = self.graphs[indices]
        nodes, owner, ptr = _ranges(self.node_ptr, graphs)
        edges, edge_owner, _ = _ranges(self.edge_ptr, graphs)
        # Global node ids become positions in the batch: shift by where each graph starts there and here.
        edge_index = self.edge_index[:, edges] + (ptr[:-1] - self.node_ptr[graphs])[edge_owner]
        picked = torch.from_numpy(nodes)
        if self.attributes is not None:
            x = self.attributes[picked]
        else:
            assert self.codes is not None
            x = torch.nn.functional.one_hot(self.codes[picked], self.num_features).float()
        batch = GeometricBatch(
            x=x,
            edge_index=torch.from_numpy(edge_index),
            batch=torch.from_numpy(owner),
            ptr=torch.from_numpy(ptr),
        )
        return {
            "graph": batch,
            "label": torch.from_numpy(self.label[graphs]),
            "index": torch.from_numpy(np.asarray(indices)),
        }


def _ranges(pointers: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions ``pointers[i]:pointers[i + 1]`` of all ``items``, the item of each, and the new pointers."""
    count = pointers[items + 1] - pointers[items]
    ptr = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(items)), count)
    return np.arange(ptr[-1]) + (pointers[items] - ptr[:-1])[owner], owner, ptr


def _check_pointers(source: str, name: str, pointers: np.ndarray) -> np.ndarray:
    pointers = pointers.astype(np.int64)
    if pointers.ndim != 1 or not len(pointers) or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        raise DataError(f"{source!r}: {name} must start at 0 and never fall")
    return pointers


def _fold(label: np.ndarray, fold: int, split: str) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    parts = [test for _, test in StratifiedKFold(10, shuffle=True, random_state=0).split(label, label)]
    test, val = fold, (fold + 1) % 10
    if split == "test":
        return parts[test]
    if split == "val":
        return parts[val]
    return np.sort(np.concatenate([part for i, part in enumerate(parts) if i not in (test, val)]))


def _from_geometric(name: str, folder: str) -> dict[str, np.ndarray]:
    """The flat arrays of torch_geometric's copy of the collection."""

    def build() -> Any:
        from torch_geometric.datasets import TUDataset as Geometric

        return Geometric(folder, name, use_node_attr=True)

    data = fetch_geometric(f"TUDataset {name!r}", build)
    store, slices = data._data, data.slices
    # Without node features there are no slices of them: torch_geometric then keeps a list of node counts.
    node_ptr = slices["x"].numpy() if "x" in slices else np.cumsum([0, *store._num_nodes])
    edge_ptr = slices["edge_index"].numpy()
    # It leaves out graphs without edges at the end.
    edge_ptr = np.pad(edge_ptr, (0, len(node_ptr) - len(edge_ptr)), mode="edge").astype(np.int64)
    shift = np.repeat(node_ptr[:-1], np.diff(edge_ptr))
    arrays = {
        "node_ptr": node_ptr,
        "edge_ptr": edge_ptr,
        "edge_index": store.edge_index.numpy() + shift,
        "y": store.y.numpy(),
        "node_tag": np.zeros(int(node_ptr[-1]), dtype=np.int64),
    }
    if store.get("x") is not None:
        attributes = data.num_node_attributes
        if attributes:
            arrays["x"] = store.x[:, :attributes].numpy()
        if store.x.shape[1] > attributes:
            arrays["node_tag"] = store.x[:, attributes:].argmax(1).numpy()
    return arrays
