"""Several data sets as one: classes, captions and languages are merged, nothing is copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.datasets.base import Dataset
from perception.errors import ConfigError, DataError, Fault
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


class Chained(Sequence[Any]):
    """Sequences one after the other, read where they lie."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = place + len(self) if place < 0 else place
        if not 0 <= place < len(self):
            raise IndexError(f"{place} of {len(self)}")
        part = int(np.searchsorted(self.ends, place, side="right"))
        return self.parts[part][place - (int(self.ends[part - 1]) if part else 0)]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.parts)


@DATASETS.register_module()
class Concatenated(Dataset):
    """The samples of several data sets of one modality, one set after the other.

    Classes of the same name are one class; labels are renumbered. A member without classes has the label -1 beside
    members with them. Images of different sizes come as a list, which ``MultiCrop`` and ``RandomResizedCrop`` take.

    Args:
        datasets: configs or instances. They have no transforms of their own.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        members: the data sets.
        starts: (members,) the index of each one's first sample.
        captions: per sample its (language, text) pairs, where every member has some.
        names: per sample its file name, where every member has some.
        languages: all languages of the captions, in order of first appearance.
        sources: the public corpora that the samples come from.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset | dict[str, Any]],
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(transforms, seed)
        members: list[Any] = [d if isinstance(d, Dataset) else DATASETS.build(dict(d)) for d in datasets]
        faults = [Fault(key, None, text) for key, text in _faults(members)]
        if faults:
            raise ConfigError(faults, "Concatenated")
        self.members = members
        self.modality = members[0].modality  # type: ignore[misc]  # of the class elsewhere
        lengths = [len(member) for member in members]
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self.classes = _union(member.classes for member in members)
        places = {name: label for label, name in enumerate(self.classes)}
        self.renumbered = [torch.tensor([places[c] for c in member.classes], dtype=torch.int64) for member in members]
        self.captioned = all(member.captioned for member in members)  # type: ignore[misc]
        if self.captioned:
            self.captions = Chained([member.captions for member in members])
            self.languages = _union(member.languages for member in members)
        if all(hasattr(member, "names") for member in members):
            self.names = Chained([member.names for member in members])
        self.sources = _union(getattr(member, "sources", (type(member).__name__,)) for member in members)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def fetch(self, indices: np.ndarray) -> Batch:
        """As the members' own, in the order of ``indices`` (n,), which is also ``index``.

        Raises:
            DataError: the members give different fields, types or bands, or labels that have no class name.
        """
        return self._gathered(indices, None)

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """As ``fetch``, with parts that the members draw."""
        return self._gathered(indices, random)

    def _gathered(self, indices: np.ndarray, random: SampleRandom | None) -> Batch:
        which = np.searchsorted(self.ends, indices, side="right")
        rows = [np.flatnonzero(which == k) for k in range(len(self.members))]
        used = [k for k, own in enumerate(rows) if len(own)]
        parts = [
            self._part(k, indices[rows[k]] - self.starts[k], None if random is None else random.rows(rows[k]))
            for k in used
        ]
        order = np.argsort(np.concatenate([rows[k] for k in used]))
        keys = list(dict.fromkeys(key for part in parts for key in part))
        batch = {key: self._joined(key, [part.get(key) for part in parts], used, order) for key in keys}
        return {**batch, "index": torch.from_numpy(indices)}

    def _part(self, number: int, indices: np.ndarray, random: SampleRandom | None) -> Batch:
        """Samples of one member with labels in the common numbering."""
        member = self.members[number]
        part = member.fetch(indices) if random is None else member.draw(indices, random)
        if not self.classes:
            return part
        label, table = part.get("label"), self.renumbered[number]
        if label is None:
            return {**part, "label": torch.full((len(indices),), -1)}
        if label.ndim != 1:
            if self.members[number].classes != self.classes:
                raise DataError(
                    f"{self._name(number)}: labels for several classes need the same classes in all members"
                )
            return part
        if len(label) and int(label.max()) >= len(table):
            raise DataError(f"{self._name(number)}: label {int(label.max())} has no name among {len(table)} classes")
        known = label >= 0
        if not len(table):  # every label is -1
            return part
        return {**part, "label": torch.where(known, table[label.clamp(min=0)], label)}

    def _joined(self, key: str, values: list[Any], used: Sequence[int], order: np.ndarray) -> Any:
        absent = [number for number, value in zip(used, values, strict=True) if value is None]
        if absent:
            there = next(self._name(number) for number in used if number not in absent)
            raise DataError(f"Concatenated: {there} gives {key!r}, {self._name(absent[0])} does not")
        if all(isinstance(value, Tensor) for value in values):
            types = {value.dtype for value in values}
            if len(types) > 1:
                raise DataError(f"Concatenated: {key!r} comes as {' and '.join(sorted(map(str, types)))}")
            if len({value.shape[1:] for value in values}) == 1:
                return torch.cat(values)[torch.from_numpy(order)]
        if all(isinstance(value, (Tensor, list, tuple)) for value in values):
            flat = [item for value in values for item in value]
            return [flat[place] for place in order.tolist()]
        if any(value != values[0] for value in values):
            raise DataError(f"Concatenated: the members differ in {key!r}: {values}")
        return values[0]

    def _name(self, number: int) -> str:
        return f"member {number} ({type(self.members[number]).__name__})"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """No member, or one with transforms; the members' own faults are told at their place."""
        if not cfg["datasets"]:
            yield "datasets", "needs at least one data set"
        for number, member in enumerate(cfg["datasets"]):
            if isinstance(member, dict) and member.get("transforms"):
                yield f"datasets.{number}.transforms", "would not be applied: give them to Concatenated"


def _faults(members: Sequence[Any]) -> Iterable[tuple[str, str]]:
    if not members:
        yield "datasets", "needs at least one data set"
    for number, member in enumerate(members):
        where = f"datasets.{number}"
        if member.transform.transforms:
            yield f"{where}.transforms", "would not be applied: give them to Concatenated"
        if member.repeats > 1:
            yield f"{where}.repeats", "would not be applied: a joined batch has one sample of every index"
        if member.full_batch:
            yield where, f"{type(member).__name__} is one batch, a graph; there is nothing to put it behind"
        if member.modality != members[0].modality:
            yield where, f"{type(member).__name__} holds {member.modality}, the first one {members[0].modality}"


def _union(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names in order of first appearance."""
    return tuple(dict.fromkeys(name for names in lists for name in names))
