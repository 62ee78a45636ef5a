"""What the tasks on a bird's-eye-view map share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from perception.backbones.bev_base import BEVBackbone
from perception.registry import BACKBONES
from perception.tasks.base import PerceptionModel
from perception.transforms.preprocess import Batch


class BEVTask(PerceptionModel):
    """Base of the tasks on a bird's-eye-view map: a backbone, whole or frozen, and predictions by sample.

    Args:
        backbone: config or instance of a ``BEVBackbone``; ``init_from`` in its config starts from a pre-training run.
        frozen: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told.
    """

    backbone: BEVBackbone

    def __init__(self, backbone: BEVBackbone | dict[str, Any], frozen: bool) -> None:
        built = backbone if isinstance(backbone, BEVBackbone) else BACKBONES.build(dict(backbone))
        super().__init__(built.preprocess)
        self.backbone = built
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> BEVTask:
        """Set the training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def bev(self, batch: Batch) -> Tensor:
        """Map (B, C, Ny, Nx) of a preprocessed batch."""
        if self.frozen:
            with torch.no_grad():
                return self.backbone.bev(batch)
        return self.backbone.bev(batch)

    def val_step(self, data: Batch) -> list[dict[str, Any]]:  # type: ignore[override]
        """Predictions of a RAW batch, as the list of one that the evaluator takes."""
        return [super().val_step(data)]

    def test_step(self, data: Batch) -> list[dict[str, Any]]:  # type: ignore[override]
        """The same as ``val_step``."""
        return [super().test_step(data)]


def task_faults(cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults of what all tasks on a map have in their configs: (key, message)."""
    kind = backbone_kind(cfg["backbone"])
    if kind is not None and not issubclass(kind, BEVBackbone):
        yield "backbone", f"needs a backbone with a bird's-eye-view map, not {kind.__name__}"


def backbone_kind(backbone: Any) -> Any:
    """Class of a backbone or of its config; ``None`` where the type is missing or unknown."""
    if not isinstance(backbone, dict):
        return type(backbone)
    return BACKBONES.get(backbone["type"]) if "type" in backbone else None  # whoever looks up types names those
