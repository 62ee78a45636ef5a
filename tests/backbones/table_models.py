"""Small encoders of tables with images, and batches for them: two categorical and two continuous columns."""

from __future__ import annotations

from typing import Any

import torch

from perception.registry import BACKBONES
from perception.transforms.table_columns import Column

COLUMNS = (
    Column("colour", "categorical", ("red", "green", "blue")),
    Column("shape", "categorical", ("round", "square")),
    Column("weight"),
    Column("length"),
)


def record(size: int = 16, columns: tuple[Column, ...] = COLUMNS) -> dict[str, Any]:
    count = sum(not column.categorical for column in columns)
    return dict(
        type="TableImagePreprocess",
        size=size,
        columns=[column.record() for column in columns],
        table_mean=(0.0,) * count,
        table_std=(1.0,) * count,
    )


def table_config(**changes: Any) -> dict[str, Any]:
    return dict(type="TableTransformer", embed_dim=16, depth=2, num_heads=2) | changes


def encoder_config(**changes: Any) -> dict[str, Any]:
    return (
        dict(
            type="TableImageEncoder",
            image_backbone=dict(type="ConvNet", widths=(8, 12), strides=(4, 2)),
            table_backbone=table_config(),
            depth=2,
            num_heads=2,
            preprocess=record(),
        )
        | changes
    )


def build(config: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return BACKBONES.build(config)


def raw_batch(count: int = 6, seed: int = 1, holes: float = 0.0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    codes = [torch.randint(k, (count, 1), generator=random).float() for k in (3, 2)]
    table = torch.cat([*codes, torch.randn(count, 2, generator=random)], dim=1)
    missing = torch.rand(table.shape, generator=random) < holes
    return {
        "image": torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=random),
        "table": table.masked_fill(missing, 0.0),
        "table_view": table.roll(1, 0).masked_fill(missing, 0.0),
        "table_missing": missing,
        "table_columns": COLUMNS,
        "index": torch.arange(count),
    }
