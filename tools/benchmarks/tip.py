"""TIP's step: against the same losses and modules with an interaction module that runs for every loss on its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.losses.table_image import draw_cells, draw_negatives, hidden_cell_loss, image_table_contrast
from perception.pretext.tip import TIP
from perception.registry import MODELS
from perception.transforms.preprocess import Batch
from perception.transforms.table_columns import Column

from .harness import Contender, Step, Target, compare, training_step

NAMES = ("perception TIP", "one pass a loss")


@dataclass(frozen=True)
class Size:
    """What a step depends on."""

    image: int = 64
    batch: int = 128
    width: int = 64
    depth: int = 2
    heads: int = 4
    categories: tuple[int, ...] = (5, 43, 4, 6)  # fashion24's
    continuous: int = 1
    tower: str = "vit"


SMALL = Size()
CONV = Size(tower="convnet")
DVM = Size(128, 16, 512, 4, 8, (22, 13, 3, 12), 13, "resnet50")


def backbone(size: Size) -> dict[str, Any]:
    """Both towers and the interaction of a size."""
    columns = [Column(f"c{j}", "categorical", tuple(map(str, range(k)))) for j, k in enumerate(size.categories)]
    columns += [Column(f"n{j}") for j in range(size.continuous)]
    ones = (1.0,) * size.continuous
    vit = {
        "type": "ViT",
        "image_size": size.image,
        "patch_size": 8,
        "embed_dim": size.width,
        "depth": 2,
        "num_heads": size.heads,
    }
    towers: dict[str, dict[str, Any]] = {
        "vit": vit,
        "convnet": {"type": "ConvNet"},
        "resnet50": {"type": "TimmModel", "name": "resnet50", "image_size": size.image},
    }
    table = {"type": "TableTransformer", "embed_dim": size.width, "depth": size.depth, "num_heads": size.heads}
    record = {"type": "TableImagePreprocess", "size": size.image, "columns": [column.record() for column in columns]}
    return {
        "type": "TableImageEncoder",
        "image_backbone": towers[size.tower],
        "table_backbone": table,
        "depth": size.depth,
        "num_heads": size.heads,
        "preprocess": record | {"table_mean": (0.0,) * size.continuous, "table_std": ones},
    }


def raw_batch(size: Size) -> Batch:
    """RAW batch of random images and complete tables; the time of a step does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    codes = [torch.randint(k, (size.batch, 1), generator=random).float() for k in size.categories]
    scores = torch.randn(size.batch, size.continuous, generator=random)
    columns = [Column(f"c{j}", "categorical", tuple(map(str, range(k)))) for j, k in enumerate(size.categories)]
    table = torch.cat([*codes, scores], dim=1)
    return {
        "image": torch.randint(256, (size.batch, 3, size.image, size.image), dtype=torch.uint8, generator=random),
        "table": table,
        "table_view": table.roll(1, 0),
        "table_missing": torch.zeros_like(table, dtype=torch.bool),
        "table_columns": (*columns, *(Column(f"n{j}") for j in range(size.continuous))),
    }


class OnePassALoss(TIP):
    """The same losses and modules as the paper's code puts them together.

    The towers run once a view, as here; the interaction module runs for the pairs, for both kinds of negatives and for
    the masked tables one after the other, over all tokens, and the heads tell every cell.
    """

    def forward(self, backbone: Any, batch: Batch) -> dict[str, Tensor]:
        """The three losses of a preprocessed batch."""
        table, missing = batch["table"], batch["table_missing"]
        tokens, pooled = backbone.image_tokens(batch)
        cells = backbone.table_backbone.cells(batch["table_view"], missing)
        image, own = F.normalize(self.image_projector(pooled)), F.normalize(self.table_projector(cells[:, 0]))
        itc = image_table_contrast(image, own, self.temperature)
        similarity = (image @ own.T / self.temperature).detach()
        other_table, other_image = draw_negatives(similarity), draw_negatives(similarity.T)
        pairs = ((cells, tokens), (cells, tokens[other_image]), (cells[other_table], tokens))
        joint = torch.cat([backbone.interaction(a, b)[:, 0] for a, b in pairs])
        target = torch.zeros(len(joint), dtype=torch.long, device=joint.device)
        target[: len(table)] = 1
        itm = F.cross_entropy(self.itm_head(joint), target)
        hidden = draw_cells(missing, self.mask_ratio)
        masked = backbone.interaction(backbone.table_backbone.cells(table, missing | hidden.mask), tokens)[:, 1:]
        return {"itc_loss": itc, "itm_loss": itm, "mtr_loss": self._all_cells(masked, table, hidden.mask)}

    def _all_cells(self, tokens: Tensor, table: Tensor, hidden: Tensor) -> Tensor:
        heads, split = self.cell_heads, self.cell_heads.categorical
        assert heads.cat_classifier is not None and heads.con_regressor is not None
        scores = heads.cat_classifier(tokens[:, :split])
        scores = scores.masked_fill(heads.code_column != torch.arange(split)[:, None].to(scores.device), -torch.inf)
        target = table[:, :split].long() + heads.cat_offsets
        losses = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        errors = (heads.con_regressor(tokens[:, split:])[..., 0] - table[:, split:]).square()
        return hidden_cell_loss(losses[hidden[:, :split]], errors[hidden[:, split:]])


def model(size: Size, pretext: TIP) -> Any:
    """A Pretrainer of a size with TIP's weights of the losses."""
    third = 1 / 3
    torch.manual_seed(0)
    return MODELS.build(
        {
            "type": "Pretrainer",
            "backbone": backbone(size),
            "pretexts": {"tip": pretext},
            "balance": {"itc_loss": third, "itm_loss": third, "mtr_loss": third},
        }
    )


def training(size: Size, pretext: TIP, device: str) -> Step:
    """Training step, the data preprocessor included."""
    built = model(size, pretext).to(device).train()
    batch = raw_batch(size)

    def loss() -> Tensor:
        return built.parse_losses(built(*built.data_preprocessor(batch, True), mode="loss"))[0]

    return training_step(loss, list(built.parameters()))


SIZES = {"small": SMALL, "convnet": CONV, "dvm": DVM}


# Functions of the module for every size, so that a fresh process finds them.
def ours_small(device: str) -> Step:
    """Our step."""
    return training(SMALL, TIP(), device)


def plain_small(device: str) -> Step:
    """The peer's step."""
    return training(SMALL, OnePassALoss(), device)


def ours_convnet(device: str) -> Step:
    """Our step with a convolutional network."""
    return training(CONV, TIP(), device)


def plain_convnet(device: str) -> Step:
    """The peer's step with a convolutional network."""
    return training(CONV, OnePassALoss(), device)


def ours_dvm(device: str) -> Step:
    """Our step at the paper's widths."""
    return training(DVM, TIP(), device)


def plain_dvm(device: str) -> Step:
    """The peer's step at the paper's widths."""
    return training(DVM, OnePassALoss(), device)


BUILDS = {
    "small": (ours_small, plain_small),
    "convnet": (ours_convnet, plain_convnet),
    "dvm": (ours_dvm, plain_dvm),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which size."""
    text = (
        "small: 64 px, a small ViT, width 64, 2 + 2 blocks; convnet: with a ConvNet; dvm: ResNet-50, width 512, 4 + 4"
    )
    parser.add_argument("--size", choices=SIZES, default="small", help=text)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most 0.8 times the peer, at the small size."""
    contenders = [Contender(name, build) for name, build in zip(NAMES, BUILDS[args.size], strict=True)]
    result = compare(contenders, [Target(*NAMES, limit=0.8)], args.rounds, args.warmup, args.threads, args.device)
    size = SIZES[args.size]
    columns = len(size.categories) + size.continuous
    result["notes"] = [
        f"batch {size.batch}, {size.image} px, {size.tower}, {columns} columns, width {size.width}, "
        f"{size.depth} + {size.depth} blocks"
    ]
    return result
