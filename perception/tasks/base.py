"""What every trained model shares: batches as plain dicts, normalised on the device."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.model.base_model.data_preprocessor import BaseDataPreprocessor
from torch import Tensor

from perception.backbones.base import Backbone
from perception.datasets.paired import PARTNER
from perception.transforms.preprocess import Batch, Preprocess


class BatchPreprocessor(BaseDataPreprocessor):
    """Moves a RAW batch to the device and applies the backbone's Preprocess record there.

    A second batch inside it, ``partner`` of ``perception.datasets.paired``, is treated alike.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__(non_blocking=True)
        self.preprocess = preprocess

    def forward(self, data: Batch, training: bool = False) -> tuple[Batch]:  # type: ignore[override]
        """RAW batch -> one-tuple of the preprocessed batch."""
        data = to_device(data, self.device)
        batch = self.preprocess(data)
        if PARTNER in data:
            batch[PARTNER] = self.preprocess(data[PARTNER])
        # A one-tuple: mmengine spreads dicts over keyword arguments and tuples over positional ones.
        return (batch,)


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """Move every tensor and graph inside dicts, lists and tuples; leave the rest."""
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(v, device) for v in value)
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value


class PerceptionModel(BaseModel):
    """Base of the Pretrainer and of the tasks.

    ``forward(batch, mode)`` takes a preprocessed batch. ``mode='loss'`` gives named scalars, ``mode='predict'`` gives
    a dict of predictions for the metrics.
    """

    backbone: Backbone

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__(data_preprocessor=BatchPreprocessor(preprocess))

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Losses (``mode='loss'``) or predictions (``mode='predict'``) of a preprocessed batch."""
        raise NotImplementedError

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """Sum of the entries whose name contains ``loss``, and all entries for the log with the total as ``loss``."""
        total = self.combine({name: value for name, value in losses.items() if "loss" in name})
        return total, {**losses, "loss": total}

    def combine(self, losses: dict[str, Tensor]) -> Tensor:
        """One scalar out of the named losses."""
        return sum(losses.values())  # type: ignore[return-value]
