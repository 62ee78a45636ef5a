"""What corruptions and attacks cost: mCE and mRR of scores by severity, the success of spoofed objects, pictures.

Robo3D: Towards Robust and Reliable 3D Perception against Corruptions, 2023; Towards Robust LiDAR-based Perception in
Autonomous Driving, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from perception.errors import DataError
from perception.evaluation.box_sets import BoxSet, equal_pairs
from perception.evaluation.stats import binomial_interval

Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Robustness:
    """A model's score under corruptions, beside its own clean score and, for mCE, a baseline's scores.

    The scores are any figure in [0, 1] that is better when higher, such as mAP, NDS or mIoU.

    Attributes:
        clean: score without corruption.
        scores: corruption -> scores by severity, mild first; all corruptions have equally many.
        baseline: the same of the baseline model; None without one.
        metric: name of the figure, for tables and pictures.

    Raises:
        DataError: a score is not in [0, 1], the corruptions or severities of the two models differ, the clean score is
            0 or the baseline makes no error, so that a ratio is undefined.
    """

    clean: float
    scores: Scores
    baseline: Scores | None = None
    metric: str = "score"

    def __post_init__(self) -> None:
        if not self.scores:
            raise DataError("robustness needs the scores of at least one corruption")
        _grid(self.scores, "scores")
        if not 0 < self.clean <= 1:
            raise DataError(f"the clean score must lie in (0, 1], got {self.clean}")
        if self.baseline is not None:
            if set(self.baseline) != set(self.scores):
                odd = sorted(set(self.baseline) ^ set(self.scores))
                raise DataError(f"the baseline was not measured under the same corruptions: {', '.join(odd)}")
            base = _grid(self.baseline, "baseline scores")
            if base.shape != _grid(self.scores, "scores").shape:
                raise DataError("the baseline was not measured at the same number of severities")
            for name, row in zip(self.baseline, base, strict=True):
                if (row == 1).all():
                    raise DataError(f"{name}: the baseline makes no error, so errors cannot be related to its")

    @property
    def severities(self) -> int:
        """Number of severities."""
        return len(next(iter(self.scores.values())))

    @property
    def rr(self) -> dict[str, float]:
        """Resilience in percent by corruption: mean score over the severities / clean score; 100 loses nothing."""
        return {name: 100 * float(np.mean(row)) / self.clean for name, row in self.scores.items()}

    @property
    def ce(self) -> dict[str, float]:
        """Error in percent of the baseline's by corruption, errors (1 - score) summed over severities; lower is better.

        Raises:
            DataError: there is no baseline.
        """
        if self.baseline is None:
            raise DataError("corruption errors are relative to a baseline, and none is given")
        errors = {name: float(np.sum(1 - np.asarray(row))) for name, row in self.scores.items()}
        return {
            name: 100 * error / float(np.sum(1 - np.asarray(self.baseline[name]))) for name, error in errors.items()
        }

    @property
    def mrr(self) -> float:
        """Mean of ``rr`` over corruptions."""
        return float(np.mean(list(self.rr.values())))

    @property
    def mce(self) -> float:
        """Mean of ``ce`` over corruptions."""
        return float(np.mean(list(self.ce.values())))

    @property
    def by_severity(self) -> list[float]:
        """Mean score over corruptions: without corruption, then by severity."""
        return [self.clean, *(float(v) for v in _grid(self.scores, "scores").mean(0))]

    def figures(self) -> dict[str, float]:
        """Flat numbers for logs: ``clean``, ``severity<s>``, ``mrr``, ``mce`` and ``<corruption>/severity<s>``."""
        found = {"clean": self.clean, "mrr": self.mrr}
        if self.baseline is not None:
            found["mce"] = self.mce
        found |= {f"severity{s}": value for s, value in enumerate(self.by_severity) if s}
        for name, row in self.scores.items():
            found |= {f"{name}/severity{s}": float(value) for s, value in enumerate(row, start=1)}
        return found

    def table(self) -> str:
        """Scores by corruption and severity, with RR and CE, as a Markdown table."""
        head = [self.metric, "clean", *(f"s{s}" for s in range(1, self.severities + 1)), "RR %"]
        rows = [[n, self.clean, *row, self.rr[n]] for n, row in self.scores.items()]
        rows.append(["mean", *self.by_severity, self.mrr])
        if self.baseline is not None:
            head.append("CE %")
            for row, value in zip(rows, [*self.ce.values(), self.mce], strict=True):
                row.append(value)
        percent = self.severities + 2  # columns from here on are in percent
        cells = [[_cell(v, i >= percent) for i, v in enumerate(row)] for row in rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *cells])

    def picture(self, file: Path, title: str = "") -> Path:
        """Draw the scores over severity, one line a corruption, beside a map of the share that is left."""
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, max(3.5, 1 + 0.3 * len(self.scores))), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display
        lines, grid = figure.subplots(1, 2)
        steps = range(self.severities + 1)
        for number, (name, row) in enumerate(self.scores.items()):
            colour = colormaps["tab20"](number % 20)
            lines.plot(steps, [self.clean, *row], linewidth=1, marker=".", color=colour, label=name)
        lines.plot(steps, self.by_severity, linewidth=3, color="black", label="mean")
        lines.set(xlabel="severity", ylabel=self.metric, xticks=list(steps), ylim=(0, None))
        lines.grid(alpha=0.3)
        lines.legend(fontsize=6, ncols=2)
        shares = _grid(self.scores, "scores") / self.clean
        grid.imshow(shares, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        grid.set_xticks(range(self.severities), [str(s) for s in steps if s])
        grid.set_yticks(range(len(shares)), list(self.scores), fontsize=7)
        grid.set(xlabel="severity", title="% of the clean score")
        for i, j in np.ndindex(*shares.shape):
            grid.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7)
        figure.suptitle(title or f"{self.metric} under corruption, mRR {self.mrr:.1f} %", fontsize=10)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)
        return file


@dataclass(frozen=True)
class Spoofing:
    """Outcome of an attack that fakes an object at one place of every frame.

    Attributes:
        success: (F,) bool, the detector reports an object there that the clean frame has not.
        occupied: (F,) bool, it already reports one there in the clean frame; no success is possible.
    """

    success: np.ndarray
    occupied: np.ndarray

    @property
    def rate(self) -> float:
        """Share of all frames in which the attack succeeds."""
        return float(self.success.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate."""
        return binomial_interval(self.rate, len(self.success))


def spoofing(
    clean: BoxSet,
    attacked: BoxSet,
    targets: ArrayLike,
    labels: Sequence[int],
    score: float = 0.3,
    radius: float = 2.0,
) -> Spoofing:
    """Judge an attack from the detections of the clean and of the attacked frames.

    Args:
        clean: detections with ``score``; ``sample`` counts frames from 0.
        attacked: likewise, of the same frames with the fake points in them.
        targets: (F, >= 2) x and y in metres where each frame's fake object stands.
        labels: classes that count, such as all vehicles.
        score: least score of a detection that is reported.
        radius: metres between a detection's centre and the target at which it is "there".

    Raises:
        DataError: there is no frame, or a detection belongs to none.
    """
    places = np.asarray(targets, dtype=np.float64)
    if places.ndim != 2 or not len(places):
        raise DataError(f"targets (F, 2) of at least one frame are needed, got {places.shape}")
    before, after = (_reported(boxes, places, labels, score, radius) for boxes in (clean, attacked))
    return Spoofing(after & ~before, before)


def spoofing_table(outcomes: Mapping[int, Spoofing], baseline: Mapping[int, Spoofing] | None = None) -> str:
    """Success rates by number of fake points as a Markdown table; with a baseline also by how much they are lower."""
    head = ["points", "frames", "success %", "95 %", "already there"]
    rows = []
    for budget, outcome in sorted(outcomes.items()):
        low, high = outcome.interval
        row = [str(budget), str(len(outcome.success)), f"{100 * outcome.rate:.1f}", f"{100 * low:.1f}-{100 * high:.1f}"]
        row.append(str(int(outcome.occupied.sum())))
        if baseline is not None:
            base = baseline[budget].rate
            row += [f"{100 * base:.1f}", f"{100 * (1 - outcome.rate / base):.1f}" if base else "-"]
        rows.append(row)
    head += ["baseline %", "lower by %"] if baseline is not None else []
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---:"] * len(head), *rows])


def _reported(boxes: BoxSet, places: np.ndarray, labels: Sequence[int], score: float, radius: float) -> np.ndarray:
    if len(boxes) and not 0 <= boxes.sample.min() <= boxes.sample.max() < len(places):
        raise DataError(f"detections of frames {boxes.sample.min()} to {boxes.sample.max()}, {len(places)} targets")
    reported = boxes.needed("score", "only those above a score are reported") >= score
    counted = boxes.take(reported & np.isin(boxes.label, np.asarray(labels)))
    found = np.zeros(len(places), dtype=bool)
    for i, j in equal_pairs(np.arange(len(places)), counted.sample):
        found[i[np.linalg.norm(counted.boxes[j, :2] - places[i, :2], axis=1) <= radius]] = True
    return found


def _grid(scores: Scores, what: str) -> np.ndarray:
    """(corruptions, severities)."""
    if len({len(row) for row in scores.values()}) != 1 or not len(next(iter(scores.values()))):
        raise DataError(f"{what}: every corruption needs one score for each severity, got {_lengths(scores)}")
    grid = np.array([list(row) for row in scores.values()], dtype=np.float64)
    for name, row in zip(scores, grid, strict=True):
        if not ((row >= 0) & (row <= 1)).all():
            raise DataError(f"{what} of {name} must lie in [0, 1], got {row.tolist()}")
    return grid


def _lengths(scores: Scores) -> str:
    return ", ".join(f"{name}: {len(row)}" for name, row in scores.items())


def _cell(value: object, percent: bool) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if percent else f"{value:.4f}"
