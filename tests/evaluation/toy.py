"""A backbone and a data set small enough to follow by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.datasets.base import Dataset
from perception.evaluation.protocol import Features
from perception.registry import BACKBONES, DATASETS, PREPROCESSES
from perception.transforms.preprocess import Batch, Preprocess


@PREPROCESSES.register_module(force=True)
@dataclass(frozen=True)
class ToyPreprocess(Preprocess):
    modality: ClassVar[str] = "toy"
    scale: float = 1.0

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "toy": batch["toy"].float() * self.scale}


@BACKBONES.register_module(force=True)
class ToyBackbone(Backbone):
    """Batch norm, dropout and a linear map: all that a careless probe would disturb."""

    modality = "toy"

    def __init__(self, width: int = 8, inputs: int = 4, preprocess: Any = None) -> None:
        super().__init__(preprocess or {"type": "ToyPreprocess"})
        self.embed_dims = width
        self.norm = nn.BatchNorm1d(inputs)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(self.drop(self.norm(x))),)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        return self(batch["toy"])[-1] * (2 if feature == "double" else 1)

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        return ("pooled", "double")


@DATASETS.register_module(force=True)
class ToyDataset(Dataset):
    """Classes are Gaussian clouds; some rows can be unlabelled."""

    modality = "toy"

    def __init__(
        self, split: str = "train", size: int = 60, classes: int = 3, spread: float = 0.3, unlabelled: int = 0
    ) -> None:
        super().__init__()
        random = np.random.default_rng({"train": 1, "val": 2, "test": 3, "all": 4}[split])
        centres = np.random.default_rng(0).normal(size=(classes, 4)) * 2
        self.y = np.arange(size) % classes
        self.x = (centres[self.y] + spread * random.normal(size=(size, 4))).astype(np.float32)
        self.y = np.where(np.arange(size) < unlabelled, -1, self.y)

    def __len__(self) -> int:
        return len(self.y)

    def fetch(self, indices: np.ndarray) -> Batch:
        return {
            "toy": torch.from_numpy(self.x[indices]),
            "label": torch.from_numpy(self.y[indices]),
            "index": torch.from_numpy(indices),
        }


def features(x: Any, y: Any) -> Features:
    labels = torch.as_tensor(y).long()
    return Features(torch.as_tensor(np.asarray(x), dtype=torch.float32), labels, torch.arange(len(labels)))


def clouds(n: int, classes: int = 3, dims: int = 5, spread: float = 1.0, seed: int = 0) -> Features:
    """Overlapping Gaussian clouds."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dims))
    y = random.integers(0, classes, n)
    return features(centres[y] + spread * random.normal(size=(n, dims)), y)
