"""Retrieval ranks of both directions in tiles, against the whole score matrix in memory."""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import torch
from torch import Tensor

from perception.evaluation.retrieval import owner_pairs, retrieval_ranks

from .harness import Contender, Step, Target, compare

IMAGES, CAPTIONS, WIDTH = 2000, 5, 512
NAMES = ("perception tiles", "whole matrix")


def gallery(images: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random features of texts and images, and the owner of each text."""
    torch.manual_seed(0)
    owner = torch.arange(images).repeat_interleave(CAPTIONS)
    return torch.randn(len(owner), width), torch.randn(images, width), owner


def build_ours(device: str) -> Step:
    """Ranks with their ties, in tiles."""
    texts, images, owner = (part.to(device) for part in gallery(IMAGES, WIDTH))
    pairs = owner_pairs(owner)
    return lambda: retrieval_ranks(texts, images, pairs)


def build_whole(device: str) -> Step:
    """The usual way: all scores, then the ten best of each row and column. It says nothing of ties."""
    texts, images, owner = (part.to(device) for part in gallery(IMAGES, WIDTH))

    def step() -> tuple[Tensor, Tensor]:
        normal = torch.nn.functional.normalize
        scores = normal(texts, dim=1) @ normal(images, dim=1).T
        own = torch.arange(IMAGES, device=device)[:, None]
        return (scores.topk(10, dim=1).indices == owner[:, None]), (owner[scores.topk(10, dim=0).indices.T] == own)

    return step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--full``."""
    parser.add_argument("--full", type=int, metavar="N", help="also N images and 5 N texts once: time and peak memory")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare; with ``--full`` measure a large gallery first, while this process holds nothing else."""
    torch.set_num_threads(args.threads)
    if args.full:
        measure(args.full)
    contenders = [Contender(NAMES[0], build_ours), Contender(NAMES[1], build_whole)]
    targets = [Target(NAMES[0], NAMES[1], 1.25)]
    return compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)


def measure(images: int) -> None:
    """Print CPU time and the peak memory of the whole process, features included."""
    texts, pictures, owner = gallery(images, WIDTH)
    size = (texts.numel() + pictures.numel()) * 4 / 1e9
    began = time.process_time()
    retrieval_ranks(texts, pictures, owner_pairs(owner))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{images:,} images x {len(texts):,} texts x {WIDTH}: {time.process_time() - began:.0f} s of CPU time, peak "
        f"{peak:.2f} GB, of which features {size:.2f} GB; the matrix would be {4e-9 * images * len(texts):.0f} GB",
        flush=True,
    )
