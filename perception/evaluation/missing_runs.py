"""Task models on tables with cells taken away: one figure by strategy and rate, the same masks for every model.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024). A mask depends
on the strategy, the rate and the table alone (``perception.datasets.missingness``), so that all models lose the same
cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import nn

from perception.errors import ConfigError, DataError, Fault, not_among
from perception.evaluation.features import batches, build_dataset
from perception.evaluation.stats import mean_std

RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
NO_TABLE, NO_IMAGE = "no table", "no image"


@dataclass(frozen=True)
class MissingFigures:
    """A figure of one model, or of several runs of it.

    Attributes:
        figure: name, such as ``accuracy/top1``.
        rates: shares of cells taken away.
        values: strategy -> (runs, rates).
        alone: ``no table`` and ``no image`` -> (runs,), as far as the model bears it.
    """

    figure: str
    rates: tuple[float, ...]
    values: Mapping[str, np.ndarray]
    alone: Mapping[str, np.ndarray]

    @classmethod
    def join(cls, parts: Sequence[MissingFigures]) -> MissingFigures:
        """Runs of one model together."""
        first = parts[0]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in first.values}
        alone = {name: np.concatenate([part.alone[name] for part in parts]) for name in first.alone}
        return cls(first.figure, first.rates, values, alone)

    def losses(self, strategy: str) -> np.ndarray:
        """(rates,) mean over the runs of what the figure falls short of that at the first rate."""
        values = self.values[strategy]
        return (values[:, :1] - values).mean(0)

    def rows(self, name: str) -> list[list[str]]:
        """Lines of a table: name, strategy, then mean ± std in percent at every rate, without a table, an image."""
        ends = [_cell(self.alone.get(key)) for key in (NO_TABLE, NO_IMAGE)]
        return [
            [name, strategy, *(_cell(values[:, k]) for k in range(len(self.rates))), *ends]
            for strategy, values in self.values.items()
        ]


def missing_figures(
    model: nn.Module,
    data: Mapping[str, Any],
    metric: BaseMetric,
    figure: str,
    strategies: Sequence[str] = ("RVM",),
    rates: Sequence[float] = RATES,
    seed: int | None = None,
    batch_size: int = 256,
) -> MissingFigures:
    """A task model on its test set, with cells taken away.

    Args:
        model: with ``test_step``, such as a ``Classifier``.
        data: config of the test set; it takes ``missing`` and ``only`` as ``TableImages`` does, and its own ``missing``
            is left aside.
        metric: such as an ``Accuracy``; it is copied.
        figure: name of the figure with its prefix.
        strategies: names of ``Masker``.
        rates: shares from 0 to 1.
        seed: of the masks; ``None`` is the reference's.
        batch_size: samples at a time.

    Raises:
        DataError: the metric gives no such figure.
    """
    model.eval()
    bare = {key: value for key, value in data.items() if key not in ("missing", "only", "transforms")}
    found: dict[Any, float] = {}

    def measured(**changes: Any) -> float:
        key = repr(sorted(changes.items()))
        if key not in found:
            found[key] = _figure(model, {**bare, **changes}, metric, figure, batch_size)
        return found[key]

    values = {}
    for strategy in strategies:
        settings = [{"strategy": strategy, "rate": float(rate), "seed": seed} for rate in rates]
        row = [measured() if setting["rate"] == 0 else measured(missing=setting) for setting in settings]
        values[strategy] = np.array([row])
    alone = {}
    for name, only in ((NO_TABLE, "image"), (NO_IMAGE, "table")):
        try:
            alone[name] = np.array([measured(only=only)])
        except DataError:  # a model that cannot do without says so
            alone[name] = np.array([np.nan])
    return MissingFigures(figure, tuple(float(rate) for rate in rates), values, alone)


@torch.no_grad()
def _figure(model: Any, data: Mapping[str, Any], metric: BaseMetric, figure: str, batch_size: int) -> float:
    dataset = build_dataset(data)
    own = deepcopy(metric)
    own.results.clear()
    own.dataset_meta = {"classes": tuple(dataset.classes)}
    for batch in batches(dataset, batch_size, 0):
        own.process(batch, model.test_step(batch))
    named = {f"{own.prefix}/{n}" if own.prefix else n: v for n, v in own.compute_metrics(own.results).items()}
    if figure not in named:
        raise ConfigError([Fault("figure", figure, f"the metric's figures: {not_among(figure, named)}")])
    return float(named[figure])


def missing_picture(figures: Mapping[str, MissingFigures], path: str | Path) -> None:
    """Curves of several models, a panel a strategy; bands are one standard deviation over runs.

    Args:
        figures: by the models' names; all with the same strategies.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    strategies = list(next(iter(figures.values())).values)
    canvas, axes = pyplot.subplots(1, len(strategies), figsize=(4.2 * len(strategies), 3.6), squeeze=False, sharey=True)
    for axis, strategy in zip(axes[0], strategies, strict=True):
        for name, own in figures.items():
            values = 100 * own.values[strategy]
            mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
            (line,) = axis.plot(own.rates, mean, marker="o", markersize=3, linewidth=1.3, label=name)
            axis.fill_between(own.rates, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(title=strategy, xlabel="share of cells taken away")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(f"{next(iter(figures.values())).figure}, %")
    axes[0, 0].legend(fontsize=8)
    canvas.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=120)
    pyplot.close(canvas)


def _cell(values: np.ndarray | None) -> str:
    if values is None or np.isnan(values).any():
        return "-"
    mean, std = mean_std(list(map(float, values)))
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if len(values) > 1 else "")
