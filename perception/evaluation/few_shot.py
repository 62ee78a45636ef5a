"""Few-shot episodes: how well a handful of labelled samples of new classes tell the rest apart, over many draws.

An episode has N classes and K labelled samples of each, the support. Logistic regression on their frozen features names
the classes of the queries, other samples of the same classes. The figure is the mean accuracy over the episodes,
+- 1.96 standard errors.

``legacy`` beside it is what public code of "CDFSL-V" (Samarasinghe et al., 2023) takes for an accuracy: queries come in
a random order in batches of five, of every batch the recalls of all N classes are averaged, where a class that the
batch lacks counts as 0, and the batches are averaged. With N = 5 a perfect classifier then has 1 - (4/5)^5 = 67.2 %. It
is there to compare with published tables and for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perception.errors import check_arguments
from perception.evaluation.episode_regression import fit_logistic
from perception.evaluation.linear_lbfgs import Standardise
from perception.evaluation.protocol import EvaluationError, Outcome, Protocol, Splits, as_list, positive
from perception.evaluation.stats import mean_std
from perception.registry import PROTOCOLS
from perception.signatures import at_least

LEGACY_BATCH = 5
_BLOCK = 50  # episodes drawn together, so that the first ones of many are those of few
_VALUES = 2**25  # numbers of gathered features held at once


@dataclass(frozen=True)
class Episodes:
    """Rows of E episodes.

    Attributes:
        classes: (E, N) class ids, distinct in a row.
        support: (E, N, K) rows of the labelled samples.
        query: (E, Q) rows of the queries in a random order; -1 fills up episodes that have fewer.
        target: (E, Q) place of a query's class in ``classes``, -1 where there is no query.
        left_out: classes of the data that are too small to be drawn.
    """

    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray
    target: np.ndarray
    left_out: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, part: slice) -> Episodes:
        """Some of the episodes."""
        return Episodes(self.classes[part], self.support[part], self.query[part], self.target[part], self.left_out)


def draw_episodes(
    labels: np.ndarray, index: np.ndarray, ways: int, shots: int, queries: int | None, count: int, seed: int
) -> Episodes:
    """Episodes of distinct classes, with disjoint random support and queries.

    They depend on the labels and the positions in the data set, not on the order of the rows, so they are the same for
    every backbone. The first of many are those of few.

    Args:
        labels: (n,) class ids.
        index: (n,) positions in the data set.
        ways: classes N of an episode.
        shots: labelled samples K of every class.
        queries: queries of every class; ``None`` takes all that remain.
        count: number of episodes.
        seed: seed of the draws.

    Raises:
        EvaluationError: fewer than ``ways`` classes are large enough.
    """
    order = np.argsort(index, kind="stable")
    ids, sizes = np.unique(labels, return_counts=True)
    least = shots + (1 if queries is None else queries)
    fit = ids[sizes >= least]
    if len(fit) < ways:
        raise EvaluationError(
            f"few-shot: {ways}-way episodes with {least} samples a class need {ways} such classes; of {len(ids)} "
            f"classes {len(fit)} have so many, the largest has {int(sizes.max())}"
        )
    members = [order[labels[order] == label] for label in fit]
    largest = max(map(len, members))
    table = np.stack([np.pad(rows, (0, largest - len(rows)), constant_values=-1) for rows in members])
    taken = largest if queries is None else shots + queries
    picked, rows, turns = [], [], []
    for block in range(-(-count // _BLOCK)):
        random = np.random.default_rng([seed, ways, shots, 0 if queries is None else queries, block])
        chosen = random.random((_BLOCK, len(fit))).argsort(axis=1)[:, :ways]
        keys = random.random((_BLOCK, ways, largest))
        keys[table[chosen] < 0] = 2.0  # behind all that there is
        places = keys.argsort(axis=2)[..., :taken]
        picked.append(chosen)
        rows.append(np.take_along_axis(table[chosen], places, axis=2))
        turns.append(random.random((_BLOCK, ways * (taken - shots))))
    chosen, drawn, turn = (np.concatenate(parts)[:count] for parts in (picked, rows, turns))
    query = drawn[..., shots:].reshape(count, -1)
    target = np.repeat(np.arange(ways), taken - shots)[None].repeat(count, axis=0)
    target = np.where(query < 0, -1, target)
    mixed = np.where(query < 0, 2.0, turn).argsort(axis=1)
    query, target = np.take_along_axis(query, mixed, axis=1), np.take_along_axis(target, mixed, axis=1)
    left_out = tuple(int(label) for label in ids[sizes < least])
    return Episodes(fit[chosen], drawn[..., :shots], query, target, left_out)


def episode_accuracies(predicted: Tensor, target: Tensor) -> Tensor:
    """Share of right queries (E,) float64 of predictions and classes (E, Q); those of class -1 do not count."""
    known = target >= 0
    return ((predicted == target) & known).double().sum(1) / known.double().sum(1)


def legacy_accuracies(predicted: Tensor, target: Tensor, classes: int, batch: int = LEGACY_BATCH) -> Tensor:
    """What mini-batches of ``batch`` queries make of it, (E,) float64; see the head of this file.

    Args:
        predicted: (E, Q) places of the predicted classes.
        target: (E, Q) those of the true ones, -1 at the end where an episode has fewer queries.
        classes: number N of classes.
        batch: queries of a mini-batch; the last one may have fewer.
    """
    short = -target.shape[1] % batch
    target = functional.pad(target, (0, short), value=-1).unflatten(1, (-1, batch))
    predicted = functional.pad(predicted, (0, short), value=-1).unflatten(1, (-1, batch))
    ids = torch.arange(classes, device=target.device)
    true = target[..., None] == ids  # (E, batches, batch, N)
    hits = (true & (predicted == target)[..., None]).double().sum(2)
    recall = (hits / true.double().sum(2).clamp(min=1)).sum(2) / classes
    filled = (target >= 0).any(2).double()
    return (recall * filled).sum(1) / filled.sum(1)


@PROTOCOLS.register_module()
class FewShotEpisodes(Protocol):
    """Mean accuracy over N-way K-shot episodes inside ``evaluation.test``, and its ``legacy`` reading beside it.

    Features of any modality will do. Whatever is judged, the episodes of one seed are the same.

    Args:
        ways: classes N of an episode, distinct.
        shots: labelled samples K of every class; one figure for each of several.
        queries: queries of every class; ``None`` takes all that remain. CDFSL-V's code: ``None``.
        episodes: number of episodes; an interval wants 600.
        episode_seed: seed of the episodes, which is not that of the run.
        C: inverse strength of the L2 penalty of the classifier, as scikit-learn writes it.
        standardise: shift and scale every column by the statistics of ``evaluation.train``, whose labels are not looked
            at. CDFSL-V takes features as they are.
        unit: then bring every row to length 1.
    """

    needs = ("test",)

    def __init__(
        self,
        ways: int = 5,
        shots: int | Sequence[int] = (1, 5, 20),
        queries: int | None = 15,
        episodes: int = 600,
        episode_seed: int = 0,
        C: float = 1.0,
        standardise: bool = False,
        unit: bool = False,
    ) -> None:
        check_arguments("evaluation.protocols.few_shot", self.check_config, locals())
        self.ways, self.shots, self.queries = ways, as_list(shots), queries
        self.episodes, self.episode_seed = episodes, episode_seed
        self.C, self.standardise, self.unit = float(C), standardise, unit

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Two classes, something to learn from and to ask, and two episodes for an interval."""
        yield from at_least(cfg, 2, "ways", "episodes")
        yield from at_least(cfg, 1, "queries")
        yield from at_least(cfg, 0, "episode_seed")
        yield from positive(cfg, "C", "shots")
        if not as_list(cfg["shots"]):
            yield "shots", "needs at least one number of samples"

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Two figures, corrected and legacy, for each number of shots."""
        test = data.need("test", "FewShotEpisodes")
        x = test.x
        if self.standardise:
            x = Standardise.of(data.need("train", "FewShotEpisodes with standardise").x)(x)
        if self.unit:
            x = functional.normalize(x, dim=1)
        labels, index = test.y.cpu().numpy(), test.index.cpu().numpy()
        found = []
        for shots in self.shots:
            episodes = draw_episodes(labels, index, self.ways, shots, self.queries, self.episodes, self.episode_seed)
            found += self._outcomes(shots, episodes, *self._score(x, episodes), len(test))
        return found

    def _score(self, x: Tensor, episodes: Episodes) -> tuple[list[float], list[float]]:
        """Accuracies and legacy accuracies of all episodes on features ``x`` (n, F)."""
        right, legacy = [], []
        size = (episodes.support[0].size + episodes.query.shape[1]) * x.shape[1]
        for part in _parts(len(episodes), max(1, _VALUES // size)):
            some = episodes.take(part)
            target = torch.from_numpy(some.target).to(x.device)
            predicted = solve_episodes(x, some, self.C)
            right += episode_accuracies(predicted, target).tolist()
            legacy += legacy_accuracies(predicted, target, self.ways).tolist()
        return right, legacy

    def _outcomes(
        self, shots: int, episodes: Episodes, right: Sequence[float], legacy: Sequence[float], n: int
    ) -> list[Outcome]:
        settings = {
            "ways": self.ways,
            "shots": shots,
            "queries": self.queries,
            "episodes": len(episodes),
            "episode_seed": self.episode_seed,
            "C": self.C,
            "standardise": self.standardise,
            "unit": self.unit,
        }
        notes: tuple[str, ...] = ()
        if episodes.left_out:
            few = f"{len(episodes.left_out)} classes too small for {shots}-shot episodes are never drawn"
            notes = (f"{few}: {', '.join(map(str, episodes.left_out[:10]))}",)
        best = self._ceiling(episodes)
        told = f"legacy accuracy of {self.ways}-way {shots}-shot episodes: a perfect classifier would have {best:.1%}"
        found = []
        for metric, values, said in (("accuracy", right, notes), ("legacy_accuracy", legacy, (told,))):
            mean, std = mean_std(values)
            half = half_width(std, len(values))
            extras: dict[str, Any] = {"ci95_half": half, "episode_std": std, "classes_left_out": len(episodes.left_out)}
            if metric == "legacy_accuracy":
                extras["perfect"] = best
            found.append(
                Outcome(
                    metric,
                    mean,
                    n,
                    extras=extras,
                    settings=settings,
                    variant=f"{self.ways}-way {shots}-shot",
                    proportion=False,
                    notes=said,
                    interval=(mean - half, mean + half),
                )
            )
        return found

    def _ceiling(self, episodes: Episodes) -> float:
        """Legacy accuracy of a classifier that is always right, on these episodes."""
        target = torch.from_numpy(episodes.target)
        return float(legacy_accuracies(target, target, self.ways).mean())


def half_width(std: float, episodes: int) -> float:
    """Half a 95 % interval of a mean over episodes: 1.96 s / sqrt(E), s with E - 1 in its denominator."""
    return 1.96 * std / math.sqrt(episodes)


def solve_episodes(x: Tensor, episodes: Episodes, C: float = 1.0) -> Tensor:
    """Predicted places (E, Q) of the queries' classes; what fills up an episode gets one as well.

    Args:
        x: (n, F) features.
        episodes: rows of ``x``.
        C: see ``fit_logistic``.
    """
    count, ways, shots = episodes.support.shape
    support = torch.from_numpy(episodes.support).to(x.device).flatten(1)
    label = torch.arange(ways, device=x.device).repeat_interleave(shots).expand(count, -1)
    weight, bias = fit_logistic(x[support], label, ways, C)
    queries = x[torch.from_numpy(episodes.query).to(x.device).clamp(min=0)]
    logits = queries.double() @ weight.transpose(1, 2) + bias[:, None]
    return logits.argmax(2)


def _parts(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, start + size)
