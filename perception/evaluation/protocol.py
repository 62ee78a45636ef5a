"""The protocol contract: features of the splits in, figures out.

A protocol never sees the backbone or the raw data. It fits on ``train``, chooses every hyper-parameter on ``val`` and
looks at ``test`` once, for the final figure. The other kinds are in ``towers``, for an image and a text tower together,
and in ``whole_backbone``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.errors import PerceptionError

T = TypeVar("T")


class EvaluationError(PerceptionError):
    """A protocol that cannot give a meaningful figure on the data it was given."""


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        x: ``(n, F)`` float32.
        y: ``(n,)`` int64 class ids, all >= 0; where a sample can have several labels, ``(n, C)`` float32 of 0 and 1.
        index: ``(n,)`` int64 positions of the rows in the data set.
        unlabelled: number of rows left out because they have no label.
        groups: ``(n,)`` int64 what every row belongs to, such as a speaker or a camera, where the data set tells.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    unlabelled: int = 0
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> Features:
        """The given rows, in the given order."""
        groups = None if self.groups is None else self.groups[rows]
        return Features(self.x[rows], self.y[rows], self.index[rows], groups=groups)

    def to(self, device: torch.device | str) -> Features:
        """The same rows on another device."""
        groups = None if self.groups is None else self.groups.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), index=self.index.to(device), groups=groups)

    def canonical(self) -> Features:
        """Rows sorted by content, so that what is fitted to them does not depend on the order they came in."""
        packed = np.concatenate(
            [self.y.cpu().numpy()[:, None].astype(np.int32).view(np.float32), self.x.cpu().numpy()], axis=1
        )
        rows = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.dtype.itemsize * packed.shape[1]))).ravel()
        return self.take(torch.from_numpy(np.argsort(rows, kind="stable")).to(self.y.device))


def merge(first: Features, second: Features) -> Features:
    """The rows of both, without groups, whose numbers may mean another thing in each."""
    pairs = ((first.x, second.x), (first.y, second.y), (first.index, second.index))
    x, y, index = (torch.cat(pair) for pair in pairs)
    return Features(x, y, index)


@dataclass(frozen=True)
class Splits:
    """Features of the splits that the evaluation section names; ``all`` is for cross-validation."""

    train: Features | None = None
    val: Features | None = None
    test: Features | None = None
    all: Features | None = None

    def need(self, name: str, why: str, multi_label: bool = False) -> Features:
        """The split ``name``, with one class a sample or with ``multi_label`` any number of labels.

        Raises:
            EvaluationError: there is none such; the message says which protocol needs it and what for.
        """
        found: Features | None = getattr(self, name)
        if found is None:
            raise EvaluationError(f"{why} needs evaluation.{name}, which the config does not give")
        if len(found) == 0:
            raise EvaluationError(f"{why} needs labelled samples in evaluation.{name}; it has none")
        if (found.y.ndim == 2) != multi_label:
            other = "one class a sample" if multi_label else "several labels a sample; MultiLabelAdam judges those"
            raise EvaluationError(f"{why} does not fit evaluation.{name}, which has {other}")
        return found

    def classes(self) -> int:
        """Number of classes: the largest label of any split, plus one."""
        given = [split for split in (getattr(self, f.name) for f in fields(self)) if split is not None and len(split)]
        return max(int(split.y.max()) for split in given) + 1

    def to(self, device: torch.device | str) -> Splits:
        """All splits on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Splits(**{name: split if split is None else split.to(device) for name, split in moved.items()})


@dataclass(frozen=True)
class Outcome:
    """One figure.

    Attributes:
        metric: name of the metric, such as ``accuracy``.
        value: the figure as a fraction.
        n: number of test samples behind it.
        chosen: what was chosen on the validation split, and the validation figure behind it.
        extras: further figures of the same protocol.
        settings: hyper-parameters that the figure was made with.
        variant: tells several figures of one protocol apart (``5 per class``); empty for a single one.
        proportion: True where ``value`` is a share of ``n`` samples, so that a binomial interval applies.
        notes: what a reader of the figure has to know, in whole sentences; printed below the table.
        interval: 95 % interval of a figure that is no share of samples, such as a mean over episodes.
    """

    metric: str
    value: float
    n: int
    chosen: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    proportion: bool = True
    notes: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None


class AnyProtocol(ABC):
    """What all protocols have, whatever they judge. They are registered in ``PROTOCOLS``.

    Attributes:
        judges: ``features`` of a frozen backbone (``Protocol``), its two ``towers`` (``TowerProtocol``) or the
            ``backbone`` itself (``BackboneProtocol``).
        needs: splits of the evaluation section that the protocol cannot do without.
        chosen_on_val: arguments that are chosen on the validation split where they have several values.
    """

    judges: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    chosen_on_val: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def splits_needed(cls, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """Splits that a protocol with this config, whose defaults may be left out, cannot do without."""
        arguments = signature(cls).parameters
        several = any(len(as_list(cfg.get(key, arguments[key].default))) > 1 for key in cls.chosen_on_val)
        return (*cls.needs, "val") if several or cfg.get("refit") else cls.needs

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of the protocol's own config: key, message."""
        return ()


class Protocol(AnyProtocol):
    """Base of the protocols that judge features."""

    judges: ClassVar[str] = "features"
    needs: ClassVar[tuple[str, ...]] = ("train", "test")

    @abstractmethod
    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Figures on ``data``. A pure function of its arguments: no global random state is read or changed."""


def positive(cfg: dict[str, Any], *keys: str) -> Iterable[tuple[str, str]]:
    """Faults of the ``keys`` whose value, or any value of a list, is not above zero."""
    for key in keys:
        for value in as_list(cfg.get(key)):
            if isinstance(value, (int, float)) and not value > 0:
                yield key, f"must be above 0, got {value}"


def as_list(value: Any) -> list[Any]:
    """A list or tuple as a list, anything else but ``None`` as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, which for single-label data is the micro-F1 as well."""
    return float((predicted == labels).double().mean())


def micro_f1(predicted: Tensor, labels: Tensor) -> float:
    """F1 over all entries of ``predicted (n, C)`` and ``labels (n, C)``, both bool: ``2 TP / (2 TP + FP + FN)``.

    0 where nothing is predicted and nothing is true.
    """
    hits, told, true = (int(mask.sum()) for mask in (predicted & labels, predicted, labels))
    return 2 * hits / (told + true) if told + true else 0.0


def choose(candidates: Sequence[T], score: Callable[[T], float]) -> tuple[T, list[float]]:
    """The candidate with the best validation score, the first of equals, and all scores."""
    scores = [score(candidate) for candidate in candidates]
    return candidates[int(np.argmax(scores))], scores
