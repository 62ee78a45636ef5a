"""Two-dimensional maps of embeddings, by PCA or t-SNE, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def scatter_map(points: np.ndarray, labels: np.ndarray, title: str, file: Path, names: Sequence[str] = ()) -> Path:
    """Points ``(n, 2)``, coloured by class; the legend says ``names``, or the numbers."""
    figure, (axis,) = row_of_panels(1)
    for label in np.unique(labels).tolist():
        text = names[label] if names else str(label)
        axis.scatter(*points[labels == label].T, s=6, alpha=0.7, label=text, color=_colour(label))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=7, markerscale=2, title="class")
    figure.suptitle(title)
    return save_figure(figure, file)


def project(x: np.ndarray, kind: str) -> np.ndarray:
    """``(n, 2)`` map of ``x`` ``(n, F)``: the two main axes, or t-SNE with a fixed seed."""
    x = (x - x.mean(0)) / (x.std() + 1e-12)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    if kind == "pca" or len(x) < 5:
        flat = x @ axes[:2].T
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    from sklearn.manifold import TSNE

    few = x @ axes[:50].T
    return TSNE(2, perplexity=min(30.0, (len(x) - 1) / 3), init="pca", random_state=0).fit_transform(few)


def _colour(label: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["tab10" if label < 10 else "tab20"](label % 20 if label >= 10 else label)


def row_of_panels(panels: int) -> tuple[Any, Any]:
    """A figure of ``panels`` axes side by side, and the axes."""
    # The object interface draws without a display and leaves no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * panels, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def save_figure(figure: Any, file: Path) -> Path:
    """Write ``figure`` to ``file``, which is returned."""
    figure.savefig(file, dpi=120)
    return file
