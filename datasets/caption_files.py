"""Data sets from a caption file and a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.caption_readers import read_captions, translate
from perception.datasets.caption_records import POLICIES, Cleaner, Record, choose_split, class_list, read_exclusions
from perception.datasets.captions import CaptionedImages, ImageSource
from perception.datasets.image_files import FileBytes, LazyImages
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.captions import TEXT_FORMS
from perception.transforms.image_preprocess import INTERPOLATIONS

IN_MEMORY_BYTES = 512 * 2**20  # decoded images up to here are held in memory unless the user says otherwise
LabelRule = Callable[[str], str | None]


@DATASETS.register_module()
class CaptionFiles(CaptionedImages):
    """Any caption file beside any folder of images; the layout of the file is told by itself (``caption_readers``).

    Nothing is dropped or replaced unless an argument says so, and what is dropped is counted and named.

    Args:
        file: the caption file, or a folder of text files.
        images: folder of the images.
        split: a split that the file names, or several; None takes all.
        translations: a sidecar ``{filename: {language: [texts]}}``, or ``{language: caption file}``.
        language: language of texts that the file does not say the language of.
        languages: languages to keep; None keeps all.
        text_form: ``as_is``, ``capitalize``, ``no_stop`` or ``spaced_stop``, see ``apply_text_form``.
        classes: class names in label order; None takes the sorted names that occur in the file's whole list.
        missing: ``error``, or ``drop`` for images that are named but not there.
        empty: ``error``, or ``drop`` for blank captions and for images without one.
        exclude: file names to leave out, or a text file of them, such as ``tools/leak_check.py`` writes.
        size: height and width that every image is scaled to cover, and centre-cropped to. None leaves them as they are.
        interpolation: ``area``, ``nearest``, ``bilinear`` or ``bicubic``, the latter two antialiased.
        in_memory: decode all images once, or each when asked for. None: all at once up to 512 MB.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        left_out: per reason the names of the images that were left out.
    """

    def __init__(
        self,
        file: str,
        images: str,
        split: str | Sequence[str] | None = None,
        translations: str | Mapping[str, str] | None = None,
        language: str = "en",
        languages: Sequence[str] | None = None,
        text_form: str = "as_is",
        classes: Sequence[str] | None = None,
        missing: str = "error",
        empty: str = "error",
        exclude: str | Sequence[str] | None = None,
        size: int | None = 224,
        interpolation: str = "bicubic",
        in_memory: bool | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        options = {
            "text_form": text_form,
            "missing": missing,
            "empty": empty,
            "size": size,
            "interpolation": interpolation,
            "in_memory": in_memory,
        }
        require(type(self).__name__, options)
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise DataError(f"folder of images {str(folder)!r} does not exist")
        texts = Texts(file, split, translations, language, languages, text_form, classes, missing, empty, exclude)
        texts.load(folder)
        self._finish(texts, folder, options, (), transforms, seed)

    def _finish(
        self,
        texts: Texts,
        folder: Path,
        options: Mapping[str, Any],
        sources: Sequence[str],
        transforms: Sequence[Transform | dict[str, Any]],
        seed: int,
    ) -> None:
        """What the constructors of all caption data sets with image files have in common."""
        lazy = LazyImages(
            FileBytes([folder / record.filename for record in texts.records]),
            options["size"],
            options["interpolation"],
        )
        images: np.ndarray | ImageSource = lazy
        size, in_memory = options["size"], options["in_memory"]
        if size is not None and (in_memory or (in_memory is None and len(lazy) * 3 * size**2 <= IN_MEMORY_BYTES)):
            images = lazy.load()
        CaptionedImages.__init__(
            self, images, texts.captions, texts.names, texts.classes, texts.labels, sources, transforms, seed
        )
        self.left_out = texts.left_out
        self.split = texts.split or "all"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: missing file or folder, unknown choices."""
        yield from option_faults(cfg)
        yield from file_faults(cfg)
        if not Path(cfg["file"]).expanduser().exists():
            yield "file", "does not exist"
        if not Path(cfg["images"]).expanduser().is_dir():
            yield "images", "no such folder"


class Texts:
    """Names, captions and labels of one split of a caption file; arguments as those of ``CaptionFiles``.

    Args:
        rule: class name from a file name, for corpora whose file does not say it.
    """

    def __init__(
        self,
        file: str | Path,
        split: str | Sequence[str] | None = None,
        translations: str | Mapping[str, str] | None = None,
        language: str = "en",
        languages: Sequence[str] | None = None,
        text_form: str = "as_is",
        classes: Sequence[str] | None = None,
        missing: str = "error",
        empty: str = "error",
        exclude: str | Sequence[str] | None = None,
        rule: LabelRule | None = None,
    ) -> None:
        self.source = str(file)
        self.split, self.languages, self.text_form = split, languages, text_form
        self.cleaner = Cleaner(self.source, missing, empty)
        self.exclude = read_exclusions(exclude)
        records = read_captions(file, language)
        if isinstance(translations, str):
            records = translate(records, translations)
        for name, path in (translations or {}).items() if not isinstance(translations, str) else ():
            records = translate(records, path, name)
        if rule is not None:
            records = [replace(record, label=rule(record.filename)) for record in records]
        # The class list is that of the whole file, so that a split without some class numbers the others alike.
        self.classes, _ = class_list(records, classes, self.source)
        self.records: list[Record] = records

    def load(self, folder: Path | None) -> None:
        """Choose the split, check it against the images in ``folder`` (None: texts alone), report what is left out."""
        chosen = choose_split(self.records, self.split, self.source)
        self.records = self.cleaner.clean(chosen, folder, self.exclude, self.languages, self.text_form)
        self.cleaner.report(len(chosen))
        self.labels = np.array(class_list(self.records, self.classes, self.source)[1], dtype=np.int64)
        self.names = [record.filename for record in self.records]
        self.captions = [record.captions for record in self.records]
        self.left_out = self.cleaner.left_out


def option_faults(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Faults of the arguments that caption data sets share, of those that ``cfg`` has."""
    choices = {
        "text_form": tuple(TEXT_FORMS),
        "missing": POLICIES,
        "empty": POLICIES,
        "interpolation": ("area", *INTERPOLATIONS),
    }
    for key, values in choices.items():
        if key in cfg and cfg[key] not in values:
            yield key, not_among(cfg[key], values)
    if cfg.get("size") is not None and cfg["size"] < 1:
        yield "size", "must be positive, or None for images as they are"
    if cfg.get("in_memory") and cfg["size"] is None:
        yield "in_memory", "images are held in memory at one size only: set size"


def file_faults(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Files that the shared arguments name and that are not there."""
    translations = cfg["translations"]
    by_key = {"translations": translations} if isinstance(translations, str) else {}
    if isinstance(translations, Mapping):
        by_key = {f"translations.{language}": path for language, path in translations.items()}
    if isinstance(cfg["exclude"], str):
        by_key["exclude"] = cfg["exclude"]
    hint = {"exclude": "; tools/leak_check.py writes such a file"}
    for key, path in by_key.items():
        if not Path(path).expanduser().exists():
            yield key, f"does not exist{hint.get(key, '')}"


def require(kind: str, options: Mapping[str, Any]) -> None:
    """Raise a ``ConfigError`` with the faults of ``options``, if there are any."""
    faults = [Fault(key, options[key], text) for key, text in option_faults(options)]
    if faults:
        raise ConfigError(faults, kind)
