"""CLIP's loss alone, forward and backward: blocks that are computed again, against open_clip's two whole matrices."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perception.losses.contrastive import clip_loss

from .harness import Contender, Step, Target, compare

BATCH, WIDTH = 4096, 512
SCALE = 1 / 0.07
NAMES = ("perception blocks", "open_clip ClipLoss")


def our_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Ours."""
    return clip_loss(image, text, scale)


def open_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """open_clip's, as its training loop uses it in one process."""
    from open_clip.loss import ClipLoss

    return ClipLoss()(image, text, scale)


def build(loss: Callable[[Tensor, Tensor, Tensor], Tensor], device: str) -> Step:
    """A step that computes the loss of fixed embeddings and the gradients of both and of the scale."""
    torch.manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(BATCH, WIDTH, device=device), dim=1).requires_grad_()
        for _ in range(2)
    )
    scale = torch.tensor(SCALE, device=device, requires_grad=True)

    def step() -> Tensor:
        image.grad = text.grad = scale.grad = None
        value = loss(image, text, scale)
        value.backward()
        return value.detach()

    return step


def build_ours(device: str) -> Step:
    """Ours."""
    return build(our_loss, device)


def build_open_clip(device: str) -> Step:
    """The plain implementation."""
    return build(open_clip_loss, device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: the size is the one that the targets are set for."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """At most half of the memory and no more time."""
    contenders = [Contender(NAMES[0], build_ours), Contender(NAMES[1], build_open_clip)]
    targets = [Target(*NAMES, limit=0.5, measure="memory"), Target(*NAMES, limit=1.0)]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = [f"batch {BATCH}, {WIDTH} features, float32; embeddings and their gradients are in both peaks"]
    return result
