"""The base of data sets of images with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from perception.datasets.base import Dataset
from perception.datasets.images import check_labels
from perception.errors import DataError
from perception.transforms.base import Transform
from perception.transforms.captions import Caption
from perception.transforms.preprocess import Batch


class ImageSource(Protocol):
    """Where images that do not lie in memory are read from."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Tensor | list[Tensor]:
        """Images at ``indices``: uint8 (n, C, H, W), or a list of (C, H, W) where their sizes differ."""


class CaptionedImages(Dataset):
    """Images, each with any number of captions in any number of languages.

    Args:
        images: uint8 (n, C, H, W) in memory, a source that reads them when they are asked for, or None: texts alone.
        captions: per image its (language, text) pairs; a list, or what reads them when they are asked for.
        names: per image the file name, which the leak checker compares.
        classes: class names in label order.
        labels: (n,) int64, -1 = none. None: all -1.
        sources: the public corpora that the images come from, for the warning about overlapping data sets.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
        languages: all languages of the captions; None looks for them, in order of first appearance.
    """

    modality: ClassVar[str] = "image"
    captioned: ClassVar[bool] = True

    def __init__(
        self,
        images: np.ndarray | ImageSource | None,
        captions: Sequence[list[Caption]],
        names: Sequence[str],
        classes: Sequence[str] = (),
        labels: np.ndarray | None = None,
        sources: Sequence[str] = (),
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
        languages: Sequence[str] | None = None,
    ) -> None:
        super().__init__(transforms, seed)
        kind = type(self).__name__
        self.images = images
        self.captions = captions
        self.names = [str(name) for name in names]
        self.classes = tuple(str(name) for name in classes)
        self.sources = tuple(sources)
        count = len(captions)
        if len(self.names) != count or (images is not None and len(images) != count):
            held = "no" if images is None else len(images)
            raise DataError(f"{kind}: {held} images, {len(self.names)} names and {count} lists of captions")
        if labels is None:
            labels = np.full(count, -1, dtype=np.int64)
        self.labels = check_labels(np.asarray(labels), count, len(self.classes), kind)
        if languages is None:
            languages = list(dict.fromkeys(language for pairs in captions for language, _ in pairs))
        self.languages = tuple(languages)

    def __len__(self) -> int:
        return len(self.captions)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``image`` (n, C, H, W) uint8, ``captions`` n lists of (language, text), ``index`` and ``label`` (n,) int64.

        Without classes there is no ``label``, without images no ``image``; images of different sizes are a list.
        """
        batch: Batch = {
            "captions": list(map(self.captions.__getitem__, indices.tolist())),
            "index": torch.from_numpy(indices),
        }
        if isinstance(self.images, np.ndarray):
            batch["image"] = torch.from_numpy(self.images[indices])
        elif self.images is not None:
            batch["image"] = self.images.read(indices)
        if self.classes:
            batch["label"] = torch.from_numpy(self.labels[indices])
        return batch
