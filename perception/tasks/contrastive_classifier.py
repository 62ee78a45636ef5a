"""Classification with a contrastive term beside the cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.layers.contrast_head import ContrastHead, contrast_faults
from perception.registry import MODELS
from perception.tasks.classifier import Classifier, classification_loss, labelled_rows, predictions
from perception.transforms.preprocess import Batch

HEAD = ("loss", "options", "hidden_dim", "projection_dim", "anchors", "group_key", "across_groups", "fairkl", "gather")


@MODELS.register_module()
class ContrastiveClassifier(Classifier):
    """A ``Classifier`` that minimises ``CE(W h, y) + weight * L(g(h), y)``, with g a projection and L a contrast.

    The joint regime of "Speech Analysis of Language Varieties in Italy" (La Quatra et al., 2024), for any modality.
    Both terms read the same pooled feature h of one pass; the contrast reaches the backbone and g, never W. With weight
    0 training is that of the ``Classifier`` to the last bit: g draws its start from a copy of the random state.

    Args:
        backbone: see ``Classifier``.
        num_classes: see ``Classifier``.
        weight: of the contrastive term.
        loss: see ``SupervisedContrast``, as the arguments up to ``gather``.
        options: arguments of the loss.
        hidden_dim: width of the projection's hidden layer; None takes that of the feature.
        projection_dim: width in which embeddings are compared.
        anchors: see ``SupervisedContrast``.
        group_key: key of the batch with a bias, such as ``speaker``.
        across_groups: positives are of another group than the anchor.
        fairkl: weight of FairKL beside the loss, inside ``weight``.
        gather: compare with the embeddings of all ranks.
        feature: see ``Classifier``, as the arguments below.
        norm: on the pooled feature before W.
        dropout: likewise.
        label_smoothing: of the cross-entropy.
        init_std: of W.
        class_weights: of the cross-entropy.

    ``mode='loss'`` gives ``ce_loss``, ``contrast_loss`` and ``fairkl_loss`` as they are added up,
    ``accuracy`` and ``class_gap``.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        num_classes: int,
        weight: float = 0.5,
        loss: str = "supcon",
        options: Mapping[str, Any] | None = None,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        anchors: str = "all",
        group_key: str | None = None,
        across_groups: bool = False,
        fairkl: float = 0.0,
        gather: bool = True,
        feature: str | None = None,
        norm: str | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        init_std: float = 0.01,
        class_weights: str | Sequence[float] | None = None,
    ) -> None:
        given = dict(locals())
        super().__init__(backbone, num_classes, feature, norm, dropout, label_smoothing, False, init_std, class_weights)
        self.weight = weight
        width = self.backbone.feature_dims(feature)
        with torch.random.fork_rng(devices=()):
            self.contrast = ContrastHead(width, **{key: given[key] for key in HEAD})

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        yield from super().check_config(cfg)
        if not cfg["weight"] >= 0:
            yield "weight", "must not be negative"
        yield from contrast_faults(cfg)

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Losses and training accuracy, or the predictions, of a preprocessed batch; see ``Classifier.forward``."""
        pooled = self.pooled(batch)
        logits = self.classify(pooled)
        if mode != "loss":
            return predictions(logits, batch)
        label = labelled_rows(batch, "label")
        found = classification_loss(logits, label, self.label_smoothing, self.class_weights())
        found["ce_loss"] = found.pop("loss")
        apart = self.contrast(pooled[None], label, batch)
        found["contrast_loss"] = self.weight * apart["loss"]
        if "fairkl_loss" in apart:
            found["fairkl_loss"] = self.weight * apart["fairkl_loss"]
        return {**found, "class_gap": apart["class_gap"]}
