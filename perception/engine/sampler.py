"""The order of samples, as a function of (seed, epoch), from any place on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from perception.datasets.base import SampleKey
from perception.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Deals the samples of a data set to the ranks, and can start in mid-epoch.

    With W ranks, rank r takes every W-th sample from the r-th on, so that one step of W ranks sees the samples of one
    step of a single process with W times the batch.

    Args:
        dataset: anything with a length.
        shuffle: a new permutation every epoch, a function of (seed, epoch) alone.
        seed: the same on all ranks.
        uneven: what to do where the number of samples is no multiple of W. ``pad`` repeats the epoch's first samples
            (training: every sample is seen, a few twice), ``drop`` leaves out the epoch's last ones, ``keep`` lets the
            ranks differ in length (evaluation: every sample counts exactly once).
    """

    def __init__(
        self, dataset: Any, shuffle: bool = True, seed: int | None = 0, uneven: Literal["pad", "drop", "keep"] = "pad"
    ) -> None:
        if uneven not in ("pad", "drop", "keep"):
            raise ValueError(f"uneven = {uneven!r}: not one of 'pad', 'drop', 'keep'")
        self.rank, self.world = get_dist_info()
        self.size = len(dataset)  # samples of an epoch, over all ranks
        self.shuffle = shuffle
        self.seed = 0 if seed is None else seed
        self.uneven = uneven
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration that of ``epoch``, without the first ``start`` samples of this rank."""
        self.epoch = epoch
        self.start = start

    def order(self, epoch: int) -> np.ndarray:
        """(size,) int64 positions that all ranks together see in ``epoch``."""
        return (
            np.random.default_rng([self.seed, epoch]).permutation(self.size) if self.shuffle else np.arange(self.size)
        )

    def indices(self, epoch: int) -> np.ndarray:
        """(len(self),) int64 positions that this rank sees in ``epoch``, in order."""
        order = self.order(epoch)
        excess = self.size % self.world
        if excess and self.uneven == "pad":
            order = np.resize(order, self.size + self.world - excess)  # repeats from the start
        elif excess and self.uneven == "drop":
            order = order[: self.size - excess]
        return order[self.rank :: self.world]

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        for index in self.indices(epoch)[self.start :].tolist():
            yield SampleKey(index, epoch)

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, wherever the next iteration starts."""
        if self.uneven == "pad":
            return -(-self.size // self.world)
        if self.uneven == "drop":
            return self.size // self.world
        return len(range(self.rank, self.size, self.world))
