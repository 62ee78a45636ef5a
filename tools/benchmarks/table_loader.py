"""One pass over tables with images in memory, views augmented: our whole-batch loader against one row at a time."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from perception.datasets.table_rows import TableData, TableRows
from perception.engine.data import build_dataloader
from perception.transforms.table_columns import Column
from perception.transforms.table_image_preprocess import TableImagePreprocess

from .harness import Contender, Step, Target, compare

COUNT, SIZE, BATCH, WORKERS = 2048, 64, 256, 0
NAMES = ("perception loader", "row by row")
FLOOR = 3000  # rows a second on two cores
# TIP's views: 95 % of the images jittered, blurred, cut and mirrored, 30 % of the columns corrupted.
OPERATIONS = [
    {
        "name": "ColorJitter",
        "brightness": [0.2, 1.8],
        "contrast": [0.2, 1.8],
        "saturation": [0.2, 1.8],
        "hue": 0,
        "p": 0.8,
    },
    {"name": "ToGray", "p": 0.2},
    {"name": "GaussianBlur", "blur_limit": [29, 29], "sigma_limit": [0.1, 2.0], "p": 0.5},
    {"name": "RandomResizedCrop", "size": [SIZE, SIZE], "scale": [0.08, 1.0]},
    {"name": "HorizontalFlip", "p": 0.5},
]


def columns() -> tuple[Column, ...]:
    """Four categorical and thirteen continuous ones, as DVM-Car has."""
    sizes = (22, 13, 3, 12)
    codes = [Column(f"code {j}", "categorical", tuple(map(str, range(size)))) for j, size in enumerate(sizes)]
    return (*codes, *(Column(f"number {j}") for j in range(13)))


def rows() -> tuple[TableData, np.ndarray]:
    """A random table with 10 % holes, and images (n, 3, 64, 64) uint8."""
    random = np.random.default_rng(0)
    names = columns()
    cells = random.normal(size=(COUNT, len(names))).astype(np.float32)
    for j, column in enumerate(names):
        if column.categorical:
            cells[:, j] = random.integers(0, column.size, COUNT)
    data = TableData(cells, random.random(cells.shape) < 0.1, names, random.integers(0, 10, COUNT))
    return data, random.integers(0, 256, (COUNT, 3, SIZE, SIZE), dtype=np.uint8)


def build_ours(device: str) -> Step:
    """Both views and the record, of whole batches."""
    operations = {"type": "Albumentations", "operations": OPERATIONS, "probability": 0.95}
    data, images = rows()
    dataset = TableRows(data, images, transforms=[operations, {"type": "CorruptTable", "rate": 0.3}])
    options = {"dataset": dataset, "batch_size": BATCH, "num_workers": WORKERS}
    loader = build_dataloader(options, seed=0, training=True)
    record = TableImagePreprocess(size=SIZE, fit=dataset)
    return lambda: sum(len(record({**b, "image": b["image"].to(device)})["image"]) for b in loader)


class RowByRow(Dataset):
    """The usual data set: one row, its views and its scaling at a time."""

    def __init__(self) -> None:
        import albumentations

        self.data, self.images = rows()
        chain = [getattr(albumentations, o["name"])(**{k: v for k, v in o.items() if k != "name"}) for o in OPERATIONS]
        self.views = albumentations.Compose(chain)
        self.random = np.random.default_rng(0)
        table = np.ma.masked_array(self.data.table, self.data.table_missing)
        self.mean, self.std = np.asarray(table.mean(0)), np.asarray(table.std(0))

    def __len__(self) -> int:
        return COUNT

    def _scaled(self, cells: np.ndarray, holes: np.ndarray) -> torch.Tensor:
        out = cells.copy()
        out[4:] = (cells[4:] - self.mean[4:]) / self.std[4:]
        out[holes] = 0
        return torch.from_numpy(out)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image = self.images[index].transpose(1, 2, 0)
        if self.random.random() < 0.95:
            image = self.views(image=image)["image"]
        cells, holes = self.data.table[index], self.data.table_missing[index]
        view = cells.copy()
        for j in self.random.choice(17, int(0.3 * 17), replace=False):
            view[j] = self.data.table[self.random.integers(COUNT), j]
        pixels = (torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255 - 0.45) / 0.225
        return pixels, self._scaled(cells, holes), self._scaled(view, holes), torch.from_numpy(holes)


def build_peer(device: str) -> Step:
    """The same views with the default collate."""
    loader: DataLoader[Any] = DataLoader(RowByRow(), batch_size=BATCH, shuffle=True)
    return lambda: sum(len(parts[0].to(device)) for parts in loader)


def build_plain(device: str) -> Step:
    """Ours without the two views: what fine-tuning and tests read."""
    data, images = rows()
    dataset = TableRows(data, images)
    loader = build_dataloader({"dataset": dataset, "batch_size": BATCH, "num_workers": 0}, seed=0, training=True)
    record = TableImagePreprocess(size=SIZE, fit=dataset)
    return lambda: sum(len(record({**b, "image": b["image"].to(device)})["image"]) for b in loader)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most a tenth slower than one row at a time; what counts are the rows a second, which are noted."""
    plain = "perception, no views"
    contenders = [Contender(NAMES[0], build_ours), Contender(plain, build_plain), Contender(NAMES[1], build_peer)]
    targets = [Target(*NAMES, limit=1.1)]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    speed = {row["name"]: COUNT / row["median_cpu_s"] for row in result["rows"]}
    result["notes"] = [f"one step = {COUNT} rows of {SIZE} px and 17 columns, batch {BATCH}, no workers"]
    result["notes"] += [
        f"{name}: {value:,.0f} rows a CPU-second (target {FLOOR} on two)" for name, value in speed.items()
    ]
    return result
