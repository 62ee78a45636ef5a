"""A multilayer perceptron over tables whose holes are filled in: the baseline that knows no missing cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.table_base import TableBackbone
from perception.backbones.token_encoder import whole_number_faults
from perception.errors import check_arguments, not_among
from perception.registry import BACKBONES
from perception.transforms.preprocess import Preprocess

_IMPUTE = ("mean", "mode", "zero")


@BACKBONES.register_module()
class TableMLP(TableBackbone):
    """One-hot categories and standard scores through ``depth`` linear maps, a batch norm and a ReLU between two.

    A missing continuous cell gets the mean of the training rows. For categorical cells there is a choice:

    Args:
        embed_dim: width D of the hidden layers and of the embedding.
        depth: number of linear maps; ``0`` gives the numbers themselves.
        impute: ``mode``: the most frequent category; ``mean``: the share of every category, the mean of its one-hot
            column; ``zero``: none. Both are counted over the observed cells of all training batches seen.
        preprocess: a ``TableImagePreprocess``; see ``TableTransformer``.

    Feature of ``encode``: ``table`` (B, D).
    """

    category_counts: Tensor

    def __init__(
        self,
        embed_dim: int = 128,
        depth: int = 2,
        impute: Literal["mode", "mean", "zero"] = "mode",
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        super().__init__(preprocess)
        self.impute = impute
        self.register_buffer("category_counts", torch.zeros(sum(self.categories)))
        width = sum(self.categories) + self.continuous
        parts: list[nn.Module] = []
        for number in range(depth):
            parts.append(nn.Linear(width, embed_dim))
            if number < depth - 1:
                parts += [nn.BatchNorm1d(embed_dim), nn.ReLU()]
            width = embed_dim
        self.layers = nn.Sequential(*parts)
        self.embed_dims = width

    def numbers(self, table: Tensor, missing: Tensor) -> Tensor:
        """Preprocessed cells (B, N) -> (B, K_1 + ... + K_Nc + Nn) without holes."""
        table = table.masked_fill(missing, 0.0)
        found = self.preprocess.one_hot(table, missing)
        if self.impute == "zero" or not self.categories:
            return found
        total = sum(self.categories)
        if self.training:
            with torch.no_grad():
                self.category_counts += found[:, :total].sum(0)
        filled = []
        for j, counts in enumerate(self.category_counts.split(self.categories)):
            value = F.one_hot(counts.argmax(), len(counts)).float() if self.impute == "mode" else _shares(counts)
            filled.append(missing[:, j, None] * value)
        return torch.cat([found[:, :total] + torch.cat(filled, dim=1), found[:, total:]], dim=1)

    def pooled(self, table: Tensor, missing: Tensor) -> Tensor:
        """Embedding (B, D) of preprocessed cells (B, N)."""
        return self.layers(self.numbers(table, missing))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Complete tables (B, N) -> their embedding (B, D), alone in a tuple."""
        return (self.pooled(x, torch.zeros_like(x, dtype=torch.bool)),)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """The embedding."""
        return ("table",)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        yield from whole_number_faults(cfg, ("embed_dim",))
        if not isinstance(cfg["depth"], int) or cfg["depth"] < 0:
            yield "depth", "must be a whole number of at least 0"
        if cfg["impute"] not in _IMPUTE:
            yield "impute", not_among(cfg["impute"], _IMPUTE)


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum().clamp_min(1.0)
