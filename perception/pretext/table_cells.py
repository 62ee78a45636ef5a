"""What pretexts on tables share: hidden cells told from tokens, and the corrupted view of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.table_base import TableBackbone, TableImageBackbone
from perception.errors import ConfigError, DataError
from perception.layers.linear import Linear
from perception.layers.transformer import init_normal
from perception.losses.table_image import HiddenCells, category_losses, hidden_cell_loss
from perception.transforms.preprocess import Batch


class CellHeads(nn.Module):
    """What stands in a cell, told from its token: a linear map to the categories of all columns, another to a score.

    Args:
        dim: width D of the tokens.
        categories: number of codes of every categorical column; these columns come first.
        continuous: number of continuous columns.
        vocabulary: ``column``: a softmax over the categories of the cell's own column; ``global``: one over those of
            all columns, as TIP's public code has it, which lets probability leak to other columns.
        gather: average the loss over the hidden cells of all ranks, see ``hidden_cell_loss``.
    """

    code_column: Tensor
    cat_offsets: Tensor

    def __init__(
        self, dim: int, categories: Sequence[int], continuous: int, vocabulary: str = "column", gather: bool = False
    ) -> None:
        super().__init__()
        sizes = [int(size) for size in categories]
        self.categorical, self.vocabulary, self.gather = len(sizes), vocabulary, gather
        columns = [j for j, size in enumerate(sizes) for _ in range(size)]
        offsets = [sum(sizes[:j]) for j in range(len(sizes))]
        self.register_buffer("code_column", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("cat_offsets", torch.tensor(offsets, dtype=torch.long), persistent=False)
        self.cat_classifier = Linear(dim, sum(sizes)) if sizes else None
        self.con_regressor = nn.Linear(dim, 1) if continuous else None
        self.apply(init_normal)

    def logits(self, tokens: Tensor, column: Tensor) -> Tensor:
        """Scores (M, K) of all columns' categories for tokens (M, D) of cells of the categorical columns (M,)."""
        assert self.cat_classifier is not None
        scores = self.cat_classifier(tokens)
        if self.vocabulary == "column":
            scores = scores.masked_fill(self.code_column != column[:, None], float("-inf"))
        return scores

    def forward(self, tokens: Tensor, hidden: HiddenCells, table: Tensor) -> dict[str, Tensor]:
        """Loss of hidden cells, computed for those alone.

        Args:
            tokens: (B, K, D) outputs at ``hidden.places``.
            hidden: which cells these are.
            table: (B, N) preprocessed cells as they were before.

        Returns:
            ``loss``, and for the log ``cell_accuracy`` of categorical cells, if there are such columns.
        """
        truth = table.gather(1, hidden.places)
        categorical = hidden.valid & (hidden.places < self.categorical)
        continuous = hidden.valid & (hidden.places >= self.categorical)
        losses = [tokens.new_zeros(0), tokens.new_zeros(0)]
        found = {}
        if self.cat_classifier is not None:
            column = hidden.places[categorical]
            logits = self.logits(tokens[categorical], column)
            target = truth[categorical].long() + self.cat_offsets[column]
            losses[0] = category_losses(logits, target, self.vocabulary)
            right = (logits.detach().argmax(1) == target).sum()
            found["cell_accuracy"] = right / categorical.sum().clamp(min=1)
        if self.con_regressor is not None:
            told = self.con_regressor(tokens[continuous])[:, 0].float()
            losses[1] = (told - truth[continuous]).square()
        return {"loss": hidden_cell_loss(losses[0], losses[1], self.gather), **found}

    @torch.no_grad()
    def told(self, tokens: Tensor) -> Tensor:
        """Likeliest code or score of every cell: tokens (B, N, D) -> (B, N) float32."""
        parts = []
        if self.cat_classifier is not None:
            for j in range(self.categorical):
                own = self.code_column == j
                parts.append(self.cat_classifier(tokens[:, j : j + 1])[:, 0, own].argmax(1, keepdim=True).float())
        if self.con_regressor is not None:
            parts.append(self.con_regressor(tokens[:, self.categorical :])[..., 0].float())
        return torch.cat(parts, dim=1)


def table_part(backbone: Any, pretext: str) -> TableBackbone:
    """The table encoder that a backbone is or has.

    Raises:
        ConfigError: it has none.
    """
    if isinstance(backbone, TableImageBackbone):
        return backbone.table_backbone
    if isinstance(backbone, TableBackbone):
        return backbone
    raise ConfigError(f"{pretext} needs a backbone of tables, such as TableTransformer, not {type(backbone).__name__}")


def view_of_table(batch: Batch, corrupted: bool, pretext: str) -> Tensor:
    """Cells (B, N) of the corrupted view, or of the table itself.

    Raises:
        DataError: there is no corrupted view.
    """
    if not corrupted:
        return batch["table"]
    view = batch.get("table_view")
    if view is None:
        raise DataError(
            f"{pretext} looks at a corrupted view of the table, but the batch has no 'table_view': add CorruptTable "
            "to the transforms of the training set"
        )
    return view
