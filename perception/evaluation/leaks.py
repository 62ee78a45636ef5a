"""Images of a training set that are in a test set too, by what they look like and by what they are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.image_files import FileBytes, LazyImages
from perception.datasets.image_folder import images_in
from perception.errors import DataError
from perception.evaluation.perceptual_hash import SIDE, hash_thumbnails, near_pairs, thumbnails, turned

THRESHOLD = 2  # RemoteCLIP's
SHOWN = 20
CORRELATED = 16  # side of the pictures whose correlation is reported
FLAT = 2.0  # grey levels: a picture with a smaller standard deviation has next to nothing to hash
BLOCK = 256


@dataclass
class Pictures:
    """What is compared of a set of images.

    Attributes:
        title: of the set.
        names: (n) file names.
        small: (n, 32, 32) float32 luminance, or None where there are names alone.
    """

    title: str
    names: list[str]
    small: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flat(self) -> int:
        """Pictures that are of one grey, so that their hash says little."""
        return 0 if self.small is None else int((self.small.std((1, 2)) < FLAT).sum())


@dataclass(frozen=True)
class Pair:
    """Two images that may be one.

    Attributes:
        first: name in the first set.
        second: name in the second.
        distance: bits in which their hashes differ, None where it is above the threshold or unknown.
        same_name: whether the file names agree up to suffix, folder and case.
        correlation: of the two pictures at 16 x 16, in [-1, 1], None for names alone.
    """

    first: str
    second: str
    distance: int | None
    same_name: bool
    correlation: float | None


@dataclass
class Leaks:
    """Outcome of a comparison.

    Attributes:
        first: title of the first set.
        second: title of the second.
        counts: images of both.
        flat: images of one grey in both.
        numbers: names of the first set that are a number alone, which says nothing and is not compared.
        threshold: bits allowed.
        turns: whether flips and turns were compared too.
        pairs: what was found, nearest first.
    """

    first: str
    second: str
    counts: tuple[int, int]
    flat: tuple[int, int]
    numbers: int
    threshold: int
    turns: bool
    pairs: list[Pair] = field(default_factory=list)

    def names(self) -> list[str]:
        """Names of the first set that leak, each once."""
        return list(dict.fromkeys(pair.first for pair in self.pairs))

    def summary(self) -> dict[str, int]:
        """Images of the first set by what gives them away."""
        looks = {pair.first for pair in self.pairs if pair.distance is not None}
        called = {pair.first for pair in self.pairs if pair.same_name}
        second = {pair.second for pair in self.pairs}
        return {
            "leaking": len(looks | called),
            "by_hash": len(looks),
            "by_name": len(called),
            "by_both": len(looks & called),
            "leaked_to": len(second),
        }

    def report(self) -> str:
        """The outcome for people."""
        found = self.summary()
        turns = " or turned" if self.turns else ""
        lines = [
            f"{self.first}: {self.counts[0]:,} images; {self.second}: {self.counts[1]:,} images; "
            f"hashes of 64 bits, at most {self.threshold} different{turns}",
            f"leaking: {found['leaking']:,} of the first, {found['leaked_to']:,} of the second "
            f"(by hash {found['by_hash']:,}, by name {found['by_name']:,}, by both {found['by_both']:,})",
        ]
        if self.numbers:
            lines.append(f"{self.numbers:,} names of the first are a number alone and were not compared")
        if any(self.flat):
            lines.append(f"of one grey, so that a hash says little: {self.flat[0]:,} and {self.flat[1]:,} images")
        if self.pairs:
            lines.append(f"{'first':32} {'second':32} {'bits':>4} {'name':>5} {'correlation':>11}")
        for pair in self.pairs[:SHOWN]:
            bits = "-" if pair.distance is None else str(pair.distance)
            alike = "-" if pair.correlation is None else f"{pair.correlation:.3f}"
            same = "same" if pair.same_name else "-"
            lines.append(f"{pair.first:32} {pair.second:32} {bits:>4} {same:>5} {alike:>11}")
        if len(self.pairs) > SHOWN:
            lines.append(f"and {len(self.pairs) - SHOWN:,} more pairs")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        pairs = [vars(pair) for pair in self.pairs]
        content = {**{k: v for k, v in vars(self).items() if k != "pairs"}, "summary": self.summary(), "pairs": pairs}
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def save_exclusions(self, path: str | Path) -> None:
        """Write the names of the first set that leak, as ``exclude=`` of the caption data sets reads them."""
        why = {pair.first: pair for pair in reversed(self.pairs)}
        lines = [f"# {len(why)} images of {self.first} that are in {self.second}, {self.threshold} bits"]
        for name in self.names():
            pair = why[name]
            lines.append(f"{name}  # {pair.second}" + ("" if pair.distance is None else f", {pair.distance} bits"))
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def look_at_files(paths: Sequence[Path], title: str, names: Sequence[str] | None = None) -> Pictures:
    """Read image files.

    Raises:
        DataError: a file that is no image, named.
    """
    if not paths:
        raise DataError(f"{title} names no image")
    lazy = LazyImages(FileBytes(paths), None)
    small = [thumbnails(lazy.read(rows)) for rows in _blocks(len(paths))]
    return Pictures(title, [path.name for path in paths] if names is None else list(names), np.concatenate(small))


def look_at_folder(folder: str | Path) -> Pictures:
    """Read all images below a folder; their names are those below it."""
    folder = Path(folder).expanduser()
    paths = images_in(folder, recursive=True)
    return look_at_files(paths, str(folder), [path.relative_to(folder).as_posix() for path in paths])


def look_at_list(file: str | Path) -> Pictures:
    """Read the images that a text file names, one path a line, relative ones from the file's folder."""
    file = Path(file).expanduser()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of images {str(file)!r} cannot be read: {error}") from error
    return look_at_files([file.parent / line for line in lines if line], str(file), [line for line in lines if line])


def look_at_dataset(dataset: Any, title: str | None = None) -> Pictures:
    """Look at the raw images of a data set; one of texts alone is compared by name.

    Names are its ``names``, the paths of its ``files``, or else positions, which are not compared.
    """
    if title is None:
        title = f"{type(dataset).__name__} {getattr(dataset, 'split', '') or ''}".strip()
    names = getattr(dataset, "names", None)
    if names is None and hasattr(dataset, "files"):
        names = [str(path) for path in dataset.files]
    names = [str(i) for i in range(len(dataset))] if names is None else [str(name) for name in names]
    small = []
    for rows in _blocks(len(dataset)):
        batch = dataset.fetch(rows)
        if "image" not in batch:
            return Pictures(title, names, None)
        small.append(thumbnails(batch["image"]))
    return Pictures(title, names, np.concatenate(small))


def _blocks(count: int) -> Iterable[np.ndarray]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def find_leaks(
    first: Pictures, second: Pictures | None = None, threshold: int = THRESHOLD, turns: bool = False
) -> Leaks:
    """Images of ``first`` that are in ``second`` too.

    Args:
        first: the set to clean, such as the training images.
        second: the set to keep apart, such as the test images. None looks for pairs within ``first``; of each pair the
            later image counts as the leaking one.
        threshold: bits in which the hashes of a pair may differ.
        turns: also compare the flips and right-angle turns of ``first``.

    Raises:
        DataError: a threshold that cannot be.
    """
    if not 0 <= threshold <= 32:
        raise DataError(f"threshold = {threshold}: hashes have 64 bits, of which 0 to 32 may differ")
    within = second is None
    second = first if second is None else second
    found: dict[tuple[int, int], int | None] = {}
    if first.small is not None and second.small is not None:
        hashes = hash_thumbnails(second.small)
        for pictures in turned(first.small) if turns else [first.small]:
            for row, column, bits in zip(*near_pairs(hash_thumbnails(pictures), hashes, threshold), strict=True):
                pair = int(row), int(column)
                known = found.get(pair)
                found[pair] = int(bits) if known is None else min(int(bits), known)
    stems = [_stem(name) for name in first.names]
    others: dict[str, list[int]] = {}
    for column, name in enumerate(second.names):
        others.setdefault(_stem(name), []).append(column)
    same = {(row, column) for row, stem in enumerate(stems) if _telling(stem) for column in others.get(stem, ())}
    for pair in same:
        found.setdefault(pair, None)
    if within:
        found = {(row, column): bits for (row, column), bits in found.items() if row > column}
    order = sorted(found, key=lambda pair: (65 if (bits := found[pair]) is None else bits, pair))
    correlation = _correlations(first, second, order)
    pairs = [
        Pair(first.names[row], second.names[column], found[row, column], (row, column) in same, correlation[i])
        for i, (row, column) in enumerate(order)
    ]
    return Leaks(
        first.title,
        "itself" if within else second.title,
        (len(first), len(second)),
        (first.flat, second.flat),
        sum(not _telling(stem) for stem in stems),
        threshold,
        turns,
        pairs,
    )


def deduplicate(
    first: Pictures, seconds: Sequence[Pictures], threshold: int = THRESHOLD, turns: bool = False
) -> list[str]:
    """Names of ``first`` that leak into any of ``seconds``, for the argument ``exclude`` of the caption data sets."""
    return list(dict.fromkeys(n for second in seconds for n in find_leaks(first, second, threshold, turns).names()))


def _stem(name: str) -> str:
    return Path(name).stem.lower()


def _telling(stem: str) -> bool:
    """Whether a name can tell an image from others: 1.tif is in every corpus."""
    return not stem.replace("_", "").replace("-", "").isdigit()


def _correlations(first: Pictures, second: Pictures, pairs: Sequence[tuple[int, int]]) -> list[float | None]:
    if first.small is None or second.small is None or not pairs:
        return [None] * len(pairs)
    rows, columns = (np.array(side) for side in zip(*pairs, strict=True))
    step = SIDE // CORRELATED

    def normal(small: np.ndarray) -> np.ndarray:
        small = small.reshape(len(small), CORRELATED, step, CORRELATED, step).mean((2, 4)).reshape(len(small), -1)
        small = small - small.mean(1, keepdims=True)
        return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-12)

    return (normal(first.small[rows]) * normal(second.small[columns])).sum(1).tolist()
