"""Zero-shot classification: a classifier made of texts. Pure functions of embeddings.

"Learning Transferable Visual Models From Natural Language Supervision", Radford et al., 2021. Three ways of putting
the T texts of a class together are in use:

* ``normalised`` (open_clip, CLIP_benchmark, SkyScript; our default): normalise every text, average, normalise.
* ``raw`` (GeoRSCLIP): average the texts as they are, then normalise: long vectors weigh more.
* ``softmax`` (VT-RSBS): softmax of the cosines over all classes and texts, summed over the texts of a class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.evaluation.prompts import AVERAGES


def class_vectors(texts: Tensor, average: str = "normalised") -> Tensor:
    """One vector of length 1 for each class.

    Args:
        texts: ``(C, T, E)`` embeddings of the texts of every class, not normalised.
        average: ``normalised`` or ``raw``.

    Returns:
        ``(C, E)``.
    """
    if average not in ("normalised", "raw"):
        raise ValueError(f"class vectors are averaged 'normalised' or 'raw', not {average!r}")
    return normalize((normalize(texts, dim=2) if average == "normalised" else texts).mean(1), dim=1)


def class_scores(images: Tensor, texts: Tensor, average: str = "normalised", chunk: int = 8192) -> Tensor:
    """Scores of images for classes, without a scale, which would change no rank.

    Args:
        images: ``(N, E)`` embeddings, normalised or not.
        texts: ``(C, T, E)`` embeddings of the texts of every class, not normalised.
        average: one of ``AVERAGES``.
        chunk: images at a time.

    Returns:
        ``(N, C)``.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}")
    classes, templates, width = texts.shape
    if average == "softmax":
        columns = normalize(texts, dim=2).reshape(classes * templates, width)
        parts = [(normalize(part, dim=1) @ columns.T).softmax(1) for part in images.split(chunk)]
        return torch.cat([part.reshape(-1, classes, templates).sum(2) for part in parts])
    vectors = class_vectors(texts, average)
    return torch.cat([normalize(part, dim=1) @ vectors.T for part in images.split(chunk)])


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one, ``(N,)`` int64; of equal scores the lower class comes first.

    So rank 0 is ``argmax``, and a classifier that scores all classes alike is right for class 0 only.
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def top_k(ranks: Tensor, k: int) -> float:
    """Share of ranks below k."""
    return float((ranks < k).double().mean())


def per_class(ranks: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy of every class that has images."""
    right = (ranks == 0).double()
    return {name: float(right[labels == i].mean()) for i, name in enumerate(classes) if bool((labels == i).any())}


def confusion(scores: Tensor, labels: Tensor) -> Tensor:
    """Counts ``(C, C)`` int64: rows are true classes, columns predicted ones."""
    classes = scores.shape[1]
    best = scores == scores.max(1, keepdim=True).values
    predicted = best.int().argmax(1)
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
