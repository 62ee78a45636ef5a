"""Plain ways to join an image with a table, the baselines of TIP: concatenation, maximum, an affine map of the image.

DAFT: "Combining 3D image and tabular data via the dynamic affine feature map transform" (Pölsterl et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception.backbones.table_base import TableImageBackbone
from perception.errors import DataError, check_arguments, not_among
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

_FUSIONS = ("concat", "max", "daft")


class DynamicAffine(nn.Module):
    """A residual on image tokens whose scale and shift a table chooses.

    From the mean of the tokens and the table vector a bottleneck tells a scale and a shift of every channel; then
    ``y = relu(x + norm(map(scale * x + shift)))``. DAFT does so within the last residual block of a ResNet; here it is
    a block of its own, so that any image encoder can be used.

    Args:
        image_dim: channels C of the tokens.
        table_dim: width of the table vector.
        reduction: the bottleneck has ``(C + table_dim) / reduction`` units; 7 is DAFT's.
    """

    def __init__(self, image_dim: int, table_dim: int, reduction: float = 7.0) -> None:
        super().__init__()
        hidden = max(1, int((image_dim + table_dim) / reduction))
        self.bottleneck = nn.Sequential(
            nn.Linear(image_dim + table_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * image_dim)
        )
        self.map = nn.Linear(image_dim, image_dim, bias=False)
        self.norm = nn.BatchNorm1d(image_dim)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        """(B, T, C) and (B, D) -> (B, T, C)."""
        scale, shift = self.bottleneck(torch.cat([tokens.mean(dim=1), table], dim=1))[:, None].chunk(2, dim=2)
        moved = self.map(scale * tokens + shift)
        return torch.relu(tokens + self.norm(moved.transpose(1, 2)).transpose(1, 2))


@BACKBONES.register_module()
class TableImageFusion(TableImageBackbone):
    """An image and a table encoder joined at the end.

    Args:
        image_backbone: config of a backbone of images.
        table_backbone: config of a backbone of tables: a ``TableMLP``, which fills in missing cells, or a
            ``TableTransformer``, which does not need to.
        preprocess: a ``TableImagePreprocess``.
        fusion: ``concat``: the pooled features, one after the other; ``max``: the larger of the two, number by number,
            the image's mapped to the table's width; ``daft``: see ``DynamicAffine``.

    Without a table all cells count as missing. An image there must be.
    """

    def __init__(
        self,
        image_backbone: Mapping[str, Any],
        table_backbone: Mapping[str, Any],
        preprocess: Preprocess | dict[str, Any],
        fusion: Literal["concat", "max", "daft"] = "concat",
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        super().__init__(image_backbone, table_backbone, preprocess)
        image, table = self.image_backbone.token_dims, self.table_backbone.embed_dims
        self.fusion = fusion
        self.embed_dims = {"concat": image + table, "max": table, "daft": image}[fusion]
        self.image_proj = nn.Linear(image, table) if fusion == "max" else None
        self.affine = DynamicAffine(image, table) if fusion == "daft" else None

    def parts(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Those of ``multimodal``, ``image`` and ``table`` that are asked for, or more."""
        found: dict[str, Tensor] = {}
        joint = "multimodal" in features
        if joint and self.image_of(batch) is None:
            raise DataError("a TableImageFusion needs images; only its feature 'table' does without")
        if joint or "image" in features:
            tokens, found["image"] = self.image_tokens(batch)
        if joint or "table" in features:
            rows = len(tokens) if joint and "table" not in features else None
            found["table"] = self.table_backbone.pooled(*self.table_of(batch, rows))
        if joint:
            found["multimodal"] = self._joined(tokens, found["image"], found["table"])
        return found

    def _joined(self, tokens: Tensor, image: Tensor, table: Tensor) -> Tensor:
        if self.image_proj is not None:
            return torch.maximum(self.image_proj(image), table)
        if self.affine is not None:
            return self.affine(tokens, table).mean(dim=1)
        return torch.cat([image, table], dim=1)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        yield from super().check_config(cfg)
        if cfg["fusion"] not in _FUSIONS:
            yield "fusion", not_among(cfg["fusion"], _FUSIONS)
