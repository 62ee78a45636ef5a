"""Pre-training of images with tables: contrast, matching and reconstruction of hidden cells.

"TIP: Tabular-Image Pre-training for Multimodal Classification with Incomplete Data" (Du et al., ECCV 2024);
``perception.losses.table_image`` has the formulas. Every branch encodes a view once a step, and all tables that meet an
image go through the interaction module together: the pairs of the matching and the masked tables share what they can
(see ``TableImageInteraction.together``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.table_image_encoder import TableImageEncoder
from perception.backbones.table_transformer import TableTransformer
from perception.errors import ConfigError, Fault, check_arguments, not_among
from perception.layers.linear import Linear
from perception.layers.patches import take_tokens
from perception.layers.projection import projection_head
from perception.layers.table_interaction import Pairs
from perception.losses.table_image import (
    NEGATIVE_FLOOR,
    HiddenCells,
    draw_cells,
    draw_negatives,
    image_table_contrast,
    same_rows,
)
from perception.pretext.base import Pretext
from perception.pretext.shared import once
from perception.pretext.table_cells import CellHeads, view_of_table
from perception.pretext.table_pictures import attention_picture
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch

LOSSES = ("itc", "itm", "mtr")
_VOCABULARIES = ("column", "global")


@PRETEXTS.register_module()
class TIP(Pretext):
    """Any of three losses on a ``TableImageEncoder``; ``mtr`` alone also on a ``TableTransformer``, without images.

    * ``itc``: the pooled image and the class token of the corrupted table are projected and contrasted.
    * ``itm``: does a table belong to an image? For every pair of the batch, the pair itself, its table with another
      image and its image with another table; the others are drawn by the similarities of ``itc``, evenly without it.
    * ``mtr``: ``round(mask_ratio * n)`` of the n observed cells of a row are hidden, and told from what the joint
      tokens know. The table is the one before corruption.

    Rows without an image (``image_missing``) take no part in a step, and no row does where the batch has no images but
    for ``mtr``.

    Args:
        losses: which of them; they are called ``itc_loss``, ``itm_loss`` and ``mtr_loss``. TIP weighs each by 1 / 3.
        projection_dim: width E in which images and tables are contrasted.
        temperature: of the contrast.
        image_weight: the weight of image to table in the contrast; table to image has the rest.
        corrupted: let ``itc`` and ``itm`` look at ``table_view`` (the transform ``CorruptTable``), else at the table.
        mask_ratio: share of the observed cells of a row that ``mtr`` hides.
        vocabulary: see ``CellHeads``.
        exclude_equal: draw no row whose table is equal as a negative; without, tables that repeat are told apart.
        negative_floor: what every row of a batch has of being drawn by ``itm``, beside the softmax of its similarity,
            see ``draw_negatives``. The published 1e-4 gives the nearest mismatches almost alone.
        gather: contrast with the rows of all ranks, and average ``mtr`` over the hidden cells of all. ``itm`` draws
            from a rank's own rows.
        picture_count: rows of the picture.

    For the log ``forward`` gives ``itm_accuracy`` and ``cell_accuracy``, of hidden categorical cells.
    """

    image_projector: nn.Sequential
    table_projector: nn.Sequential
    itm_head: nn.Linear
    cell_heads: CellHeads

    def __init__(
        self,
        losses: Sequence[str] = LOSSES,
        projection_dim: int = 128,
        temperature: float = 0.1,
        image_weight: float = 0.5,
        corrupted: bool = True,
        mask_ratio: float = 0.5,
        vocabulary: Literal["column", "global"] = "column",
        exclude_equal: bool = False,
        negative_floor: float = NEGATIVE_FLOOR,
        gather: bool = True,
        picture_count: int = 6,
    ) -> None:
        check_arguments("model.pretexts.tip", self.check_config, locals())
        super().__init__()
        self.losses = tuple(losses)
        self.projection_dim = projection_dim
        self.temperature = temperature
        self.image_weight = image_weight
        self.corrupted = corrupted
        self.mask_ratio = mask_ratio
        self.vocabulary = vocabulary
        self.exclude_equal = exclude_equal
        self.negative_floor = negative_floor
        self.gather = gather
        self.picture_count = picture_count

    def attach(self, backbone: Backbone) -> None:
        """Build projectors and heads for the widths and columns of ``backbone``.

        Raises:
            ConfigError: the backbone lacks what a loss needs.
        """
        table: TableTransformer
        if isinstance(backbone, TableImageEncoder):
            table = backbone.table_backbone
            image = backbone.image_backbone.token_dims
            if "itc" in self.losses:
                self.image_projector = projection_head(image, image, self.projection_dim)
                self.table_projector = projection_head(table.embed_dims, table.embed_dims, self.projection_dim)
            if "itm" in self.losses:
                self.itm_head = Linear(backbone.embed_dims, 2)
        elif isinstance(backbone, TableTransformer):
            table = backbone
            if self.losses != ("mtr",):
                text = "a TableTransformer has no images to contrast or match; it can tell hidden cells, ('mtr',)"
                raise ConfigError([Fault("model.pretexts.tip.losses", self.losses, text)])
        else:
            raise ConfigError(
                f"TIP needs a TableImageEncoder, or for 'mtr' a TableTransformer, not {type(backbone).__name__}"
            )
        if "mtr" in self.losses:
            if round(self.mask_ratio * table.columns) < 1:
                text = f"hides none of the {table.columns} cells of a row"
                raise ConfigError([Fault("model.pretexts.tip.mask_ratio", self.mask_ratio, text)])
            sizes = (backbone.embed_dims, table.categories, table.continuous)
            self.cell_heads = CellHeads(*sizes, self.vocabulary, self.gather)

    def forward(self, backbone: Any, batch: Batch) -> dict[str, Tensor]:
        """Losses of a preprocessed batch with ``image``, ``table``, ``table_missing`` and ``table_view``."""
        if isinstance(backbone, TableTransformer):
            return self._of_tables(backbone, batch)
        batch = _with_images(batch)
        table, missing = backbone.table_of(batch)
        tokens = None
        found: dict[str, Tensor] = {}
        cells: list[Tensor] = []
        groups: list[Pairs] = []
        if batch.get("image") is not None or self.losses != ("mtr",):
            tokens, pooled = once(batch, ("image_tokens", id(backbone)), lambda: backbone.image_tokens(batch))
        if "itc" in self.losses or "itm" in self.losses:
            view = view_of_table(batch, self.corrupted, "TIP")
            key = ("table_cells", id(backbone), self.corrupted)
            cells.append(once(batch, key, lambda: backbone.table_backbone.cells(view, missing)))
            similarity = table.new_zeros(len(table), len(table))
        if "itc" in self.losses:
            image = _unit(self.image_projector(pooled))
            own = _unit(self.table_projector(cells[0][:, 0]))
            found["itc_loss"] = image_table_contrast(image, own, self.temperature, self.image_weight, self.gather)
            similarity = image.detach() @ own.detach().T / self.temperature
        if "itm" in self.losses:
            groups += self._matches(similarity, table, missing)
        if "mtr" in self.losses:
            hidden = draw_cells(missing, self.mask_ratio)
            start = sum(len(part) for part in cells)
            cells.append(backbone.table_backbone.cells(table, missing | hidden.mask))
            groups.append(Pairs(slice(start, start + len(table)), None, hidden.places + 1))
        if groups:
            joint = backbone.interaction.together(cells[0] if len(cells) == 1 else torch.cat(cells), tokens, groups)
        if "itm" in self.losses:
            found |= self._matching(joint[:3])
        if "mtr" in self.losses:
            found |= _named(self.cell_heads(joint[-1], hidden, table))
        return found

    def _of_tables(self, backbone: TableTransformer, batch: Batch) -> dict[str, Tensor]:
        """``mtr`` without images: hidden cells are told from the tokens of the table encoder."""
        table, missing = batch["table"], batch["table_missing"]
        hidden = draw_cells(missing, self.mask_ratio)
        cells = backbone.cells(table, missing | hidden.mask)
        return _named(self.cell_heads(take_tokens(cells, hidden.places + 1), hidden, table))

    def _matches(self, similarity: Tensor, table: Tensor, missing: Tensor) -> list[Pairs]:
        """The pairs of a batch, its tables with other images, and its images with other tables."""
        equal = same_rows(table, missing) if self.exclude_equal else None
        other_table = draw_negatives(similarity, equal, self.negative_floor)
        other_image = draw_negatives(similarity.T, equal, self.negative_floor)
        every, first = slice(0, len(table)), other_table.new_zeros(len(table), 1)
        return [Pairs(every, None, first), Pairs(every, other_image, first), Pairs(other_table, None, first)]

    def _matching(self, joint: Sequence[Tensor]) -> dict[str, Tensor]:
        logits = self.itm_head(torch.cat([part[:, 0] for part in joint])).float()
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        target[: len(joint[0])] = 1
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        return {"itm_loss": F.cross_entropy(logits, target), "itm_accuracy": accuracy}

    @torch.no_grad()
    def tell_cells(self, backbone: Any, batch: Batch, hidden: HiddenCells) -> Tensor:
        """Likeliest code or score of every cell (B, N) of a preprocessed batch when the ``hidden`` ones are not seen.

        Raises:
            ConfigError: nothing was trained to tell cells.
        """
        if "mtr" not in self.losses:
            raise ConfigError("cells are told by what 'mtr' trains, which is not among the losses")
        table, missing = batch["table"], batch["table_missing"]
        if isinstance(backbone, TableTransformer):
            return self.cell_heads.told(backbone.cells(table, missing | hidden.mask)[:, 1:])
        tokens = backbone.image_tokens(batch)[0] if batch.get("image") is not None else None
        cells = backbone.table_backbone.cells(table, missing | hidden.mask)
        return self.cell_heads.told(backbone.join(cells, tokens, batch, all_rows=True)[:, 1:])

    @torch.no_grad()
    def pictures(self, backbone: Any, batch: Batch) -> dict[str, np.ndarray]:
        """``tip_attention``: images, where on them the class token looks in the last block, and at which columns."""
        if isinstance(backbone, TableTransformer) or batch.get("image") is None:
            return {}
        return {"tip_attention": attention_picture(backbone, batch, self.picture_count)}

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints, known once a backbone is attached."""
        return {"losses": ", ".join(self.losses)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        losses = cfg["losses"]
        if isinstance(losses, str) or not losses:
            yield "losses", f"needs a list of some of {', '.join(LOSSES)}"
        else:
            for name in losses:
                if name not in LOSSES:
                    yield "losses", f"{name!r} is {not_among(name, LOSSES)}"
        for key in ("projection_dim", "picture_count"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
        if not cfg["temperature"] > 0:
            yield "temperature", "must be positive"
        if not 0 <= cfg["image_weight"] <= 1:
            yield "image_weight", "must lie in [0, 1]"
        if not 0 < cfg["mask_ratio"] <= 1:
            yield "mask_ratio", "must lie in (0, 1]"
        if not cfg["negative_floor"] > 0:
            yield "negative_floor", "must be positive"
        if cfg["vocabulary"] not in _VOCABULARIES:
            yield "vocabulary", not_among(cfg["vocabulary"], _VOCABULARIES)


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)


def _named(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {("mtr_loss" if name == "loss" else name): value for name, value in found.items()}


def _with_images(batch: Batch) -> Batch:
    """The rows that have an image, where some do not."""
    missing = batch.get("image_missing")
    if missing is None or not bool(missing.any()):
        return batch
    keep = ~missing
    fields = ("image", "table", "table_missing", "table_view")
    return {**batch, **{key: batch[key][keep] for key in fields if batch.get(key) is not None}, "image_missing": None}
