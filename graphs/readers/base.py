"""What the graph readers share: checks that name the file and the row, node-level and graph-level data sets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perception.datasets.base import Dataset
from perception.errors import ConfigError, DataError, Fault, nearest, not_among
from perception.layers.adjacency import csr
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

SPLITS = ("train", "val", "test", "all")


def find_file(root: str | None, name: str) -> Path | None:
    """``name`` in ``root`` or ``$PERCEPTION_DATA/graph``, if it is there."""
    folder = root if root is not None else os.environ.get("PERCEPTION_DATA")
    if folder is None:
        return None
    base = Path(folder).expanduser()
    path = base / name if root is not None else base / "graph" / name
    return path if path.is_file() else None


def download_folder(root: str | None) -> str:
    """Where downloads go: ``root``, else ``perception/graph`` in the user's cache folder."""
    if root is not None:
        return str(Path(root).expanduser())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return str(Path(cache).expanduser() / "perception" / "graph")


def fetch_geometric(name: str, build: Callable[[], Any]) -> Any:
    """Build a ``torch_geometric`` data set, which downloads it where it is not there yet.

    Raises:
        DataError: it could not be had; the message says what was tried.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()
    except Exception as error:
        raise DataError(
            f"{name} is neither in root nor in $PERCEPTION_DATA/graph, and downloading it through torch_geometric "
            f"failed: {type(error).__name__}: {error}"
        ) from error


def no_file(root: str | None, name: str, file: str) -> DataError:
    """The error for a data set that is not on this machine and must not be downloaded."""
    place = root if root is not None else "$PERCEPTION_DATA/graph (" + (os.environ.get("PERCEPTION_DATA") or "not set")
    place = place if root is not None else place + ")"
    return DataError(f"{name}: no file {file!r} in {place}. Set root=, or download=True to fetch it")


def csr_features(source: str, indptr: np.ndarray, indices: np.ndarray, shape: np.ndarray) -> Tensor:
    """Binary features (N, D) float32 in CSR form from index arrays that are checked first."""
    rows, columns = int(shape[0]), int(shape[1])
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    if len(indptr) != rows + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise DataError(f"{source!r}: x_indptr does not describe {rows} rows of {len(indices)} entries")
    if len(indices) and (indices.min() < 0 or indices.max() >= columns):
        entry = int(((indices < 0) | (indices >= columns)).argmax())
        row = int(np.searchsorted(indptr, entry, side="right") - 1)
        raise DataError(f"{source!r}: row {row} of x names column {indices[entry]}, but x has {columns} columns")
    return csr(torch.from_numpy(indptr), torch.from_numpy(indices), torch.ones(len(indices)), (rows, columns))


def check_edges(source: str, edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """``edge_index`` as (2, E) int64.

    Raises:
        DataError: wrong shape or type, or an edge that names a node that does not exist.
    """
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or not np.issubdtype(edge_index.dtype, np.integer):
        raise DataError(
            f"{source!r}: edge_index must be integers of shape (2, E), not {edge_index.dtype} {edge_index.shape}"
        )
    edge_index = edge_index.astype(np.int64)
    bad = (edge_index < 0) | (edge_index >= num_nodes)
    if bad.any():
        column = int(bad.any(0).argmax())
        raise DataError(
            f"{source!r}: column {column} of edge_index is {edge_index[:, column].tolist()}, "
            f"but there are {num_nodes} nodes (valid ids are 0 to {num_nodes - 1}); {int(bad.any(0).sum())} such edges"
        )
    return edge_index


def check_features(source: str, x: np.ndarray) -> np.ndarray:
    """``x`` as (N, D) float32.

    Raises:
        DataError: wrong shape or type, NaN or infinite entries (named by row).
    """
    if x.ndim != 2 or not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
        raise DataError(f"{source!r}: x must be numbers of shape (N, D), not {x.dtype} {x.shape}")
    x = x.astype(np.float32)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        row = int(bad.argmax())
        column = int((~np.isfinite(x[row])).argmax())
        raise DataError(f"{source!r}: x[{row}, {column}] is {x[row, column]}; {int(bad.sum())} rows are not finite")
    return x


def check_labels(source: str, y: np.ndarray, count: int, num_classes: int | None = None) -> np.ndarray:
    """``y`` as (count,) int64; negative labels mean unlabelled and become -1.

    Raises:
        DataError: wrong shape or type, or a label that is not a class.
    """
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{source!r}: y must be integers of shape ({count},), not {y.dtype} {y.shape}")
    y = np.maximum(y.astype(np.int64), -1)
    if num_classes is not None and (y >= num_classes).any():
        row = int((y >= num_classes).argmax())
        raise DataError(
            f"{source!r}: y[{row}] is {y[row]}, but there are {num_classes} classes (0 to {num_classes - 1})"
        )
    return y


def check_mask(source: str, name: str, mask: np.ndarray, count: int) -> np.ndarray:
    """``mask`` as (count,) bool."""
    if mask.shape != (count,) or mask.dtype != bool:
        raise DataError(f"{source!r}: {name} must be bool of shape ({count},), not {mask.dtype} {mask.shape}")
    return mask


class GraphDataset(Dataset):
    """Base of the graph data sets.

    Args:
        split: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        root: folder of the data; ``None`` takes ``$PERCEPTION_DATA/graph``, then the download cache.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    modality: ClassVar[str] = "graph"

    def __init__(
        self,
        split: str = "train",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        if split not in SPLITS:
            raise ConfigError([Fault("dataset.split", split, f"not one of {SPLITS}", nearest(split, SPLITS))])
        self.split = split
        self.root = root

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message), with the files looked for on disk."""
        faults = []
        if cfg.get("split", "train") not in SPLITS:
            faults.append(("split", not_among(cfg["split"], SPLITS)))
        if (
            cfg.get("root") is not None
            and not cfg.get("download", False)
            and not Path(cfg["root"]).expanduser().is_dir()
        ):
            faults.append(("root", "this folder does not exist"))
        elif cfg.get("download") is False:
            file = cls.file_name(cfg)
            if file is not None and find_file(cfg.get("root"), file) is None:
                faults.append(("root", str(no_file(cfg.get("root"), cls.__name__, file))))
        return faults

    @classmethod
    def file_name(cls, cfg: dict[str, Any]) -> str | None:
        """Name of the file that holds the data set of ``cfg``, or ``None``."""
        return None


class NodeDataset(GraphDataset):
    """One graph whose nodes are the samples: a single item, the same unchanging object at every step.

    The batch holds ``graph`` (a ``torch_geometric`` Data with ``x`` (N, D), dense or CSR, and ``edge_index``),
    ``label`` (N,) with -1 for unlabelled nodes, ``mask`` (N,) bool, the nodes of the split, and ``index`` (1,).
    A subclass calls ``_set`` once.
    """

    full_batch: ClassVar[bool] = True

    def _set(self, x: Tensor, edge_index: np.ndarray, label: np.ndarray, mask: np.ndarray) -> None:
        from torch_geometric.data import Data

        self.graph = Data(x=x, edge_index=torch.from_numpy(np.ascontiguousarray(edge_index)), num_nodes=x.shape[0])
        self.label = torch.from_numpy(np.ascontiguousarray(label))
        self.mask = torch.from_numpy(np.ascontiguousarray(mask))
        if self.split != "all" and not bool(self.mask.any()):
            raise DataError(f"{type(self).__name__}: the split {self.split!r} has no node")

    def __len__(self) -> int:
        return 1

    def fetch(self, indices: np.ndarray) -> Batch:
        """The graph, whatever the one valid index 0 is asked for."""
        return {"graph": self.graph, "label": self.label, "mask": self.mask, "index": torch.from_numpy(indices)}


def split_mask(source: str, arrays: dict[str, np.ndarray], split: str, count: int) -> np.ndarray:
    """The mask of ``split`` among ``train_mask``, ``val_mask`` and ``test_mask``; ``'all'`` is everywhere True."""
    if split == "all":
        return np.ones(count, dtype=bool)
    return check_mask(source, f"{split}_mask", arrays[f"{split}_mask"], count)


def geometric_splits(data: Any, split: str, column: int | None = None) -> np.ndarray:
    """The mask of ``split`` of a ``torch_geometric`` graph; ``column`` selects among several splits."""
    if split == "all":
        return np.ones(data.num_nodes, dtype=bool)
    mask = data[f"{split}_mask"]
    return (mask if mask.dim() == 1 else mask[:, column or 0]).numpy()


def sparse_if_worth(x: Tensor) -> Tensor:
    """CSR form of dense ``x`` (N, D) where less than a tenth of it is non-zero, else ``x``."""
    if x.layout == torch.sparse_csr or x.numel() == 0:
        return x
    if int(torch.count_nonzero(x)) > 0.1 * x.numel():
        return x
    return x.to_sparse_csr()
