"""Predicting a number with any backbone: a pooled feature and one linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.backbones.base import Backbone
from perception.errors import DataError, not_among
from perception.registry import BACKBONES, MODELS
from perception.tasks.base import BatchPreprocessor, PerceptionModel
from perception.transforms.preprocess import Batch, Preprocess

_LOSSES = ("mse", "mae", "huber")


@MODELS.register_module()
class Regressor(PerceptionModel):
    """Fine-tunes a backbone to predict a number, whole or with the backbone frozen.

    The head sees targets ``(t - mean) / std``, where t is the label or, with ``log``, its natural logarithm; the loss
    is taken there. Predictions are in the unit of the labels again.

    A batch carries ``label (B,)``, NaN for unlabelled samples, which are left out of the loss and the metrics.

    Args:
        backbone: config or instance of a backbone; ``init_from`` in its config starts from a pre-training run.
        feature: pooled feature of the backbone, ``None`` for its default.
        loss: ``mse``, ``mae`` or ``huber`` (quadratic up to 1, then linear).
        mean: of the targets of the training rows.
        std: their standard deviation.
        log: predict the logarithm; labels must be positive.
        dropout: dropout on the pooled feature.
        frozen: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told.
        init_std: standard deviation of the head's truncated-normal start; its bias starts at 0, the mean.

    Raises:
        DataError: a label is missing, infinite, of the wrong shape, or with ``log`` not positive.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        feature: str | None = None,
        loss: Literal["mse", "mae", "huber"] = "mse",
        mean: float = 0.0,
        std: float = 1.0,
        log: bool = False,
        dropout: float = 0.0,
        frozen: bool = False,
        init_std: float = 0.01,
    ) -> None:
        built = backbone if isinstance(backbone, Backbone) else BACKBONES.build(dict(backbone))
        super().__init__(built.preprocess)
        self.data_preprocessor = TargetCheck(built.preprocess, log)
        self.backbone = built
        self.feature = feature
        self.loss, self.mean, self.std, self.log, self.frozen = loss, float(mean), float(std), log, frozen
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(built.feature_dims(feature), 1)
        nn.init.trunc_normal_(self.head.weight, std=init_std)
        nn.init.zeros_(self.head.bias)
        for part in built.unused_parts(feature):
            part.requires_grad_(False)
        if frozen:
            self.backbone.requires_grad_(False).eval()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        if cfg["loss"] not in _LOSSES:
            yield "loss", not_among(cfg["loss"], _LOSSES)
        for key in ("std", "init_std"):
            if not cfg[key] > 0:
                yield key, "must be positive"
        if not 0 <= cfg["dropout"] < 1:
            yield "dropout", "must lie in [0, 1)"
        backbone = cfg["backbone"]
        kind = BACKBONES.get(backbone["type"]) if isinstance(backbone, dict) and "type" in backbone else None
        if cfg["feature"] is not None and kind is not None and not kind.has_feature(str(cfg["feature"])):
            yield "feature", not_among(cfg["feature"], kind.feature_choices())

    def train(self, mode: bool = True) -> Regressor:
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def scores(self, batch: Batch) -> Tensor:
        """What the head tells of a preprocessed batch: ``(B,)`` float32, standardised."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.backbone.encode(batch, self.feature)
        return self.head(self.dropout(pooled))[:, 0].float()

    def standardised(self, label: Tensor) -> Tensor:
        """Labels ``(B,)`` -> targets ``(B,)`` of the head."""
        label = label.float()
        return ((label.log() if self.log else label) - self.mean) / self.std

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Loss, or the predictions of a preprocessed batch.

        Returns:
            ``mode='loss'``: ``loss``. ``mode='predict'``: ``prediction (B,)`` in the unit of the labels, ``label (B,)``
            and ``index (B,)`` if the batch has them.
        """
        scores = self.scores(batch)
        if mode == "loss":
            return {"loss": regression_loss(scores, self.standardised(batch["label"]), self.loss)}
        told = scores * self.std + self.mean
        found = {"prediction": told.exp() if self.log else told}
        return found | {key: batch[key] for key in ("label", "index") if key in batch}

    def val_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """Predictions of a RAW batch, as the list of one that the evaluator takes."""
        return [super().val_step(data)]

    def test_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """The same as ``val_step``."""
        return [super().test_step(data)]


def regression_loss(scores: Tensor, target: Tensor, kind: str = "mse") -> Tensor:
    """Mean over the rows whose target is not NaN; 0 if there are none.

    Args:
        scores: ``(B,)`` predictions.
        target: ``(B,)``.
        kind: ``mse``, ``mae`` or ``huber``.
    """
    known = ~target.isnan()
    # Masked, not indexed: the number of labelled rows never has to travel from the device to the host.
    target = torch.where(known, target, scores.detach())
    if kind == "mse":
        total = functional.mse_loss(scores, target, reduction="sum")
    elif kind == "mae":
        total = functional.l1_loss(scores, target, reduction="sum")
    else:
        total = functional.huber_loss(scores, target, reduction="sum")
    return total / known.sum().clamp(min=1)


class TargetCheck(BatchPreprocessor):
    """Preprocesses a batch after a look at its labels, while they still lie on the host."""

    def __init__(self, preprocess: Preprocess, log: bool) -> None:
        super().__init__(preprocess)
        self.log = log

    def forward(self, data: Batch, training: bool = False) -> tuple[Batch]:  # type: ignore[override]
        """Preprocessed batch on the device, as a one-tuple."""
        if "label" in data:
            self._check(data)
        elif training:
            raise DataError(f"a regressor trains on labels, but the batch holds only {sorted(data)}")
        return super().forward(data, training)

    def _check(self, data: Batch) -> None:
        label = data["label"]
        if label.ndim != 1:
            raise DataError(f"labels have the shape {tuple(label.shape)}; one number for every sample is needed")
        wrong = label.isinf() | (label <= 0) if self.log else label.isinf()
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            sample = int(data["index"][place]) if "index" in data else place
            wanted = "positive for log=True" if self.log else "finite"
            raise DataError(f"label {float(label[place]):g} of sample {sample} must be {wanted}")
