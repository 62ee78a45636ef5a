"""Late fusion judged over grouped folds: each modality alone, all together, and pixels that need no training.

Heads are trained on the features of a frozen encoder and of texts; every sample is scored once, by a head that has seen
no sample of its group. The figure is the AUROC over all samples; with few groups the interval is wide, and honest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.datasets.balance import balanced_order, class_members
from perception.datasets.folds import grouped_folds
from perception.errors import ConfigError, Fault, check_arguments, not_among
from perception.evaluation.bootstrap import RESAMPLES, Difference, bootstrap_auroc, paired_bootstrap
from perception.evaluation.features import extract, undisturbed
from perception.evaluation.protocol import EvaluationError, Outcome
from perception.evaluation.ranking import auroc
from perception.evaluation.results import Row
from perception.evaluation.whole_backbone import BackboneProtocol
from perception.layers.late_fusion import LateFusionHead, head_faults
from perception.registry import PROTOCOLS
from perception.signatures import at_least
from perception.tasks.classifier import classification_loss
from perception.text.text_encoder import build_text_encoder

TEXT = "text"
# Of "Multi-Modal Self-Supervised Learning for Surgical Feedback Effectiveness Assessment" (2024).
HEADS: dict[str, dict[str, Any]] = {
    "video": {"branches": {"video": (512, 256)}, "lr": 1e-4, "epochs": 10},
    "text": {"branches": {"text": (256, 128)}, "lr": 5e-4, "epochs": 10},
    "fusion": {"branches": {"video": (256, 128), "text": (128, 64)}, "joint": (256, 128), "lr": 1e-3, "epochs": 20},
}
_HEAD_KEYS = ("branches", "joint", "lr", "epochs")


@dataclass(frozen=True)
class Sources:
    """What heads are trained on.

    Attributes:
        features: (n, D) float32 by name of a branch, texts excepted.
        texts: n texts, or None.
        labels: (n,) int64.
        groups: (n,) int64.
    """

    features: Mapping[str, Tensor]
    texts: Sequence[str] | None
    labels: np.ndarray
    groups: np.ndarray


@PROTOCOLS.register_module()
class FusionFolds(BackboneProtocol):
    """AUROC of heads on a backbone's features, on texts, on both, and on pixels, over grouped stratified folds.

    The data set has ``targets`` of two classes, ``groups``, and for a branch ``text`` ``texts``, as a ``VideoTable``
    has. A branch is ``text``, the backbone's modality (its pooled feature), or one of the training-free features that
    the backbone knows, such as ``static`` pixels, which no motion can be read from. Several clips of a video are
    averaged. All that is fitted (heads, word weights, means and deviations) is fitted to the other folds alone; classes
    are balanced there by drawing the rarer one again, never where heads are judged.

    Figures of every head: ``auroc`` with a 95 % interval over resampled groups, and ``auroc_within``, the mean over the
    groups that have both classes. The first compares scores of different folds, whose heads may
    differ in their offset, and a head that knows no more than how often a class comes is then below one half: the share
    in its training folds is the higher, the lower it is in its own group. The last has no such bias. The fusion's row
    holds the paired difference to the better single head.

    Args:
        dataset: as in ``BackboneProtocol``.
        heads: by name ``dict(branches=..., joint=(), lr=..., epochs=...)``; ``None`` takes the paper's three.
        baselines: training-free features that get the head of ``video`` each.
        text_encoder: config of the encoder of texts.
        feature: pooled feature of the backbone, ``None`` for its default.
        folds: number of folds; ``None`` leaves out one group at a time.
        fold_seed: of the folds; all seeds of a run share them.
        batch_size: samples of a step.
        weight_decay: of AdamW.
        standardise: bring features to mean 0 and deviation 1 by the training folds; the paper does not.
        repeats: heads whose probabilities are averaged, from different starts.
        subset: also give figures of the rows alone whose columns say so, such as ``dict(split='test')``.
        resamples: of the bootstrap.
    """

    def __init__(
        self,
        dataset: Any = None,
        heads: Mapping[str, Mapping[str, Any]] | None = None,
        baselines: Sequence[str] = ("static", "motion"),
        text_encoder: Mapping[str, Any] = {"type": "HashingTfidf"},
        feature: str | None = None,
        folds: int | None = 5,
        fold_seed: int = 0,
        batch_size: int = 16,
        weight_decay: float = 0.01,
        standardise: bool = False,
        repeats: int = 1,
        subset: Mapping[str, Any] | None = None,
        resamples: int = RESAMPLES,
    ) -> None:
        given = check_arguments("evaluation.protocols.FusionFolds", self.check_config, locals())
        super().__init__(dataset)
        chosen = {name: dict(head) for name, head in (HEADS if heads is None else heads).items()}
        video = next((h for h in chosen.values() if len(h["branches"]) == 1 and TEXT not in h["branches"]), None)
        for name in baselines:
            like = dict(video or HEADS["video"])
            chosen[name] = {**like, "branches": {name: next(iter(like["branches"].values()))}}
        self.heads, self.baselines = chosen, tuple(baselines)
        self.text_encoder, self.feature, self.folds, self.fold_seed = dict(text_encoder), feature, folds, fold_seed
        self.batch_size, self.weight_decay, self.standardise = batch_size, weight_decay, standardise
        self.repeats, self.subset, self.resamples = repeats, subset, resamples
        self.settings = {k: v for k, v in given.items() if k not in ("dataset", "resamples", "subset")}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Heads that can be built, and positive numbers."""
        for name, head in (cfg["heads"] or {}).items():
            wrong = [key for key in head if key not in _HEAD_KEYS]
            lacking = [key for key in ("branches", "lr", "epochs") if key not in head]
            if wrong or lacking:
                told = f"{wrong[0]!r} is {not_among(wrong[0], _HEAD_KEYS)}" if wrong else f"needs {', '.join(lacking)}"
                yield f"heads.{name}", told
                continue
            for key, text in head_faults(head["branches"], head.get("joint", ()), 0.0, 0.0):
                yield f"heads.{name}.{key}", text
            yield from ((f"heads.{name}.{key}", text) for key, text in at_least(head, 1, "epochs"))
        yield from at_least(cfg, 1, "batch_size", "repeats", "resamples")
        yield from at_least(cfg, 2, "folds")
        yield from at_least(cfg, 0, "weight_decay")

    @torch.enable_grad()
    def run(self, backbone: Backbone, dataset: Any, seed: int, **options: Any) -> list[Outcome]:
        """Figures of every head, the fusion's or else the first one's at the top."""
        sources, rows = self._sources(backbone, dataset, options)
        count = self.folds or len(np.unique(sources.groups))
        folds = grouped_folds(sources.labels, sources.groups, count, self.fold_seed)
        marks = dataset.rows_where(self.subset)[rows] if self.subset else None
        scores = {name: self._scores(head, sources, folds, seed) for name, head in self.heads.items()}
        outcomes = []
        order = sorted(self.heads, key=lambda name: -len(self.heads[name]["branches"]))  # stable
        for name in order:
            more = self._against_single(name, scores, sources)
            outcomes += self._figures(name, scores[name], sources, None, more)
            if marks is not None:
                told = ", ".join(f"{key}={value}" for key, value in (self.subset or {}).items())
                outcomes += self._figures(f"{name} ({told})", scores[name], sources, marks, {})
        return outcomes

    def _sources(self, backbone: Backbone, dataset: Any, options: Mapping[str, Any]) -> tuple[Sources, np.ndarray]:
        """Features by video, and the places of the labelled videos in the data set."""
        kind = type(dataset).__name__
        groups = getattr(dataset, "groups", None)
        if groups is None or not len(groups) or min(groups) < 0:
            raise EvaluationError(f"FusionFolds keeps groups together, but {kind} has none: name their column")
        with undisturbed(), torch.no_grad():
            found = extract(backbone, dataset, self.feature, baselines=bool(self.baselines), **options)
        first = next(iter(found.values()))
        video, place = np.unique(first.index.numpy() // (len(dataset) // len(groups)), return_inverse=True)
        labels = np.zeros(len(video), dtype=np.int64)
        labels[place] = first.y.numpy()
        if set(labels.tolist()) != {0, 1}:
            raise EvaluationError(
                f"FusionFolds tells two classes apart; {kind} has labels {sorted(set(labels.tolist()))}"
            )
        features = {
            backbone.modality if n == "backbone" else n: _means(f.x, place, len(video)) for n, f in found.items()
        }
        texts = getattr(dataset, "texts", None)
        needed = {name for head in self.heads.values() for name in head["branches"]}
        known = [*features, *([TEXT] if texts is not None else [])]
        for name in sorted(needed - set(known)):
            raise ConfigError([Fault("evaluation.protocols.FusionFolds.heads", name, not_among(name, known))])
        chosen = None if texts is None else [texts[i] for i in video.tolist()]
        return Sources(features, chosen, labels, np.asarray(groups)[video]), video

    def _scores(self, head: Mapping[str, Any], sources: Sources, folds: np.ndarray, seed: int) -> np.ndarray:
        """Probability (n,) of class 1, each from heads that saw no sample of its fold."""
        scores = np.zeros(len(folds))
        for fold in np.unique(folds):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            inputs = self._inputs(head["branches"], sources, train)
            for repeat in range(self.repeats):
                model = self._trained(head, inputs, sources.labels, train, [seed, int(fold), repeat])
                with torch.no_grad():
                    logits = model({name: x[test] for name, x in inputs.items()})
                scores[test] += logits.double().softmax(1)[:, 1].numpy() / self.repeats
        return scores

    def _inputs(self, names: Iterable[str], sources: Sources, train: np.ndarray) -> dict[str, Tensor]:
        """Features of all samples; what is fitted is fitted to the rows ``train``."""
        inputs = {}
        for name in names:
            if name == TEXT:
                assert sources.texts is not None
                encoder = build_text_encoder(self.text_encoder)
                encoder.fit([sources.texts[i] for i in train.tolist() if sources.texts[i]])
                with torch.no_grad():
                    x = encoder(sources.texts)
            else:
                x = sources.features[name]
            if self.standardise:
                std, mean = torch.std_mean(x[train], dim=0)
                x = (x - mean) / torch.where(std > 1e-6, std, torch.ones_like(std))
            inputs[name] = x
        return inputs

    def _trained(
        self,
        head: Mapping[str, Any],
        inputs: Mapping[str, Tensor],
        labels: np.ndarray,
        train: np.ndarray,
        seed: list[int],
    ) -> LateFusionHead:
        random = np.random.default_rng(seed)
        with undisturbed():
            torch.manual_seed(int(random.integers(2**31)))
            model = LateFusionHead({n: x.shape[1] for n, x in inputs.items()}, head["branches"], head.get("joint", ()))
        optimiser = torch.optim.AdamW(model.parameters(), lr=head["lr"], weight_decay=self.weight_decay)
        truth, members = torch.from_numpy(labels), class_members(labels[train])
        if len(members) < 2:
            raise EvaluationError("the training folds hold one class alone: fewer folds may hold both")
        for _ in range(head["epochs"]):
            order = train[balanced_order(members, random)]
            for rows in np.split(order, range(self.batch_size, len(order), self.batch_size)):
                loss = classification_loss(model({n: x[rows] for n, x in inputs.items()}), truth[rows])["loss"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model.eval()

    def _figures(
        self, name: str, scores: np.ndarray, sources: Sources, marks: np.ndarray | None, more: dict[str, Any]
    ) -> list[Outcome]:
        keep = np.ones(len(scores), dtype=bool) if marks is None else marks
        values, truth, groups = scores[keep], sources.labels[keep] == 1, sources.groups[keep]
        try:
            interval = bootstrap_auroc(values, truth, groups, self.resamples)
        except ValueError as error:
            raise EvaluationError(f"FusionFolds, {name}: {error}") from error
        within = [
            auroc(values[groups == g], truth[groups == g]) for g in np.unique(groups) if _both(truth[groups == g])
        ]
        extras = {**more, "low": interval.low, "high": interval.high, "groups": interval.groups}
        if marks is None:  # what a paired comparison of two runs needs
            extras |= {"scores": values.tolist(), "labels": truth.astype(int).tolist(), "clusters": groups.tolist()}
        shared: dict[str, Any] = {"variant": name, "settings": self.settings, "proportion": False}
        ends = (interval.low, interval.high)
        figures = [Outcome("auroc", interval.value, len(values), extras=extras, interval=ends, **shared)]
        if within:
            figures.append(Outcome("auroc_within", float(np.mean(within)), len(values), **shared))
        return figures

    def _against_single(self, name: str, scores: Mapping[str, np.ndarray], sources: Sources) -> dict[str, Any]:
        """Paired difference of a fusion to the better of the heads on one of its branches."""
        branches = self.heads[name]["branches"]
        single = [n for n, h in self.heads.items() if len(h["branches"]) == 1 and set(h["branches"]) < set(branches)]
        if not single:
            return {}
        truth = sources.labels == 1
        best = max(single, key=lambda n: auroc(scores[n], truth))
        found = paired_bootstrap(scores[name], scores[best], truth, sources.groups, self.resamples)
        return {
            "better_single": best,
            "difference": found.value,
            "difference_low": found.low,
            "difference_high": found.high,
            "p": found.p,
        }


def compare_heads(first: Path, second: Path, head: str, source: str = "trained", other: str = "trained") -> Difference:
    """Paired difference of two runs in the scores of a head, the first minus the second.

    Args:
        first: ``evaluation.json`` or ``probe.json`` of a run.
        second: of another one, on the same data and folds.
        head: its name.
        source: ``trained`` or ``untrained``, of the first.
        other: likewise, of the second.

    Raises:
        EvaluationError: no such row, or rows of other data.
    """
    one, two = _row_of(first, head, source), _row_of(second, head, other)
    if any(one[key] != two[key] for key in ("labels", "clusters")):
        raise EvaluationError(f"{first} and {second} were made on different data, so there are no pairs")
    return paired_bootstrap(one["scores"], two["scores"], np.array(one["labels"]) == 1, one["clusters"])


def _row_of(file: Path, head: str, source: str) -> dict[str, Any]:
    try:
        rows: list[Row] = json.loads(Path(file).read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"{str(file)!r} is no result of an evaluation: {error}") from error
    for row in rows:
        if "scores" in row.get("extras", {}) and row["source"] == source and row["variant"].split(": ")[-1] == head:
            return row["extras"]
    raise EvaluationError(f"{str(file)!r} has no scores of a head {head!r} on the {source} backbone")


def _means(x: Tensor, place: np.ndarray, count: int) -> Tensor:
    """Mean (count, D) of the rows of every video."""
    sums = torch.zeros(count, x.shape[1]).index_add_(0, torch.from_numpy(place), x)
    return sums / torch.from_numpy(np.bincount(place, minlength=count)).to(x.dtype)[:, None]


def _both(truth: np.ndarray) -> bool:
    return bool(truth.any()) and not bool(truth.all())
