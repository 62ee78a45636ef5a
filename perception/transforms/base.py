"""The transform contract: batches of samples in, batches of samples out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


class Transform(ABC):
    """An augmentation or conversion of a RAW batch on the host, registered in ``TRANSFORMS``.

    It works on all samples of a batch at once, and takes every random number from ``random``, never from a global
    generator: the outcome for a sample is a function of (seed, epoch, index).
    """

    @abstractmethod
    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """Return the transformed batch; it may reuse the arrays of ``batch``."""

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> dict[str, tuple[int, int]] | None:
        """Sizes (rows, columns) of the images that it gives whatever it gets, by the argument that says so.

        The first is that of ``image``, any others those of further views. Empty: it leaves the size as it is; None:
        nobody knows. ``cfg`` has the defaults filled in.
        """
        return {}


class Compose(Transform):
    """Transforms one after the other."""

    def __init__(self, transforms: list[Transform]) -> None:
        self.transforms = transforms

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch."""
        for transform in self.transforms:
            batch = transform(batch, random)
        return batch

    def __repr__(self) -> str:
        return f"Compose({self.transforms})"


def identity_collate(batch: Any) -> Any:
    """Collate of data sets that give whole batches: nothing is left to do."""
    return batch
