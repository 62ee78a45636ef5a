"""Contrast of a table with a corrupted copy of itself.

"SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption" (Bahri et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import check_arguments
from perception.layers.projection import projection_head
from perception.losses.contrastive import gather_with_grad, rank_and_world
from perception.pretext.base import Pretext
from perception.pretext.table_cells import table_part, view_of_table
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch


@PRETEXTS.register_module()
class SCARF(Pretext):
    """Every row of the batch against the corrupted copies of all rows, of which its own is the right one.

    The copy is ``table_view``, which the transform ``CorruptTable`` makes; SCARF replaces 60 % of the cells. The loss
    of the paper is ln B smaller, a constant.

    Args:
        hidden_dim: width of the projection's hidden layer; ``None`` is the encoder's.
        projection_dim: width E in which rows are compared.
        temperature: divides the cosines; 1 is the paper's.
        gather: contrast with the rows of all ranks.

    The backbone is a table encoder, or has one (``table_backbone``), which alone is trained then.
    ``forward`` gives ``loss`` and, for the log, ``accuracy``: how often the own copy is the most similar one.
    """

    head: nn.Sequential

    def __init__(
        self,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        temperature: float = 1.0,
        gather: bool = True,
    ) -> None:
        check_arguments("model.pretexts.scarf", self.check_config, locals())
        super().__init__()
        self.hidden_dim, self.projection_dim = hidden_dim, projection_dim
        self.temperature, self.gather = temperature, gather

    def attach(self, backbone: Backbone) -> None:
        """Build the projection for the width of the table encoder."""
        width = table_part(backbone, "SCARF").embed_dims
        self.head = projection_head(width, self.hidden_dim or width, self.projection_dim)

    def forward(self, backbone: Any, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``accuracy`` of a preprocessed batch with ``table`` and ``table_view``."""
        table = table_part(backbone, "SCARF")
        missing = batch["table_missing"]
        views = torch.cat([batch["table"], view_of_table(batch, True, "SCARF")])
        unit = F.normalize(self.head(table.pooled(views, torch.cat([missing, missing]))).float(), dim=1)
        own, copy = unit.chunk(2)
        rank, world = rank_and_world() if self.gather else (0, 1)
        logits = own @ (gather_with_grad(copy) if world > 1 else copy).T / self.temperature
        target = torch.arange(len(own), device=own.device) + rank * len(own)
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        return {"loss": F.cross_entropy(logits, target), "accuracy": accuracy}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        for key in ("hidden_dim", "projection_dim"):
            if cfg[key] is not None and (not isinstance(cfg[key], int) or cfg[key] < 1):
                yield key, "must be a whole number of at least 1"
        if not cfg["temperature"] > 0:
            yield "temperature", "must be positive"
