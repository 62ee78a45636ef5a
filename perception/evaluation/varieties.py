"""What a trained classifier makes of closely related classes, such as language varieties, as figures and pictures.

The analysis of "Speech Analysis of Language Varieties in Italy" (La Quatra et al., 2024): F1 of every region, confusion
in geographic order, likeness of regions, a map of the embedding; and what speakers, not clips, make of the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.errors import DataError
from perception.evaluation import class_geometry as geometry
from perception.evaluation.features import batches, device_of
from perception.tasks.base import to_device


@torch.no_grad()
def look_at_classes(
    model: Any, dataset: Any, group_key: str = "speaker", batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Embeddings and predictions of the labelled samples of a data set.

    Args:
        model: a ``Classifier``, in whatever mode; it is left in eval mode.
        dataset: gives whole RAW batches with ``label`` and ``group_key``.
        group_key: key of the groups, such as speakers.
        batch_size: samples at a time.

    Returns:
        ``x (n, D)`` float32 pooled features, ``label``, ``predicted`` and ``group``, (n,) int64.

    Raises:
        DataError: no labels or no groups.
    """
    model.eval()
    found: dict[str, list[torch.Tensor]] = {"x": [], "label": [], "predicted": [], "group": []}
    for raw in batches(dataset, batch_size, 0):
        for key in ("label", group_key):
            if key not in raw:
                raise DataError(f"{type(dataset).__name__} gives no {key!r}: {', '.join(sorted(raw))}")
        batch = model.data_preprocessor(to_device(raw, device_of(model.backbone)), False)[0]
        x = model.pooled(batch)
        parts = {
            "x": x.float(),
            "label": raw["label"],
            "predicted": model.classify(x).argmax(1),
            "group": raw[group_key],
        }
        known = raw["label"] >= 0
        for key, value in parts.items():
            found[key].append(value.cpu()[known])
    arrays = {key: torch.cat(parts).numpy() for key, parts in found.items()}
    if not len(arrays["label"]):
        raise DataError(f"{type(dataset).__name__} has no labelled sample")
    return arrays


def order_of(dataset: Any, wanted: Sequence[str] | None = None) -> list[str]:
    """Classes of ``dataset`` as they shall stand side by side: as ``wanted``, else by its ``order``, else as they are.

    Raises:
        DataError: ``wanted`` does not name every class once.
    """
    names, known = dataset.classes, getattr(dataset, "order", None)
    if wanted is None and known is not None:
        return [names[i] for i in known]
    return [names[i] for i in geometry.class_order(names, wanted)]


def class_figures(seen: dict[str, np.ndarray], names: Sequence[str], k: int = 5) -> dict[str, Any]:
    """Figures of ``look_at_classes`` as plain data.

    Returns:
        ``macro_f1`` and ``accuracy`` (value, low, high over speakers), ``groups``, ``f1`` by class (None where a class
        neither occurs nor is predicted), ``knn_across_groups`` and of how many samples it ``can_be_right``,
        ``silhouette``, both None where a single group or class is there, ``confusion`` and ``centroid_cosines`` (C, C).
    """
    x, label, predicted, group = (seen[key] for key in ("x", "label", "predicted", "group"))
    counts = geometry.confusion_counts(label, predicted, len(names))
    sure = geometry.bootstrap_over_groups(label, predicted, group, len(names))
    f1 = geometry.class_f1(counts)
    near = geometry.cross_group_knn(x, label, group, k) if sure.groups > 1 else (None, None)
    several = 1 < len(np.unique(label)) < len(label)
    return {
        "macro_f1": sure.macro_f1,
        "accuracy": sure.accuracy,
        "groups": sure.groups,
        "samples": len(label),
        "f1": {name: None if np.isnan(value) else float(value) for name, value in zip(names, f1, strict=True)},
        "knn_across_groups": near[0],
        "can_be_right": near[1],
        "silhouette": geometry.silhouette(x, label) if several else None,
        "confusion": counts.tolist(),
        "centroid_cosines": geometry.centroid_cosines(x, label, len(names)).tolist(),
    }


def class_pictures(
    seen: dict[str, np.ndarray],
    figures: dict[str, Any],
    names: Sequence[str],
    folder: Path,
    order: Sequence[str] | None = None,
    title: str = "",
) -> list[Path]:
    """Draw ``confusion.png``, ``f1.png``, ``centroids.png``, ``map_pca.png`` and ``map_tsne.png``.

    Args:
        seen: of ``look_at_classes``.
        figures: of ``class_figures``.
        names: of the classes.
        folder: of the pictures.
        order: classes as they shall stand side by side, such as from north to south.
        title: above every picture.
    """
    from perception.evaluation.embedding_maps import project, scatter_map
    from perception.evaluation.tower_pictures import class_bars, confusion_matrix, cosine_matrix

    rows = geometry.class_order(names, order)
    ordered = [names[i] for i in rows]
    counts = np.array(figures["confusion"])[np.ix_(rows, rows)]
    cosines = np.array(figures["centroid_cosines"], dtype=np.float64)[np.ix_(rows, rows)]
    f1 = [np.nan if figures["f1"][name] is None else figures["f1"][name] for name in ordered]
    mean, low, high = figures["macro_f1"]
    files = [
        confusion_matrix(counts, ordered, title, folder / "confusion.png"),
        class_bars(f1, ordered, mean, f"{title}\nmacro-F1 {mean:.3f} [{low:.3f}, {high:.3f}]", folder / "f1.png"),
        cosine_matrix(cosines, ordered, f"{title}\ncosines between class means", folder / "centroids.png"),
    ]
    for kind in ("pca", "tsne"):
        points = project(seen["x"], kind)
        files.append(scatter_map(points, seen["label"], title, folder / f"map_{kind}.png", names))
    return files
