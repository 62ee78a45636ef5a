"""Pictures of figures: a sheet of retrieved images, a confusion matrix, cosines and F1 of classes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Hit = tuple[np.ndarray, float, bool]  # picture (H, W, 3) uint8, score, whether it belongs to the text
RIGHT, WRONG = "#1a9850", "#bbbbbb"


def retrieval_sheet(rows: Sequence[tuple[str, int, Sequence[Hit]]], title: str, file: Path) -> Path:
    """One row a text: the text and the rank of its first own image, then the images that come first, hits framed."""
    across = max(len(hits) for _, _, hits in rows)
    figure, axes = _figure((1.5 * (across + 2), 1.65 * len(rows) + 0.5), len(rows), across + 1, [2, *[1] * across])
    for line, (text, rank, hits) in zip(axes, rows, strict=True):
        words = [*textwrap.wrap(text, 30)[:6], f"(own image: rank {rank})"]
        line[0].text(0, 0.5, "\n".join(words), va="center", fontsize=8, transform=line[0].transAxes)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set_visible(False)
        for axis, (picture, score, hit) in zip(line[1:], hits, strict=False):
            axis.imshow(picture)
            axis.set_xlabel(f"{score:.2f}", fontsize=7, labelpad=2)
            for side in axis.spines.values():
                side.set(visible=True, color=RIGHT if hit else WRONG, linewidth=4 if hit else 0.5)
    return _save(figure, title, file)


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], title: str, file: Path) -> Path:
    """Shares of the true class (rows) that go to each predicted class (columns); numbers where they fit."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.trace(counts) / max(counts.sum(), 1)
    told = f"{title}\n{100 * right:.1f} % of {counts.sum()} samples"
    return _square(shares, classes, told, file, (0.0, 1.0), "Blues", ("predicted", "true"))


def cosine_matrix(cosines: np.ndarray, classes: Sequence[str], title: str, file: Path) -> Path:
    """Cosines (C, C) between classes, from blue (-1) to red (1); numbers of hundredths where they fit."""
    return _square(cosines, classes, title, file, (-1.0, 1.0), "RdBu_r", ("", ""))


def class_bars(values: Sequence[float], classes: Sequence[str], mean: float, title: str, file: Path) -> Path:
    """A bar a class, and a line at their mean; values lie in [0, 1], NaN draws none."""
    figure, axes = _figure((6.0, 1.2 + 0.28 * len(classes)), 1, 1, [1])
    axis = axes[0][0]
    axis.barh(range(len(classes)), np.nan_to_num(values), 0.7, color="#4a7ab5")
    axis.set_yticks(range(len(classes)), classes, fontsize=7)
    axis.axvline(mean, color="black", linewidth=1, linestyle="--")
    axis.set(xlim=(0, 1), xlabel="F1")
    axis.invert_yaxis()
    return _save(figure, title, file)


def _square(
    values: np.ndarray,
    classes: Sequence[str],
    title: str,
    file: Path,
    limits: tuple[float, float],
    colours: str,
    labels: tuple[str, str],
) -> Path:
    """Values between classes as colours, and as hundredths where they fit."""
    size = min(4 + 0.22 * len(classes), 16)
    figure, axes = _figure((size + 1, size), 1, 1, [1])
    axis = axes[0][0]
    picture = axis.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colours)
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=90, fontsize=7)
    axis.set_yticks(ticks, classes, fontsize=7)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    if len(classes) <= 12:
        for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
            colour = "white" if abs(values[i, j]) > 0.5 else "black"
            axis.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(picture, ax=axis, fraction=0.04)
    return _save(figure, title, file)


def _figure(size: tuple[float, float], down: int, across: int, widths: Sequence[float]) -> tuple[Any, Any]:
    # The object interface draws without a display and leaves no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(down, across, squeeze=False, gridspec_kw={"width_ratios": list(widths)})


def _save(figure: Any, title: str, file: Path) -> Path:
    figure.suptitle(title, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return file
