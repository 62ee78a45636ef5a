"""One pass over small images in memory: our whole-batch loader against torchvision's sample-by-sample pipeline."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perception.datasets.images import ArrayImages
from perception.engine.data import build_dataloader
from perception.transforms.image_preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocess

from .harness import Contender, Step, Target, compare

COUNT, SIZE, BATCH = 4096, 32, 256
NAMES = ("perception loader", "torchvision loader")


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Random images ``(n, 3, H, W)`` uint8 and labels ``(n,)``."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (COUNT, 3, SIZE, SIZE), dtype=np.uint8), random.integers(0, 10, COUNT)


def build_ours(device: str) -> Step:
    """Padded crop, flip and normalisation of whole batches."""
    transforms = [{"type": "RandomCropPad", "padding": 4}, {"type": "RandomFlip"}]
    dataset = ArrayImages(*pixels(), classes=[str(c) for c in range(10)], transforms=transforms)
    options = {"dataset": dataset, "batch_size": BATCH, "num_workers": 0}
    loader = build_dataloader(options, seed=0, training=True)
    record = ImagePreprocess(size=(SIZE, SIZE))

    def step() -> int:
        return sum(len(record({**b, "image": b["image"].to(device)})["image"]) for b in loader)

    return step


class SampleBySample(Dataset):
    """The usual torchvision data set: one PIL image at a time through a chain of transforms."""

    def __init__(self) -> None:
        from PIL import Image
        from torchvision import transforms

        images, self.labels = pixels()
        self.images = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        chain = [transforms.RandomCrop(SIZE, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*chain, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def build_peer(device: str) -> Step:
    """The same augmentation with torchvision and the default collate."""
    torch.manual_seed(0)
    loader: DataLoader[Any] = DataLoader(SampleBySample(), batch_size=BATCH, shuffle=True)
    return lambda: sum(len(images.to(device)) for images, _ in loader)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most half as long."""
    contenders = [Contender(NAMES[0], build_ours), Contender(NAMES[1], build_peer)]
    result = compare(contenders, [Target(*NAMES, limit=0.5)], args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = [f"one step = one epoch of {COUNT} images of {SIZE} px, batch {BATCH}, no workers"]
    return result
