"""What pretexts on views share: each view is encoded once a step, however many of them look at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import DataError
from perception.transforms.preprocess import Batch

Which = Literal["image", "globals", "all"]
T = TypeVar("T")
_MEMO = "encoded_views"


def with_memo(batch: Batch) -> Batch:
    """A shallow copy of ``batch`` in which ``encode_views`` remembers what it has encoded: one for every forward pass.

    Batches without a memory are encoded anew by every call, so that nobody is handed the features of older weights.
    """
    return {**batch, _MEMO: {}}


def once(batch: Batch, key: Hashable, compute: Callable[[], T]) -> T:
    """What ``compute`` gives, from the memory of a batch of ``with_memo`` if it was asked for under ``key`` before.

    What was computed without gradients is of no use with them, and is computed anew.
    """
    memo: dict[Any, Any] | None = batch.get(_MEMO)
    if memo is None:
        return compute()
    place = (key, torch.is_grad_enabled())
    if place not in memo:
        memo[place] = compute()
    return memo[place]


def encode_views(backbone: Backbone, batch: Batch, feature: str | None = None, which: Which = "image") -> Tensor:
    """Pooled features of views: (V, B, D).

    Views of equal size go through the backbone in one batch. In a batch of ``with_memo`` a view that was encoded before
    is not encoded again; features that the backbone derives from another one (``derived_features``) come from that.

    Args:
        backbone: the encoder.
        batch: preprocessed batch with ``image`` (B, C, H, W) or ``views``, a list of such, global ones first. Views of
            padded waveforms (B, S) have their lengths in ``view_lengths``, a list of (B,).
        feature: one of the backbone's pooled features.
        which: ``image``: the image, or the first view where there are views (V = 1); ``globals``: the global views;
            ``all``: every view.
    """
    feature = feature or backbone.feature_choices()[0]
    source = backbone.derived_features.get(feature)
    if source is not None:
        encoded = encode_views(backbone, batch, source, which)
        return backbone.derive(feature, encoded.flatten(0, 1)).unflatten(0, encoded.shape[:2])
    views, lengths = views_of(batch, which, backbone.modality), batch.get("view_lengths")
    if batch.get("views") is None:
        whole = batch.get(f"{backbone.modality}_length")
        lengths = None if whole is None else [whole]
    memo: dict[Any, Tensor] = batch.get(_MEMO, {})
    # What was encoded without gradients is of no use with them.
    keys = [(id(backbone), feature, i, torch.is_grad_enabled()) for i in range(len(views))]
    todo: dict[tuple[int, ...], list[int]] = {}
    for i, (key, view) in enumerate(zip(keys, views, strict=True)):
        if key not in memo:
            todo.setdefault(tuple(view.shape), []).append(i)
    for places in todo.values():
        known = None if lengths is None else [lengths[i] for i in places]
        parts = encode_together(backbone, [views[i] for i in places], feature, known)
        memo.update((keys[i], part) for i, part in zip(places, parts, strict=True))
    found = [memo[key] for key in keys]
    return torch.stack(found)


def encode_together(
    backbone: Backbone, views: Sequence[Tensor], feature: str | None = None, lengths: Sequence[Tensor] | None = None
) -> Tensor:
    """Views of one shape (B, C, H, W), or (B, S) with ``lengths`` (B,), through ``backbone`` at once: (V, B, D)."""
    part: Batch = {backbone.modality: views[0] if len(views) == 1 else torch.cat(list(views))}
    if lengths is not None:
        part[f"{backbone.modality}_length"] = torch.cat(list(lengths))
    return backbone.encode(part, feature).unflatten(0, (len(views), -1))


def views_of(batch: Batch, which: Which = "all", modality: str = "image") -> list[Tensor]:
    """The preprocessed views that ``which`` means; see ``encode_views``.

    Raises:
        DataError: several views are asked for, and the batch has none.
    """
    views = batch.get("views")
    if views is None:
        if which != "image":
            raise DataError(
                "the batch has no 'views': add MultiCrop, or SpeechViews for audio, to the transforms of the training "
                "set, and let the backbone's Preprocess record be one of images or of speech"
            )
        return [batch[modality]]
    return list(views[: {"image": 1, "globals": global_count(batch), "all": len(views)}[which]])


def global_count(batch: Batch) -> int:
    """Number of global views: those of ``global_views`` where the batch tells it, else all as large as the first."""
    views = batch["views"]
    told = batch.get("global_views")
    return int(told) if told is not None else sum(view.shape == views[0].shape for view in views)
