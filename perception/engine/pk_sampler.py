"""Batches of P classes with K samples each, as losses on pairs of a batch want them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from perception.datasets.balance import class_members, labels_of
from perception.engine.sampler import ResumableSampler
from perception.errors import DataError, check_arguments, not_among
from perception.registry import DATA_SAMPLERS
from perception.signatures import at_least


@DATA_SAMPLERS.register_module()
class PKSampler(ResumableSampler):
    """Every batch holds exactly ``samples`` samples of each of ``classes`` classes.

    "In Defense of the Triplet Loss for Person Re-Identification" (Hermans et al., 2017). Classes come in turn, in a new
    random order every time. The samples of a class in a batch are of different groups, such as speakers, as far as
    there are enough; groups come equally often, and a group's samples in turn. A class with fewer samples than
    ``samples`` gives some of them twice. With W ranks the batch is that of all ranks together. The order is a
    function of (seed, epoch) alone.

    Args:
        dataset: has ``targets`` or ``labels``, (n,) class numbers; unlabelled samples (below 0) are left out.
        classes: P.
        samples: K.
        groups: name of the attribute of the data set with the (n,) groups of the samples; None: no groups.
        batches: batches of an epoch; None: as many as the labelled samples fill, at least one.
        seed: the same on all ranks.

    Raises:
        DataError: there are no such labels or groups, fewer than ``classes`` classes, or a batch that does not divide
            among the ranks.
    """

    training_only: ClassVar[bool] = True

    def __init__(
        self,
        dataset: Any,
        classes: int = 8,
        samples: int = 4,
        groups: str | None = None,
        batches: int | None = None,
        seed: int | None = 0,
    ) -> None:
        check_arguments("train_dataloader.sampler", self.check_config, locals())
        super().__init__(dataset, shuffle=True, seed=seed, uneven="pad")
        name = type(dataset).__name__
        members = class_members(labels_of(dataset))
        if len(members) < classes:
            raise DataError(f"PKSampler: {name} has labels of {len(members)} classes, fewer than classes = {classes}")
        self.classes, self.samples = classes, samples
        self.global_batch = classes * samples
        if self.global_batch % self.world:
            raise DataError(f"PKSampler: a batch of {classes} x {samples} does not divide among {self.world} ranks")
        numbers = np.zeros(len(dataset), dtype=np.int64) if groups is None else groups_of(dataset, groups)
        self.members = [[rows[numbers[rows] == group] for group in np.unique(numbers[rows])] for rows in members]
        self.batches = batches or max(1, sum(map(len, members)) // self.global_batch)
        self.size = self.batches * self.global_batch

    def order(self, epoch: int) -> np.ndarray:
        """(size,) int64 positions of an epoch, batch by batch."""
        random = np.random.default_rng([self.seed, epoch])
        decks = [[_Deck(rows, random) for rows in groups] for groups in self.members]
        turn = _Deck(np.arange(len(decks)), random)
        found = []
        for _ in range(self.batches):
            batch = [self._draw(decks[label], random) for label in turn.take(self.classes)]
            found.append(random.permutation(np.concatenate(batch)))
        return np.concatenate(found)

    def _draw(self, groups: list[_Deck], random: np.random.Generator) -> np.ndarray:
        """(samples,) positions of one class, spread over its groups."""
        counts = np.zeros(len(groups), dtype=np.int64)
        sizes = np.array([len(deck.cards) for deck in groups])
        left = self.samples
        while left:
            room = np.flatnonzero(counts < sizes)
            if not len(room):  # fewer samples than are wanted: again from the start
                sizes = sizes + [len(deck.cards) for deck in groups]
                continue
            chosen = random.permutation(room)[:left]
            counts[chosen] += 1
            left -= len(chosen)
        return np.concatenate([deck.take(int(count)) for deck, count in zip(groups, counts, strict=True)])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Any:
        """Faults of a config."""
        yield from at_least(cfg, 2, "classes", "samples")
        if cfg["batches"] is not None:
            yield from at_least(cfg, 1, "batches")


def groups_of(dataset: Any, name: str) -> np.ndarray:
    """(len(dataset),) int64 numbers of the groups in the attribute ``name`` of a data set.

    Raises:
        DataError: there is no such attribute, or not one group for every sample.
    """
    found = getattr(dataset, name, None)
    groups = None if found is None else np.asarray(found)
    if groups is None or groups.shape != (len(dataset),):
        arrays = {key: value for key, value in vars(dataset).items() if isinstance(value, np.ndarray)}
        near = not_among(name, [key for key, value in arrays.items() if value.shape == (len(dataset),)])
        text = f"{type(dataset).__name__} has no such attribute with one group a sample"
        raise DataError(f"PKSampler.groups = {name!r}: {text}; it is {near}")
    return np.unique(groups, return_inverse=True)[1]


class _Deck:
    """Cards that come in turn, in a new random order every time; no card comes twice where there are enough."""

    def __init__(self, cards: np.ndarray, random: np.random.Generator) -> None:
        self.cards, self.random = cards, random
        self.rest = random.permutation(cards)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` cards."""
        taken = self.rest[:count]
        self.rest = self.rest[count:]
        while len(taken) < count:
            deck = self.random.permutation(self.cards)
            fresh = deck[~np.isin(deck, taken)] if len(taken) < len(deck) else deck
            later = deck[np.isin(deck, taken)] if len(taken) < len(deck) else deck[:0]
            need = count - len(taken)
            taken = np.concatenate([taken, fresh[:need]])
            self.rest = np.concatenate([fresh[need:], later])
        return taken
