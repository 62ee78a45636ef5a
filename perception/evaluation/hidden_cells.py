"""How well hidden cells are told on held-out rows, column by column, beside what the training rows' columns say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.errors import ConfigError
from perception.evaluation.features import batches, device_of
from perception.losses.table_image import draw_cells
from perception.pretext.tip import TIP
from perception.tasks.base import to_device
from perception.transforms.table_columns import Column


@dataclass(frozen=True)
class HiddenCellFigures:
    """Figures of hidden cells.

    Attributes:
        columns: in the record's order, categorical ones first.
        value: (N,) accuracy of a categorical column, share of variance explained (R2) of a continuous one; NaN where no
            cell was hidden.
        baseline: (N,) the same of the most frequent category, or of the mean, of the training rows.
        count: (N,) hidden cells.
    """

    columns: tuple[Column, ...]
    value: np.ndarray
    baseline: np.ndarray
    count: np.ndarray

    @property
    def accuracy(self) -> tuple[float, float]:
        """Accuracy over all hidden categorical cells, and that of the baseline; NaN where there are none."""
        kind = np.array([column.categorical for column in self.columns], dtype=bool)
        weights = self.count * kind
        total = weights.sum()
        if not total:
            return float("nan"), float("nan")
        found = [float(np.nansum(values * weights) / total) for values in (self.value, self.baseline)]
        return found[0], found[1]

    def rows(self) -> list[list[str]]:
        """Lines of a table: column, figure, model, baseline, cells."""
        lines = [
            [c.name, "accuracy" if c.categorical else "R2", f"{v:.3f}", f"{b:.3f}", str(n)]
            for c, v, b, n in zip(self.columns, self.value, self.baseline, self.count.tolist(), strict=True)
        ]
        told = self.accuracy
        return [*lines, ["all categorical cells", "accuracy", f"{told[0]:.3f}", f"{told[1]:.3f}", ""]]


@torch.no_grad()
def hidden_cell_figures(
    model: Any, train: Any, held_out: Any, passes: int = 10, seed: int = 0, batch_size: int = 256
) -> HiddenCellFigures:
    """Hide cells of held-out rows as in training and compare what is told with what was there.

    Args:
        model: a ``Pretrainer`` with a ``TIP`` that has the loss ``mtr``.
        train: data set of the training rows, for the baseline.
        held_out: data set of rows that the model has not seen.
        passes: how often every row is taken, with other cells hidden.
        seed: of what is hidden.
        batch_size: rows at a time.

    Raises:
        ConfigError: nothing in the model was trained to tell cells.
    """
    backbone = model.backbone
    pretext = next((p for p in model.pretexts.values() if isinstance(p, TIP) and "mtr" in p.losses), None)
    if pretext is None:
        raise ConfigError("hidden cells are told by a Pretrainer with a TIP that has the loss 'mtr'")
    model.eval()
    device, record = device_of(backbone), backbone.preprocess
    split = len(record.categories)
    usual = _usual(record, train, batch_size)
    parts: dict[str, list[torch.Tensor]] = {"told": [], "true": [], "hidden": []}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(passes):
            for raw in batches(held_out, batch_size, 0):
                batch = record(to_device(raw, device))
                hidden = draw_cells(batch["table_missing"].cpu(), pretext.mask_ratio)
                hidden = type(hidden)(*(part.to(device) for part in (hidden.mask, hidden.places, hidden.valid)))
                parts["told"].append(pretext.tell_cells(backbone, batch, hidden).cpu())
                parts["true"].append(batch["table"].cpu())
                parts["hidden"].append(hidden.mask.cpu())
    told, true, mask = (torch.cat(parts[key]).double().numpy() for key in ("told", "true", "hidden"))
    count = mask.sum(0).astype(int)
    value, baseline = np.full(len(count), np.nan), np.full(len(count), np.nan)
    for j in np.flatnonzero(count):
        own = mask[:, j] > 0
        truth = true[own, j]
        for figures, guess in ((value, told[own, j]), (baseline, np.full(len(truth), usual[j]))):
            figures[j] = np.mean(guess == truth) if j < split else _explained(guess, truth)
    return HiddenCellFigures(record.columns, value, baseline, count)


def _usual(record: Any, train: Any, batch_size: int) -> np.ndarray:
    """(N,) most frequent code, or mean, of every column in the training rows."""
    tables = [record({k: v for k, v in raw.items() if k != "image"}) for raw in batches(train, batch_size, 0)]
    table = torch.cat([t["table"] for t in tables]).numpy()
    missing = torch.cat([t["table_missing"] for t in tables]).numpy()
    found = np.zeros(table.shape[1])
    for j, size in enumerate(record.categories):
        found[j] = np.bincount(table[~missing[:, j], j].astype(int), minlength=size).argmax()
    return found  # continuous cells are standard scores of the training rows: their mean is 0


def _explained(told: np.ndarray, true: np.ndarray) -> float:
    spread = float(np.var(true))
    return 1.0 - float(np.mean((told - true) ** 2)) / spread if spread > 0 else float("nan")


def hidden_cell_picture(figures: HiddenCellFigures, path: str | Path) -> None:
    """Bars of every column, the model's beside the baseline's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [f"{c.name} ({'accuracy' if c.categorical else 'R2'})" for c in figures.columns]
    places = np.arange(len(names))
    canvas, axis = pyplot.subplots(figsize=(6.4, 0.9 + 0.34 * len(names)), layout="constrained")
    axis.barh(places - 0.2, np.nan_to_num(figures.value), 0.4, label="told from the rest")
    axis.barh(places + 0.2, np.nan_to_num(figures.baseline), 0.4, label="most frequent category, mean", color="0.75")
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=120)
    pyplot.close(canvas)
