"""Classification with any backbone: a pooled feature, an optional norm and one linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.backbones.base import Backbone
from perception.errors import DataError, nearest
from perception.registry import BACKBONES, MODELS
from perception.tasks.base import BatchPreprocessor, PerceptionModel
from perception.tasks.class_weights import ClassWeights, weight_faults
from perception.transforms.preprocess import Batch, Preprocess

IGNORED = -100
NORMS = ("layer", "batch")


@MODELS.register_module()
class Classifier(PerceptionModel):
    """Fine-tunes a backbone into a classifier, whole or with the backbone frozen.

    The head is ``norm -> dropout -> Linear``. The fine-tuning head of "Masked Autoencoders Are Scalable Vision
    Learners" (2022) is ``feature='norm-gap', init_std=2e-5``; its linear probe is ``feature='cls', norm='batch',
    frozen=True``.

    A batch carries ``label``: ``(B,)`` int64 with values below 0 for unlabelled samples, which are left out of the loss
    and the metrics, or ``(B, num_classes)`` float soft labels (mixup). A node-level graph carries ``label (N,)`` and
    ``mask (N,)`` bool, the nodes of the split.

    Where classes are rare, ``class_weights`` changes the loss; ``BalancedSampler`` draws their samples more often
    instead. Both together would count them twice.

    Of a dual encoder the image tower alone is trained; the text tower stays in the checkpoint as it came.

    Args:
        backbone: config or instance of a backbone; ``init_from`` in its config starts from a pre-training run.
        num_classes: number of classes C.
        feature: pooled feature of the backbone, ``None`` for its default.
        norm: ``'layer'``, ``'batch'`` (without affine, eps 1e-6) or ``None``, on the pooled feature.
        dropout: dropout on the pooled feature.
        label_smoothing: mass moved from the label to the uniform distribution.
        frozen: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told.
        init_std: standard deviation of the head's truncated-normal start; its bias starts at 0.
        class_weights: weights of the labels in the training loss, which is their weighted mean over the batch: C
            positive numbers in label order, ``'balanced'`` for ``n / (C n_c)`` with n_c of the n labelled training
            samples in class c, or ``None``. Metrics are not weighted.

    Raises:
        ConfigError: class weights that are no positive numbers, or not as many as classes.
        DataError: a label is missing, out of range or of the wrong shape; soft labels meet class weights; balanced
            weights of a training set that does not tell its labels or lacks a class.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        num_classes: int,
        feature: str | None = None,
        norm: str | None = None,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        frozen: bool = False,
        init_std: float = 0.01,
        class_weights: str | Sequence[float] | None = None,
    ) -> None:
        built = backbone if isinstance(backbone, Backbone) else BACKBONES.build(dict(backbone))
        super().__init__(built.preprocess)
        self.data_preprocessor = LabelCheck(built.preprocess, num_classes)
        self.backbone = built
        self.num_classes = num_classes
        self.feature = feature
        self.label_smoothing = label_smoothing
        self.class_weights = ClassWeights(class_weights, num_classes)
        self.frozen = frozen
        width = built.feature_dims(feature)
        self.norm = feature_norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=init_std)
        nn.init.zeros_(self.head.bias)
        # They stay as they are, and several ranks need not wait for their gradients.
        for part in built.unused_parts(feature):
            part.requires_grad_(False)
        if frozen:
            self.backbone.requires_grad_(False).eval()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        if not isinstance(cfg["num_classes"], int) or cfg["num_classes"] < 2:
            yield "num_classes", "needs a whole number of at least 2"
        yield from weight_faults(cfg)
        for key in ("dropout", "label_smoothing"):
            if not 0 <= cfg[key] < 1:
                yield key, "must lie in [0, 1)"
        if cfg["init_std"] <= 0:
            yield "init_std", "must be positive"
        if cfg["norm"] is not None and cfg["norm"] not in NORMS:
            yield "norm", f"is none of {', '.join(map(repr, NORMS))} and None"
        backbone = cfg["backbone"]
        kind = BACKBONES.get(backbone["type"]) if isinstance(backbone, dict) and "type" in backbone else None
        if cfg["feature"] is not None and kind is not None and not kind.has_feature(str(cfg["feature"])):
            choices = kind.feature_choices()
            hint = nearest(cfg["feature"], choices)
            yield "feature", f"{kind.__name__} gives {', '.join(choices)}" + (f"; meant {hint[0]}?" if hint else "")

    def fit_to(self, dataset: Any) -> None:
        """Balanced class weights of a training set; see ``ClassWeights``."""
        self.class_weights.fit_to(dataset)

    def train(self, mode: bool = True) -> Classifier:
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def logits(self, batch: Batch) -> Tensor:
        """Class scores of a preprocessed batch: ``(B, C)``, or ``(M, C)`` for the M nodes of ``mask``."""
        return self.classify(self.pooled(batch))

    def pooled(self, batch: Batch) -> Tensor:
        """Pooled feature of a preprocessed batch: ``(B, D)``, or ``(M, D)`` for the M nodes of ``mask``."""
        if self.frozen:
            with torch.no_grad():
                pooled = self.backbone.encode(batch, self.feature)
        else:
            pooled = self.backbone.encode(batch, self.feature)
        return pooled[batch["mask"]] if "mask" in batch else pooled

    def classify(self, pooled: Tensor) -> Tensor:
        """Class scores of pooled features."""
        return self.head(self.dropout(self.norm(pooled)))

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Loss and training accuracy, or the predictions of a preprocessed batch.

        Returns:
            ``mode='loss'``: ``loss`` and, for hard labels, ``accuracy``. ``mode='predict'``: ``logits (B, C)``,
            ``label (B,)`` if the batch has it, ``index (B,)``, the position of each sample (or node), for clips
            ``group (B,)``, the video that each is cut from, and ``cluster (B,)``, such as the camera, if it is known.
        """
        logits = self.logits(batch)
        if mode == "loss":
            return classification_loss(
                logits, labelled_rows(batch, "label"), self.label_smoothing, self.class_weights()
            )
        return predictions(logits, batch)

    def val_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """Predictions of a RAW batch, as the list of one that the evaluator takes."""
        return [super().val_step(data)]

    def test_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """The same as ``val_step``."""
        return [super().test_step(data)]


def classification_loss(
    logits: Tensor, label: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Cross-entropy in float32, averaged over the labelled rows.

    With class weights w it is ``torch.nn.functional.cross_entropy(weight=w)``: the sum of the weighted losses by the
    sum of ``w[label]``.

    Args:
        logits: ``(B, C)``.
        label: ``(B,)`` int64, below 0 where unlabelled, or ``(B, C)`` float probabilities.
        smoothing: label smoothing.
        weights: (C,) positive weights of classes, for hard labels only.

    Returns:
        ``loss`` and, for hard labels, ``accuracy`` in [0, 1]. Both are 0 if no row is labelled.

    Raises:
        DataError: soft labels with weights.
    """
    logits = logits.float()
    if label.is_floating_point():
        if weights is not None:
            # By which weights would a mixture be averaged? torch takes none of them, and then the two do not compare.
            raise DataError(
                "class_weights needs hard labels, but the batch has soft ones: leave out mixup, or draw rare classes "
                "more often with BalancedSampler"
            )
        return {"loss": functional.cross_entropy(logits, label.float(), label_smoothing=smoothing)}
    # Masked, not indexed: the number of labelled rows never has to travel from the device to the host.
    known = label >= 0
    count = known.sum().clamp(min=1)
    target = label.masked_fill(~known, IGNORED)
    options: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": smoothing, "reduction": "sum"}
    right = (logits.detach().argmax(1) == target).sum()
    if weights is None:
        total, by = functional.cross_entropy(logits, target, **options), count
    else:
        weights = weights.float()
        total = functional.cross_entropy(logits, target, weight=weights, **options)
        by = (weights[label.clamp(min=0)] * known).sum().clamp(min=weights.min())  # 0 only if no row is labelled
    return {"loss": total / by, "accuracy": right / count}


def predictions(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What the metrics take, from scores ``(B, C)`` of a batch; see ``Classifier.forward``."""
    found = {"logits": logits.float()}
    if "label" in batch:
        found["label"] = labelled_rows(batch, "label")
    if "mask" in batch:
        found["index"] = batch["mask"].nonzero().flatten()
    for ours, theirs in (("index", "index"), ("group", "video_index"), ("cluster", "cluster")):
        if theirs in batch and ours not in found:
            found[ours] = batch[theirs]
    return found


class LabelCheck(BatchPreprocessor):
    """Preprocesses a batch after a look at its labels, while they still lie on the host."""

    def __init__(self, preprocess: Preprocess, num_classes: int) -> None:
        super().__init__(preprocess)
        self.num_classes = num_classes

    def forward(self, data: Batch, training: bool = False) -> tuple[Batch]:  # type: ignore[override]
        """Preprocessed batch on the device, as a one-tuple."""
        if "label" in data:
            check_labels(data, self.num_classes)
        elif training:
            raise DataError(f"a classifier trains on labels, but the batch holds only {sorted(data)}")
        return super().forward(data, training)


def check_labels(batch: Batch, num_classes: int) -> None:
    """Raise a ``DataError`` that names the first sample whose label no head of ``num_classes`` outputs can learn."""
    label = batch["label"]
    if label.is_floating_point():
        if label.ndim != 2 or label.shape[1] != num_classes:
            raise DataError(f"soft labels have the shape {tuple(label.shape)}, the head gives {num_classes} classes")
        return
    if label.ndim != 1:
        raise DataError(f"labels have the shape {tuple(label.shape)}; one number for every sample is needed")
    wrong = label >= num_classes
    if "mask" in batch:
        wrong = wrong & batch["mask"]
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        name = (
            f"node {place}"
            if "mask" in batch
            else f"sample {int(batch['index'][place]) if 'index' in batch else place}"
        )
        raise DataError(
            f"label {int(label[place])} of {name} is out of range: model.num_classes = {num_classes} allows "
            f"0..{num_classes - 1} (below 0 = unlabelled); {int(wrong.sum())} of {len(label)} labels in this batch are"
        )


def labelled_rows(batch: Batch, key: str) -> Tensor:
    """``batch[key]``, of nodes those of ``mask``."""
    return batch[key][batch["mask"]] if "mask" in batch else batch[key]


def feature_norm(name: str | None, width: int) -> nn.Module:
    """Norm of pooled features by its name in ``NORMS``; nothing for None."""
    if name == "layer":
        return nn.LayerNorm(width, eps=1e-6)
    if name == "batch":
        return nn.BatchNorm1d(width, affine=False, eps=1e-6)
    return nn.Identity()
