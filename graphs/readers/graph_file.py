"""A graph of the user's own: one .npz file, one line of config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.datasets.base import load_arrays
from perception.errors import DataError, not_among
from perception.graphs.readers.base import (
    SPLITS,
    NodeDataset,
    check_edges,
    check_features,
    check_labels,
    check_mask,
    sparse_if_worth,
)
from perception.registry import DATASETS
from perception.transforms.base import Transform


@DATASETS.register_module()
class GraphFile(NodeDataset):
    """Node-level graph from ``path``, a ``.npz`` of plain arrays (pickles are refused).

    Arrays: ``x`` (N, D) numbers; ``edge_index`` (2, E) integers, both directions of an undirected edge; optionally
    ``y`` (N,) integers, negative for unlabelled nodes, and ``train_mask``, ``val_mask``, ``test_mask`` (N,) bool.

    Args:
        path: the file.
        split: ``'train'``, ``'val'``, ``'test'``, or ``'all'`` (all a file without masks has).
        num_classes: number of classes, against which ``y`` is checked; ``None`` takes the largest label.
        undirected: add the reverse of every edge and drop duplicates.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    def __init__(
        self,
        path: str,
        split: str = "all",
        num_classes: int | None = None,
        undirected: bool = False,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, None, transforms, seed)
        source = str(Path(path).expanduser())
        arrays = load_arrays(source, ("x", "edge_index"))
        x = check_features(source, arrays["x"])
        count = len(x)
        edge_index = check_edges(source, arrays["edge_index"], count)
        if undirected:
            both = np.concatenate([edge_index, edge_index[::-1]], axis=1)
            edge_index = np.stack(np.divmod(np.unique(both[0] * count + both[1]), count)) if count else both
        label = check_labels(source, arrays.get("y", np.full(count, -1)), count, num_classes)
        self.classes = tuple(str(c) for c in range(num_classes or int(label.max(initial=-1)) + 1))
        mask = np.ones(count, dtype=bool)
        if split != "all":
            if f"{split}_mask" not in arrays:
                raise DataError(f"{source!r} has no {split + '_mask'!r}; it holds {sorted(arrays)}")
            mask = check_mask(source, f"{split}_mask", arrays[f"{split}_mask"], count)
        self._set(sparse_if_worth(torch.from_numpy(x)), edge_index, label, mask)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = []
        if cfg.get("split", "all") not in SPLITS:
            faults.append(("split", not_among(cfg["split"], SPLITS)))
        if cfg.get("path") is not None and not Path(cfg["path"]).expanduser().is_file():
            faults.append(("path", "this file does not exist"))
        return faults
