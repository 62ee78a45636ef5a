"""Classification by several heads on one backbone, whose scores are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import nearest
from perception.registry import BACKBONES, MODELS
from perception.tasks.classifier import Classifier
from perception.transforms.preprocess import Batch


@MODELS.register_module()
class EnsembleClassifier(Classifier):
    """A linear head on each of several pooled features; the class scores are the mean of theirs.

    On the image, the table and the joint feature of a ``TableImageEncoder`` this is the ensemble of "TIP: Tabular-Image
    Pre-training for Multimodal Classification with Incomplete Data" (Du et al., 2024). The backbone computes what the
    features share only once.

    Args:
        backbone: config or instance of a backbone.
        num_classes: number of classes C.
        features: names of at least two of its pooled features.
        dropout: dropout on every pooled feature.
        label_smoothing: see ``Classifier``.
        frozen: see ``Classifier``.
        init_std: see ``Classifier``.
        class_weights: see ``Classifier``.
    """

    def __init__(
        self,
        backbone: Backbone | dict[str, Any],
        num_classes: int,
        features: Sequence[str] = ("multimodal", "image", "table"),
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        frozen: bool = False,
        init_std: float = 0.01,
        class_weights: str | Sequence[float] | None = None,
    ) -> None:
        built = backbone if isinstance(backbone, Backbone) else BACKBONES.build(dict(backbone))
        super().__init__(built, num_classes, None, None, dropout, label_smoothing, frozen, init_std, class_weights)
        del self.head, self.norm
        self.features = tuple(features)
        heads = {name: nn.Linear(built.feature_dims(name), num_classes) for name in self.features}
        for head in heads.values():
            nn.init.trunc_normal_(head.weight, std=init_std)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleDict(heads)
        unused = [{id(part): part for part in built.unused_parts(name)} for name in self.features]
        for key in set.intersection(*(set(parts) for parts in unused)):
            unused[0][key].requires_grad_(False)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        yield from super().check_config({**cfg, "feature": None, "norm": None})
        features = cfg["features"]
        if isinstance(features, str) or len(set(features)) < 2:
            yield "features", "needs the names of at least two features"
            return
        backbone = cfg["backbone"]
        kind: Any = BACKBONES.get(backbone["type"]) if isinstance(backbone, dict) and "type" in backbone else None
        for name in features if kind is not None else ():
            if not kind.has_feature(str(name)):
                choices = kind.feature_choices()
                hint = nearest(name, choices)
                told = f"{kind.__name__} gives {', '.join(choices)}, not {name!r}"
                yield "features", told + (f"; meant {hint[0]}?" if hint else "")

    def logits(self, batch: Batch) -> Tensor:
        """Mean over the heads of their class scores of a preprocessed batch: ``(B, C)``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.backbone.encode_features(batch, self.features)
        return torch.stack([self.heads[name](self.dropout(pooled[name])) for name in self.features]).mean(0)
