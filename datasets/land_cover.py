"""The embedded default of remote sensing: procedural land-cover tiles with captions in six languages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from perception.datasets.captions import CaptionedImages
from perception.datasets.images import check_split
from perception.datasets.land_cover_canvas import Canvas
from perception.datasets.land_cover_scenes import SCENES
from perception.datasets.land_cover_texts import CLASSES, LANGUAGES, TEMPLATES, caption, phrases
from perception.errors import ConfigError, Fault
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.captions import Caption

VALUES = 3  # of each of the two properties of a scene
COMBINATIONS = len(CLASSES) * VALUES**2
COUNTS = {"train": 12 * COMBINATIONS, "val": 2 * COMBINATIONS, "test": 4 * COMBINATIONS}
BLOCK = 4  # tiles drawn together
MEAN, STD = (0.5375, 0.5476, 0.4534), (0.2360, 0.1871, 0.2167)  # of the train split at 64 px, in units of 255


@DATASETS.register_module()
class LandCover(CaptionedImages):
    """Aerial scenes drawn by a program: nothing to download, for demos, tests and first steps.

    Twelve classes (forest, river, farmland, residential, highway, lake, industrial, beach, desert, orchard, parking,
    mountain). A scene has two further properties of three values each, such as what a river flows through and whether
    it has a bridge; the 108 combinations are equally frequent. In every language an image has three captions: with
    both properties, with the first, with the second. They hold after flips and turns.

    Args:
        split: ``train`` 1,296, ``val`` 216 or ``test`` 432 images, from streams of random numbers of their own.
        size: height and width in pixels.
        count: another number of images; the first of a longer set are those of a shorter one.
        languages: languages of the captions, out of en, pt, es, fr, de, zh.
        tile_seed: seed of the scenes.
        transforms: see ``Dataset``.
        seed: see ``Dataset``; it does not change the scenes.

    Attributes:
        properties: (n, 2) int64 values of the two properties.
        class_names: per language the names of the classes in label order.
        class_templates: per language a text with ``{}`` in place of the name.
    """

    SPLITS = ("train", "val", "test")

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        count: int | None = None,
        languages: Sequence[str] = LANGUAGES,
        tile_seed: int = 0,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        given = {"size": size, "count": count, "languages": languages, "tile_seed": tile_seed}
        faults = [Fault(key, given[key], text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "LandCover")
        number = COUNTS[split] if count is None else count
        index = np.arange(number)
        labels = index % len(CLASSES)
        combination = index // len(CLASSES) % VALUES**2
        self.properties = np.stack([combination // VALUES, combination % VALUES], axis=1)
        images = draw(self.SPLITS.index(split), number, size, tile_seed)
        templates = np.random.default_rng([tile_seed, self.SPLITS.index(split), 1]).integers(
            0, len(TEMPLATES["en"]), (number, len(LANGUAGES), 3)
        )
        captions = [
            _captions(CLASSES[label], int(first), int(second), languages, chosen)
            for label, (first, second), chosen in zip(labels, self.properties, templates, strict=True)
        ]
        names = [f"{CLASSES[label]}_{split}_{i:05d}" for i, label in enumerate(labels)]
        super().__init__(images, captions, names, CLASSES, labels, ("LandCover",), transforms, seed)
        self.split = split
        self.class_names = {lang: tuple(phrases(name, lang)[0] for name in CLASSES) for lang in languages}
        self.class_templates = {lang: TEMPLATES[lang][0] for lang in languages}

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["size"] < 8:
            yield "size", "must be at least 8"
        if cfg["count"] is not None and cfg["count"] < 1:
            yield "count", "must be positive"
        if not cfg["languages"] or any(language not in LANGUAGES for language in cfg["languages"]):
            yield "languages", f"must be some of {', '.join(LANGUAGES)}"
        if cfg["tile_seed"] < 0:
            yield "tile_seed", "must not be negative"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or languages, sizes that cannot be."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)


def _captions(name: str, first: int, second: int, languages: Sequence[str], templates: np.ndarray) -> list[Caption]:
    found = []
    for language in languages:
        chosen = templates[LANGUAGES.index(language)].tolist()
        for said, template in zip(((first, second), (first, None), (None, second)), chosen, strict=True):
            found.append((language, caption(name, language, *said, template)))
    return found


@lru_cache(maxsize=8)
def draw(stream: int, number: int, size: int, tile_seed: int) -> np.ndarray:
    """The first ``number`` tiles of a stream: (number, 3, size, size) uint8, drawn once in a process."""
    images = np.empty((number, 3, size, size), dtype=np.uint8)
    index = np.arange(number)
    group = index % len(CLASSES) * VALUES**2 + index // len(CLASSES) % VALUES**2
    for label, name in enumerate(CLASSES):
        for combination in range(VALUES**2):
            rows = np.flatnonzero(group == label * VALUES**2 + combination)
            for start in range(0, len(rows), BLOCK):  # by blocks, so that a longer set starts as a shorter one does
                rng = np.random.default_rng([tile_seed, stream, label, combination, start])
                canvas = Canvas(BLOCK, size, rng)
                SCENES[name](canvas, combination // VALUES, combination % VALUES)
                block = rows[start : start + BLOCK]
                images[block] = canvas.finish()[: len(block)]
    images.setflags(write=False)
    return images
