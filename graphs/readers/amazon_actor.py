"""Node classification with several random splits: Amazon Photo (co-purchases) and Actor (co-occurrence).

Shchur et al.: "Pitfalls of Graph Neural Network Evaluation", 2018; Pei et al.: "Geom-GCN", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from perception.datasets.base import load_arrays
from perception.errors import ConfigError, DataError, Fault
from perception.graphs.readers.base import (
    NodeDataset,
    check_edges,
    check_features,
    check_labels,
    csr_features,
    download_folder,
    fetch_geometric,
    find_file,
    no_file,
    sparse_if_worth,
)
from perception.registry import DATASETS
from perception.transforms.base import Transform

_CODES = {"train": 0, "val": 1, "test": 2}


class _ManySplits(NodeDataset):
    """Base: a file with ``split`` (10, N), or torch_geometric's graph with splits drawn by the same rule.

    The rule is ``numpy.random.RandomState(split_index).permutation``, cut into shares. Arguments as in the subclasses.
    """

    file: str
    shares: tuple[float, float]

    def __init__(
        self,
        split: str = "train",
        split_index: int = 0,
        root: str | None = None,
        download: bool = True,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, root, transforms, seed)
        if not 0 <= split_index < 10:
            raise ConfigError([Fault("dataset.split_index", split_index, "there are 10 splits, 0 to 9")])
        path = find_file(root, self.file)
        if path is not None:
            source = str(path)
            arrays = load_arrays(path, ("edge_index", "x_shape", "y", "split"))
            x = self._read_features(source, arrays)
            edge_index, y, codes = arrays["edge_index"], arrays["y"], arrays["split"][split_index]
        elif download:
            source = type(self).__name__
            data = fetch_geometric(source, lambda: self._geometric(download_folder(root)))
            x = sparse_if_worth(torch.from_numpy(check_features(source, data.x.numpy())))
            edge_index, y = data.edge_index.numpy(), data.y.numpy()
            codes = _draw_split(x.shape[0], split_index, self.shares)
        else:
            raise no_file(root, type(self).__name__, self.file)
        if codes.shape != (x.shape[0],):
            raise DataError(f"{source!r}: split has {codes.shape[-1]} columns for {x.shape[0]} nodes")
        mask = np.ones(x.shape[0], dtype=bool) if split == "all" else codes == _CODES[split]
        label = check_labels(source, y, x.shape[0], len(self.classes))
        self._set(x, check_edges(source, edge_index, x.shape[0]), label, mask)

    def _read_features(self, source: str, arrays: dict[str, np.ndarray]) -> torch.Tensor:
        raise NotImplementedError

    def _geometric(self, folder: str) -> Any:
        raise NotImplementedError

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = super().check_config(cfg)
        if not 0 <= cfg.get("split_index", 0) < 10:
            faults.append(("split_index", "there are 10 splits, 0 to 9"))
        return faults

    @classmethod
    def file_name(cls, cfg: dict[str, Any]) -> str | None:
        """The file of this data set."""
        return cls.file


def _draw_split(count: int, index: int, shares: tuple[float, float]) -> np.ndarray:
    order = np.random.RandomState(index).permutation(count)
    first, second = int(shares[0] * count), int((shares[0] + shares[1]) * count)
    codes = np.full(count, _CODES["test"], dtype=np.int8)
    codes[order[:first]] = _CODES["train"]
    codes[order[first:second]] = _CODES["val"]
    return codes


@DATASETS.register_module()
class Amazon(_ManySplits):
    """Amazon Photo: 7,650 products, 745 binary words, 8 classes; 10 random splits of 10/10/80 %.

    Args:
        split: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        split_index: which of the 10 splits.
        root: folder with ``amazon_photo.npz``, or where a download goes; ``None`` takes ``$PERCEPTION_DATA/graph``,
            then the user's cache.
        download: fetch through ``torch_geometric`` what is not there.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    file = "amazon_photo.npz"
    shares = (0.1, 0.1)
    classes = tuple(f"category {i}" for i in range(8))

    def _read_features(self, source: str, arrays: dict[str, np.ndarray]) -> torch.Tensor:
        if "x_packed" not in arrays:
            raise DataError(f"{source!r} lacks the array 'x_packed'")
        x = np.unpackbits(arrays["x_packed"], axis=1)[:, : int(arrays["x_shape"][1])]
        return torch.from_numpy(x.astype(np.float32))

    def _geometric(self, folder: str) -> Any:
        from torch_geometric.datasets import Amazon as Geometric

        return Geometric(folder, "Photo")[0]


@DATASETS.register_module()
class Actor(_ManySplits):
    """Actor: 7,600 actors, 932 binary words, 5 classes, heterophilous; 10 random splits of 48/32/20 %.

    Args:
        split: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        split_index: which of the 10 splits.
        root: folder with ``actor.npz``, or where a download goes; ``None`` takes ``$PERCEPTION_DATA/graph``,
            then the user's cache.
        download: fetch through ``torch_geometric`` what is not there.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    file = "actor.npz"
    shares = (0.48, 0.32)
    classes = tuple(f"group {i}" for i in range(5))

    def _read_features(self, source: str, arrays: dict[str, np.ndarray]) -> torch.Tensor:
        for name in ("x_indptr", "x_indices"):
            if name not in arrays:
                raise DataError(f"{source!r} lacks the array {name!r}")
        return csr_features(source, arrays["x_indptr"], arrays["x_indices"], arrays["x_shape"])

    def _geometric(self, folder: str) -> Any:
        from torch_geometric.datasets import Actor as Geometric
        from torch_geometric.transforms import ToUndirected

        return ToUndirected()(Geometric(folder)[0])
