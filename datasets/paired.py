"""Two streams of samples as one data set, such as a labelled source and an unlabelled target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from perception.datasets.base import Dataset, SampleKey
from perception.errors import ConfigError, DataError, Fault, check_arguments
from perception.registry import DATASETS
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

PARTNER = "partner"


@DATASETS.register_module()
class Paired(Dataset):
    """Every sample of a first data set together with one of a second.

    A batch is that of the first set, and ``partner`` the batch, of as many samples, of the second. Both pass the
    Preprocess record. An epoch is one of the first set. The second is gone through in an order of its own, round after
    round across the epochs, so that its samples are equally often seen whichever set is longer. Who meets whom, and
    every augmentation, is a function of (seed, epoch, index), so a run that is cut goes on exactly.

    Args:
        datasets: configs or instances of the first and the second set, each with its own transforms.
        seed: see ``Dataset``; those of the two sets are not used.

    Attributes:
        first: the data set whose samples are counted.
        second: the one that ``partner`` comes from.
        sources: the public corpora that the samples come from.
    """

    def __init__(self, datasets: Sequence[Dataset | dict[str, Any]], seed: int = 0) -> None:
        check_arguments("Paired", self.check_config, locals())
        super().__init__((), seed)
        members: list[Any] = [d if isinstance(d, Dataset) else DATASETS.build(dict(d)) for d in datasets]
        faults = [Fault(key, None, text) for key, text in _faults(members)]
        if faults:
            raise ConfigError(faults, "Paired")
        self.first, self.second = members
        self.modality = self.first.modality  # type: ignore[misc]  # of the class elsewhere
        self.classes = self.first.classes
        named = [name for m in members for name in getattr(m, "sources", (type(m).__name__,))]
        self.sources = tuple(dict.fromkeys(named))

    def __len__(self) -> int:
        return len(self.first)

    def __getitems__(self, keys: Sequence[int]) -> Batch:
        """RAW batch of the samples ``keys``, with ``partner``.

        Raises:
            DataError: the first set gives a field ``partner`` itself.
        """
        indices = np.fromiter((int(k) for k in keys), dtype=np.int64, count=len(keys))
        epoch = keys[0].epoch if isinstance(keys[0], SampleKey) else 0
        random = SampleRandom(self.seed, epoch, indices)
        # A stream of its own: what the first set draws, and how often, does not change what its partners draw.
        others = random.streams(1)
        batch = self.first.transform(self.first.draw(indices, random), random)
        if PARTNER in batch:
            raise DataError(f"Paired: {type(self.first).__name__} gives {PARTNER!r} itself")
        partners = self.partners(epoch, indices)
        return {**batch, PARTNER: self.second.transform(self.second.draw(partners, others), others)}

    def fetch(self, indices: np.ndarray) -> Batch:
        """As an epoch 0 gives them, augmented."""
        return self.__getitems__(indices.tolist())

    def partners(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Positions (n,) in the second set of those that the samples ``indices`` (n,) meet in ``epoch``."""
        rounds, places = np.divmod(epoch * len(self.first) + np.asarray(indices), len(self.second))
        found = np.empty_like(places)
        for number in np.unique(rounds).tolist():
            own = rounds == number
            found[own] = _order(self.seed, number, len(self.second))[places[own]]
        return found

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Two data sets; their own faults are told at their place."""
        if len(cfg["datasets"]) != 2:
            yield "datasets", f"needs two data sets, got {len(cfg['datasets'])}"


@lru_cache(maxsize=4)
def _order(seed: int, number: int, size: int) -> np.ndarray:
    """Permutation (size,) of one round through the second set."""
    return np.random.default_rng([seed, number, size]).permutation(size)


def _faults(members: Sequence[Any]) -> Iterable[tuple[str, str]]:
    for number, member in enumerate(members):
        where, name = f"datasets.{number}", type(member).__name__
        if member.full_batch:
            yield where, f"{name} is one batch, a graph; there is nothing to pair"
        if member.repeats > 1:
            yield f"{where}.repeats", "would not be applied: a pair has one sample of either set"
        if len(member) == 0:
            yield where, f"{name} holds no sample"
        if member.modality != members[0].modality:
            yield where, f"{name} holds {member.modality}, the first one {members[0].modality}"
