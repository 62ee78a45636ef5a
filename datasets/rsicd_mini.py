"""RSICD in small: 2,413 aerial images with five captions each, in ``$PERCEPTION_DATA/remote_sensing``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.datasets.base import data_root
from perception.datasets.caption_records import read_json
from perception.datasets.captions import CaptionedImages
from perception.datasets.class_names import FILE, LANGUAGES, ClassNames, read_class_names
from perception.datasets.image_files import FileBytes, LazyImages
from perception.datasets.images import check_split, missing_files
from perception.errors import ConfigError, Fault, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform

AREA = "remote_sensing"
HINT = "It must hold rsicd_mini/captions.json and rsicd_mini/images; without it use LandCover (embedded)."
FOLDER = "rsicd_mini"
# Channel statistics of the train split at 64 px, in units of 255.
MEAN, STD = (0.4032, 0.4135, 0.3725), (0.1999, 0.1758, 0.1757)


@DATASETS.register_module()
class RSICDMini(CaptionedImages):
    """Part of RSICD ("Exploring Models and Data for Remote Sensing Image Caption Generation", Lu et al., 2018).

    1,200 train, 120 validation and all 1,093 official test images, 112 x 112, 30 classes. They are held against their
    checksums, decoded once and scaled by area averaging, which is antialiased. Images with a number for a name (66 of
    the test split) have no class: their label is -1.

    Args:
        split: ``train``, ``val`` or ``test``.
        size: height and width in pixels.
        languages: languages of the captions. The published ones are English.
        captions: ``published``: five per image, lower case, " ." at the end. ``class_names``: one per language, a
            template with the class's name; images without a class are left out, and their number is reported.
        root: folder that holds ``rsicd_mini``; ``None`` is ``$PERCEPTION_DATA/remote_sensing``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    SPLITS = ("train", "val", "test")
    CAPTIONS = ("published", "class_names")

    def __init__(
        self,
        split: str = "train",
        size: int = 64,
        languages: Sequence[str] = ("en",),
        captions: str = "published",
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_split(split, self.SPLITS)
        given = {"size": size, "languages": languages, "captions": captions}
        faults = [Fault(key, given[key], text) for key, text in self._faults(given)]
        if faults:
            raise ConfigError(faults, "RSICDMini")
        folder = data_root(root, AREA, HINT)
        file = folder / FOLDER / "captions.json"
        content = read_json(file, ("classes", "images"))
        classes = tuple(content["classes"])
        entries = [entry for entry in content["images"] if entry["split"] == split]
        if captions == "class_names":
            named = [entry for entry in entries if entry["class_name"] is not None]
            if len(named) < len(entries):
                text = f"{file}: left out {len(entries) - len(named)} of {len(entries)} {split} images without a class"
                print_log(text, logger="current", level=30)  # logging.WARNING
            names = read_class_names("rsicd30", languages, str(folder))
            entries, texts = named, [names.captions(entry["class_name"]) for entry in named]
        else:
            texts = [[("en", text) for text in entry["captions"]] for entry in entries]
        files = [folder / FOLDER / "images" / entry["filename"] for entry in entries]
        labels = np.array([-1 if e["class_name"] is None else classes.index(e["class_name"]) for e in entries])
        super().__init__(
            LazyImages(FileBytes(files, [entry.get("sha256") for entry in entries]), size).load(),
            texts,
            [path.name for path in files],
            classes,
            labels,
            ("RSICD",),
            transforms,
            seed,
        )
        self.split = split
        self._root = str(folder)

    @cached_property
    def _names(self) -> ClassNames | None:
        file = Path(self._root) / FILE
        return read_class_names("rsicd30", LANGUAGES, self._root) if file.is_file() else None

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Per language the names of the classes in label order; empty without the file of names."""
        return {} if self._names is None else dict(self._names.names)

    @property
    def class_templates(self) -> dict[str, str]:
        """Per language a text with ``{}`` in place of the name; empty without the file of names."""
        return {} if self._names is None else dict(self._names.templates)

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["size"] < 1:
            yield "size", "must be positive"
        if cfg["captions"] not in cls.CAPTIONS:
            yield "captions", not_among(cfg["captions"], cls.CAPTIONS)
        known = ("en",) if cfg["captions"] == "published" else LANGUAGES
        unknown = [language for language in cfg["languages"] if language not in known]
        if unknown or not cfg["languages"]:
            beyond = " (captions='class_names' has ten)" if cfg["captions"] == "published" else ""
            yield "languages", f"must be some of {', '.join(known)}{beyond}"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, languages or captions, missing files."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)
        yield from missing_files(cfg, data_root(cfg["root"], AREA, HINT) / FOLDER, ("captions.json",))
