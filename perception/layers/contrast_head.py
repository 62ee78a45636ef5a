"""A projection of features and a supervised contrastive loss on it: what a pretext and a classifier share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import DataError, not_among
from perception.layers.projection import projection_head
from perception.losses.supervised_contrast import ANCHORS, FORMS, LOSSES, WITHOUT_POSITIVES, contrast_pairs, fairkl_loss


class ContrastHead(nn.Module):
    """Linear, ReLU, Linear, length 1, and a loss of ``perception.losses.supervised_contrast``.

    Args:
        width: of the features.
        loss: name of the loss, a key of ``LOSSES``.
        options: arguments of the loss by name, such as ``dict(temperature=0.1)``.
        hidden_dim: width of the layer between; None takes that of the features.
        projection_dim: width in which embeddings are compared.
        anchors: ``all`` views, or the first ``one``.
        group_key: key of the batch with the bias of each sample, such as ``speaker``; FairKL and mining need it.
        across_groups: positives are of another group than the anchor.
        fairkl: weight of FairKL beside the loss.
        gather: compare with the embeddings of all ranks.
    """

    def __init__(
        self,
        width: int,
        loss: str = "supcon",
        options: Mapping[str, Any] | None = None,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        anchors: str = "all",
        group_key: str | None = None,
        across_groups: bool = False,
        fairkl: float = 0.0,
        gather: bool = True,
    ) -> None:
        super().__init__()
        self.projection = projection_head(width, hidden_dim or width, projection_dim, norm=False)
        self.loss, self.options = LOSSES[loss], dict(options or {})
        self.anchors = anchors
        self.group_key, self.across_groups = group_key, across_groups
        self.fairkl = fairkl
        self.gather = gather

    def forward(self, features: Tensor, labels: Tensor | None, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``loss``, with FairKL beside it ``fairkl_loss``, and for the log ``class_gap``.

        That is the mean cosine of positives less that of negatives, 0 where there are none: what the loss widens.

        Args:
            features: (V, B, D).
            labels: (B,) int64, below 0 where unlabelled; None contrasts the views of samples.
            batch: where the groups are.

        Raises:
            DataError: no groups under ``group_key``; neither labels nor views.
        """
        if labels is None and len(features) < 2:
            raise DataError(f"{type(self).__name__}: a batch without 'label' needs two views or more of every sample")
        if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
            raise DataError(
                f"supervised contrast needs one class number a sample; 'label' is {labels.dtype} of the shape "
                f"{tuple(labels.shape)} (mixed labels have no classes: leave Mix out)"
            )
        embeddings = self.projection(features.flatten(0, 1)).unflatten(0, features.shape[:2]).transpose(0, 1)
        groups = None
        if self.group_key is not None:
            if self.group_key not in batch:
                near = not_among(self.group_key, sorted(batch))
                raise DataError(f"group_key = {self.group_key!r}: in the batch it is {near}")
            groups = batch[self.group_key]
            groups = groups[batch["mask"]] if "mask" in batch else groups
        pairs = contrast_pairs(embeddings, labels, None, groups, self.anchors, self.across_groups, gather=self.gather)
        found = {"loss": self.loss(pairs, **self.options)}
        if self.fairkl:
            found["fairkl_loss"] = self.fairkl * fairkl_loss(pairs)
        with torch.no_grad():
            positive, negative = (
                pairs.cosines.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp_min(1)
                for chosen in (pairs.positive, pairs.negative)
            )
        return {**found, "class_gap": positive - negative}


def contrast_faults(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults of the arguments of a ``ContrastHead`` (with defaults filled in), all but ``width``."""
    for key in ("hidden_dim", "projection_dim"):
        empty = key == "hidden_dim" and cfg[key] is None
        if not empty and (not isinstance(cfg[key], int) or cfg[key] < 1):
            yield key, "must be a whole number of at least 1"
    if cfg["anchors"] not in ANCHORS:
        yield "anchors", not_among(cfg["anchors"], ANCHORS)
    if cfg["group_key"] is None and (cfg["across_groups"] or cfg["fairkl"] or cfg["loss"] == "fairkl"):
        yield (
            "group_key",
            "FairKL and positives across groups need the key of the groups in the batch, such as 'speaker'",
        )
    if not cfg["fairkl"] >= 0:
        yield "fairkl", "must not be negative"
    if cfg["loss"] not in LOSSES:
        yield "loss", not_among(cfg["loss"], LOSSES)
        return
    options = cfg["options"] or {}
    known = [name for name in inspect.signature(LOSSES[cfg["loss"]]).parameters if name != "pairs"]
    for name, value in options.items():
        if name not in known:
            yield f"options.{name}", f"{cfg['loss']}: {not_among(name, known)}"
        elif name in ("temperature", "base_temperature", "alpha", "beta") and value is not None and not value > 0:
            yield f"options.{name}", "must be positive"
    for name, choices in (("form", FORMS), ("without_positives", WITHOUT_POSITIVES)):
        if name in options and options[name] not in choices:
            yield f"options.{name}", not_among(options[name], choices)
