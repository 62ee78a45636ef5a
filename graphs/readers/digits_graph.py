"""The embedded default: scikit-learn's digits as one graph, no download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from perception.errors import ConfigError, Fault
from perception.graphs.readers.base import NodeDataset
from perception.registry import DATASETS
from perception.transforms.base import Transform


@DATASETS.register_module()
class DigitsGraph(NodeDataset):
    """1,797 handwritten digits as nodes, linked to their nearest neighbours; 64 features, 10 classes.

    An edge joins two digits if one is among the ``num_neighbors`` nearest of the other in Euclidean distance of the
    grey values; labels play no part. The features are the 8 x 8 pixels as ink or no ink (grey value above one half),
    a bag of pixels as citation graphs have bags of words. The split is drawn per class with
    ``numpy.random.RandomState(split_seed)``: ``labels_per_class`` training nodes, 30 validation nodes, the rest for
    test.

    Args:
        split: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        num_neighbors: k of the graph.
        labels_per_class: training labels a class.
        binary: ink or no ink; else grey values in [0, 1].
        split_seed: seed of the split, the same for all splits of one experiment.
        transforms: configs or instances applied to every batch.
        seed: seed of the transforms.
    """

    classes = tuple(str(digit) for digit in range(10))
    _VAL_PER_CLASS = 30

    def __init__(
        self,
        split: str = "train",
        num_neighbors: int = 5,
        labels_per_class: int = 2,
        binary: bool = True,
        split_seed: int = 0,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(split, None, transforms, seed)
        faults = self.check_config({"num_neighbors": num_neighbors, "labels_per_class": labels_per_class})
        if faults:
            given = {"num_neighbors": num_neighbors, "labels_per_class": labels_per_class}
            raise ConfigError([Fault(f"dataset.{key}", given[key], message) for key, message in faults])
        from sklearn.datasets import load_digits
        from sklearn.neighbors import kneighbors_graph

        digits = load_digits()
        x = (digits.data / 16.0).astype(np.float32)
        near = kneighbors_graph(x, num_neighbors, mode="connectivity", include_self=False)
        edge_index = np.stack(((near + near.T) > 0).nonzero()).astype(np.int64)
        label = digits.target.astype(np.int64)
        codes = np.full(len(x), 2)
        random = np.random.RandomState(split_seed)
        for digit in range(10):
            members = random.permutation(np.flatnonzero(label == digit))
            codes[members[:labels_per_class]] = 0
            codes[members[labels_per_class : labels_per_class + self._VAL_PER_CLASS]] = 1
        mask = np.ones(len(x), dtype=bool) if split == "all" else codes == ("train", "val", "test").index(split)
        features = (x > 0.5).astype(np.float32) if binary else x
        self._set(torch.from_numpy(features), edge_index, label, mask)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> list[tuple[str, str]]:
        """Faults of a config as (key, message)."""
        faults = super().check_config(cfg)
        if not 1 <= cfg.get("num_neighbors", 5) < 1797:
            faults.append(("num_neighbors", "must lie between 1 and 1796"))
        if not 1 <= cfg.get("labels_per_class", 2) <= 100:
            faults.append(("labels_per_class", "must lie between 1 and 100"))
        return faults
