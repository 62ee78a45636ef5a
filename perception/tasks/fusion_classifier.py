"""Classification by late fusion: a backbone, a text encoder, stored features, together or alone.

"Multi-Modal Self-Supervised Learning for Surgical Feedback Effectiveness Assessment" (2024): a trainer's words and the
video around them tell whether the trainee changed what they did. Modalities are trained one by one first, the fusion
then on their stored features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, Fault, check_arguments, nearest, not_among
from perception.layers.late_fusion import LateFusionHead, head_faults
from perception.registry import BACKBONES, MODELS
from perception.tasks.base import PerceptionModel
from perception.tasks.class_weights import ClassWeights, weight_faults
from perception.tasks.classifier import NORMS, LabelCheck, classification_loss, feature_norm, predictions
from perception.text.text_encoder import TextEncoder, build_text_encoder
from perception.transforms.preprocess import Batch, Preprocess

TEXT = "text"


@dataclass(frozen=True)
class _AsIs(Preprocess):
    """For models without a backbone: stored features and texts are not normalised."""

    modality: ClassVar[str] = "features"

    def __call__(self, batch: Batch) -> Batch:
        return dict(batch)


@MODELS.register_module()
class FusionClassifier(PerceptionModel):
    """Class scores from any number of branches through a ``LateFusionHead``.

    Where a branch gets its features is settled by its name: those in ``stored`` read ``<name>_features (B, D)`` of the
    batch; ``text`` is what the text encoder makes of the batch's ``text``, a list of B texts; the branch with the name
    of the backbone's modality, such as ``video``, is the backbone's. A single branch is a special case of the same:
    ``branches=dict(video=[512, 256]), joint=[]``. A batch may say ``<name>_missing (B,)`` bool of samples that lack a
    branch.

    The staged training of the paper: fine-tune the video branch alone, write its features with ``perception embed``,
    then train the fusion with ``stored=dict(video=768)`` and a ``VideoTable`` that names the file.

    Args:
        backbone: config or instance of a backbone; ``init_from`` in its config starts from a pre-training run. ``None``
            where all branches are texts or stored features.
        branches: hidden widths of every branch by name.
        joint: hidden widths after the branches are joined.
        num_classes: number of classes C.
        text_encoder: config of a text encoder, an instance, or any function of a list of texts.
        stored: widths of the branches whose features the data set holds.
        feature: pooled feature of the backbone, ``None`` for its default.
        freeze_encoder: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told: a probe, as
            in the paper's code. False tunes it, as its text says.
        norm: ``'layer'``, ``'batch'`` (without affine) or ``None`` (the paper), on the features of every branch.
        dropout: in the head, after every ReLU.
        branch_dropout: see ``LateFusionHead``.
        null_vectors: see ``LateFusionHead``.
        label_smoothing: mass moved from the label to the uniform distribution.
        class_weights: see ``Classifier``.

    Raises:
        ConfigError: a branch that nothing gives features for, or a source that no branch reads.
        DataError: a batch lacks what a branch reads, or a label is missing or out of range.
    """

    backbone: Any

    def __init__(
        self,
        backbone: Backbone | dict[str, Any] | None = None,
        branches: Mapping[str, Sequence[int]] = {"video": (256, 128), "text": (128, 64)},
        joint: Sequence[int] = (256, 128),
        num_classes: int = 2,
        text_encoder: TextEncoder | dict[str, Any] | Callable[[list[str]], Any] | None = None,
        stored: Mapping[str, int] | None = None,
        feature: str | None = None,
        freeze_encoder: bool = True,
        norm: str | None = None,
        dropout: float = 0.0,
        branch_dropout: float | Mapping[str, float] = 0.0,
        null_vectors: bool = False,
        label_smoothing: float = 0.0,
        class_weights: str | Sequence[float] | None = None,
    ) -> None:
        check_arguments("model", self.check_config, locals())
        built = BACKBONES.build(dict(backbone)) if isinstance(backbone, Mapping) else backbone
        record = _AsIs() if built is None else built.preprocess
        super().__init__(record)
        self.data_preprocessor = LabelCheck(record, num_classes)
        self.backbone = built
        self.text_encoder = None if text_encoder is None else build_text_encoder(text_encoder)
        self.stored = dict(stored or {})
        self.feature, self.freeze_encoder, self.label_smoothing = feature, freeze_encoder, label_smoothing
        self.class_weights = ClassWeights(class_weights, num_classes)
        widths = {name: self._width(name) for name in branches}
        self._check_read(widths)
        norms = {name: feature_norm(norm, width) for name, width in sorted(widths.items()) if norm}
        self.norms = nn.ModuleDict(norms)
        self.head = LateFusionHead(widths, branches, joint, num_classes, dropout, branch_dropout, null_vectors)
        if built is not None:
            for part in built.unused_parts(feature):
                part.requires_grad_(False)
            if freeze_encoder:
                built.requires_grad_(False).eval()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        yield from head_faults(cfg["branches"], cfg["joint"], cfg["dropout"], cfg["branch_dropout"])
        if not isinstance(cfg["num_classes"], int) or cfg["num_classes"] < 2:
            yield "num_classes", "needs a whole number of at least 2"
        yield from weight_faults(cfg)
        if not 0 <= cfg["label_smoothing"] < 1:
            yield "label_smoothing", "must lie in [0, 1)"
        if cfg["norm"] is not None and cfg["norm"] not in NORMS:
            yield "norm", not_among(cfg["norm"], NORMS)
        for name, width in (cfg["stored"] or {}).items():
            if name not in cfg["branches"]:
                yield "stored", f"{name!r} is {not_among(name, cfg['branches'])}"
            elif not isinstance(width, int) or width < 1:
                yield "stored", f"{name!r} needs the width of its features, a whole number of at least 1"
        backbone = cfg["backbone"]
        kind: Any = BACKBONES.get(backbone["type"]) if isinstance(backbone, dict) and "type" in backbone else None
        if cfg["feature"] is not None and kind is not None and not kind.has_feature(str(cfg["feature"])):
            choices = kind.feature_choices()
            hint = nearest(cfg["feature"], choices)
            yield "feature", f"{kind.__name__} gives {', '.join(choices)}" + (f"; meant {hint[0]}?" if hint else "")
        given = {*(cfg["stored"] or {}), *([TEXT] if cfg["text_encoder"] is not None else [])}
        own = getattr(kind if kind is not None else backbone, "modality", None)
        if backbone is None or own is not None:
            given |= {own} if own else set()
            for name in cfg["branches"]:
                if name not in given:
                    has = ", ".join(sorted(given)) or "nothing"
                    yield "branches", f"nothing gives features for {name!r}: there are features of {has}"

    def train(self, mode: bool = True) -> FusionClassifier:
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.backbone is not None and self.freeze_encoder:
            self.backbone.eval()
        return self

    def fit_to(self, dataset: Any) -> None:
        """Fit the text encoder to the training texts, once; a fitted one, as of a checkpoint, stays as it is.

        Balanced class weights are counted every time; see ``ClassWeights``.

        Raises:
            DataError: the data set has no texts.
        """
        self.class_weights.fit_to(dataset)
        if self.text_encoder is None or TEXT in self.stored or self.text_encoder.fitted:
            return
        texts = getattr(dataset, "texts", None)
        if texts is None:
            raise DataError(
                f"the text encoder is fitted to training texts, but {type(dataset).__name__} has no 'texts'"
            )
        self.text_encoder.fit([text for text in texts if text])

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Features (B, D) by name of branch of a preprocessed batch; branches that it lacks are left out."""
        found: dict[str, Tensor] = {}
        for name in self.head.names:
            value = self._features(name, batch)
            if value is not None:
                found[name] = self.norms[name](value) if name in self.norms else value
        return found

    def logits(self, batch: Batch) -> Tensor:
        """Class scores (B, C) of a preprocessed batch."""
        missing = {n: batch[f"{n}_missing"] for n in self.head.names if batch.get(f"{n}_missing") is not None}
        return self.head(self.features(batch), missing)

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """As ``Classifier.forward``."""
        logits = self.logits(batch)
        if mode == "loss":
            return classification_loss(logits, batch["label"], self.label_smoothing, self.class_weights())
        return predictions(logits, batch)

    def val_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """Predictions of a RAW batch, as the list of one that the evaluator takes."""
        return [super().val_step(data)]

    def test_step(self, data: Batch) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """The same as ``val_step``."""
        return [super().test_step(data)]

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        widths = {name: [self._width(name)] for name in self.head.names}
        return {f"branch {name}": " -> ".join(map(str, [*w, self.head.out_dims[name]])) for name, w in widths.items()}

    def _width(self, name: str) -> int:
        if name in self.stored:
            return self.stored[name]
        if name == TEXT and self.text_encoder is not None:
            return self.text_encoder.embed_dims
        if self.backbone is not None and name == self.backbone.modality:
            return int(self.backbone.feature_dims(self.feature))
        raise ConfigError([Fault("model.branches", name, "nothing gives features for this branch")])

    def _check_read(self, widths: Mapping[str, int]) -> None:
        """Every source has its branch: one that nothing reads is a mistake, and slows training down."""
        sources = {"backbone": self.backbone and self.backbone.modality, "text_encoder": self.text_encoder and TEXT}
        for key, name in sources.items():
            if name and (name not in widths or name in self.stored):
                why = "is stored" if name in self.stored else f"is none of {', '.join(widths)}"
                raise ConfigError([Fault(f"model.{key}", name, f"no branch reads it: {name!r} {why}")])

    def _features(self, name: str, batch: Batch) -> Tensor | None:
        if name in self.stored:
            value = batch.get(f"{name}_features")
            if value is not None and tuple(value.shape[1:]) != (self.stored[name],):
                raise DataError(
                    f"{name}_features are {tuple(value.shape)}, but model.stored says {self.stored[name]} for {name!r}"
                )
            return None if value is None else value.float()
        if name == TEXT:
            texts = batch.get(TEXT)
            if texts is None:
                return None
            if isinstance(texts, (str, Tensor)):
                raise DataError(f"raw texts must be a list of str, not {type(texts).__name__}")
            assert self.text_encoder is not None
            return self.text_encoder(texts)
        if batch.get(name) is None:
            return None
        if not self.freeze_encoder:
            return self.backbone.encode(batch, self.feature)
        with torch.no_grad():
            return self.backbone.encode(batch, self.feature).float()
