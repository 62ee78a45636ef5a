"""IoU of maps seen from above, by class and threshold, from counts that add over batches, ranks and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

from perception.errors import DataError

THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)  # those of BEVFusion, 2022
FIXED = 0.5
RIGHT, WRONG, MISSED = 0, 1, 2


def threshold_counts(
    probability: Tensor, target: Tensor, thresholds: Sequence[float] = THRESHOLDS, valid: Tensor | None = None
) -> Tensor:
    """Cells that are right, wrong and missed when everything from a threshold up counts as the class.

    Counts by sample let a metric leave out the samples that a distributed sampler repeats.

    Args:
        probability: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) of 0 and 1 or bool.
        thresholds: T rising numbers in (0, 1].
        valid: bool, (B, H, W) or (B, C, H, W), cells that count; None for all.

    Returns:
        (B, T, C, 3) int64 on the CPU: right, wrong, missed.

    Raises:
        DataError: shapes differ, a probability or a target is not of its kind, or the thresholds do not rise.
    """
    if probability.ndim != 4 or probability.shape != target.shape:
        raise DataError(f"maps (B, C, H, W) of one shape, got {tuple(probability.shape)} and {tuple(target.shape)}")
    if list(thresholds) != sorted(set(thresholds)) or not thresholds or not 0 < thresholds[0] <= thresholds[-1] <= 1:
        raise DataError(f"thresholds in (0, 1] that rise, got {list(thresholds)}")
    p = probability.detach().float().contiguous()
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise DataError("map probabilities lie outside [0, 1] or are NaN: pass them after the sigmoid")
    if not bool(((target == 0) | (target == 1)).all()):
        raise DataError("a map's target is 0 or 1 in every cell; mark others with valid")
    samples, classes, levels = *p.shape[:2], len(thresholds) + 1
    level = torch.bucketize(p, p.new_tensor(thresholds), right=True)  # how many thresholds it reaches
    row = torch.arange(samples * classes, device=p.device).view(samples, classes, 1, 1)
    key = (row * 2 + target.long()) * levels + level
    if valid is not None:
        valid = valid[:, None] if valid.ndim == 3 else valid
        key = key[valid.bool().expand_as(key)]
    counts = torch.bincount(key.flatten(), minlength=samples * classes * 2 * levels)
    counts = counts.view(samples, classes, 2, levels).cpu()
    reached = counts.flip(-1).cumsum(-1).flip(-1)
    right, wrong = reached[:, :, 1, 1:], reached[:, :, 0, 1:]
    return torch.stack([right, wrong, reached[:, :, 1, :1] - right], dim=-1).transpose(1, 2)


@dataclass
class BEVIoU:
    """Sums of ``threshold_counts`` over a set, and the figures that they give.

    IoU is right / (right + wrong + missed) of the sums, not a mean over samples. A class that neither occurs nor is
    predicted has none: NaN, left out of means.

    Attributes:
        classes: C names.
        thresholds: T rising numbers in (0, 1].
        counts: (T, C, 3) int64, right, wrong and missed cells.
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...] = THRESHOLDS
    counts: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        self.classes, self.thresholds = tuple(self.classes), tuple(self.thresholds)
        shape = (len(self.thresholds), len(self.classes), 3)
        if not self.counts.numel():
            self.counts = torch.zeros(shape, dtype=torch.int64)
        if tuple(self.counts.shape) != shape:
            raise DataError(f"counts have shape {tuple(self.counts.shape)}, {shape} is needed")

    def update(self, probability: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch; arguments as for ``threshold_counts``."""
        if probability.shape[1:2] != (len(self.classes),):
            raise DataError(f"maps (B, {len(self.classes)}, H, W) are needed, got {tuple(probability.shape)}")
        self.counts += threshold_counts(probability, target, self.thresholds, valid).sum(0)

    def __add__(self, other: BEVIoU) -> BEVIoU:
        """Counts of both sets together."""
        if (self.classes, self.thresholds) != (other.classes, other.thresholds):
            raise DataError("counts of different classes or thresholds cannot be added")
        return BEVIoU(self.classes, self.thresholds, self.counts + other.counts)

    def over_ranks(self) -> BEVIoU:
        """Counts of all ranks together, on every rank; the same counts without a process group."""
        counts = self.counts.clone()
        if distributed.is_available() and distributed.is_initialized():
            where = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            moved = counts.to(where)
            distributed.all_reduce(moved)
            counts = moved.cpu()
        return BEVIoU(self.classes, self.thresholds, counts)

    def iou(self) -> Tensor:
        """(T, C) float64 IoU in [0, 1]; NaN where there is nothing."""
        counts = self.counts.double()
        return counts[..., RIGHT] / counts.sum(-1)

    def at(self, threshold: float = FIXED) -> Tensor:
        """(C,) IoU at one of the thresholds.

        Raises:
            DataError: it was not counted.
        """
        if threshold not in self.thresholds:
            raise DataError(f"IoU at {threshold} was not counted, only at {', '.join(map(str, self.thresholds))}")
        return self.iou()[self.thresholds.index(threshold)]

    def best(self) -> tuple[Tensor, Tensor]:
        """(C,) the highest IoU over the thresholds and (C,) the index of its threshold, the lowest of equal ones."""
        iou = self.iou()
        index = iou.nan_to_num(-1.0).argmax(0)
        return iou.gather(0, index[None])[0], index

    def figures(self, train: BEVIoU | None = None) -> dict[str, float]:
        """Flat numbers for logs: ``miou@0.5``, ``miou@best``, ``miou@train`` and each class's.

        ``best`` takes each class's threshold from the set that it is measured on, which is optimistic and what
        BEVFusion reports; it does not compare with ``0.5``. ``train`` takes it from other counts.

        Args:
            train: counts of the training set, with the same classes and thresholds.
        """
        columns = {str(FIXED): self.at(FIXED), "best": self.best()[0]}
        if train is not None:
            if (self.classes, self.thresholds) != (train.classes, train.thresholds):
                raise DataError("thresholds can only be picked on counts of the same classes and thresholds")
            columns["train"] = self.iou().gather(0, train.best()[1][None])[0]
        found = {f"miou@{name}": float(values.nanmean()) for name, values in columns.items()}
        for name, values in columns.items():
            found |= {f"iou@{name}/{c}": float(v) for c, v in zip(self.classes, values, strict=True)}
        return found
