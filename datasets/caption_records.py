"""Caption files in memory: one record per image, and the checks that nothing wrong passes unnoticed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from perception.errors import DataError, nearest
from perception.transforms.captions import Caption, apply_text_form

NAMES_SHOWN = 5
POLICIES = ("error", "drop")


@dataclass(frozen=True)
class Record:
    """One image of a caption file.

    Attributes:
        filename: of the image, below the folder of images.
        captions: (language, text) pairs.
        split: as the file names it, "" where it names none.
        label: class name, or None.
    """

    filename: str
    captions: list[Caption]
    split: str = ""
    label: str | None = None


def read_json(path: Path, required: Sequence[str] = ()) -> Any:
    """Content of a JSON file; with ``required``, an object that has these keys.

    Raises:
        DataError: the file is missing, is no JSON, or lacks a key.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"file {str(path)!r} is no JSON: {error}") from error
    if required:
        absent = [key for key in required if not isinstance(content, dict) or key not in content]
        if absent:
            there = sorted(content)[:10] if isinstance(content, dict) else f"a {type(content).__name__}"
            raise DataError(f"file {str(path)!r} lacks {absent}; it holds {there}")
    return content


def first_names(names: Sequence[str]) -> str:
    """The first few of ``names`` and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def choose_split(records: Sequence[Record], split: str | Sequence[str] | None, source: str) -> list[Record]:
    """Records of one split or of several; None takes all.

    Raises:
        DataError: the file has no such split; the message counts those that it has.
    """
    if split is None:
        return list(records)
    wanted = (split,) if isinstance(split, str) else tuple(split)
    there = Counter(record.split for record in records)
    for name in wanted:
        if name not in there:
            near = nearest(name, there, 1)
            hint = f"; nearest is {near[0]!r}" if near else ""
            raise DataError(f"{source} has no split {name!r}, only {dict(there)}{hint}")
    return [record for record in records if record.split in wanted]


def read_exclusions(exclude: str | Sequence[str] | None) -> set[str]:
    """Names to leave out: given as they are, or a text file with one a line, ``#`` opening a comment."""
    if exclude is None:
        return set()
    if not isinstance(exclude, str):
        return {str(name) for name in exclude}
    path = Path(exclude).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"exclude={exclude!r} cannot be read: {error.strerror}") from error
    return {name for line in lines if (name := line.split("#")[0].strip())}


class Cleaner:
    """Checks records and leaves out what it is told to leave out, counting every one.

    Args:
        source: name of the caption file for messages.
        missing: what to do about images that are not there: ``error`` or ``drop``.
        empty: what to do about blank captions and images without any: ``error`` or ``drop``.

    Attributes:
        left_out: per reason the names of the images, or for blank captions of their images.
    """

    def __init__(self, source: str, missing: str = "error", empty: str = "error") -> None:
        self.source, self.missing, self.empty = source, missing, empty
        self.left_out: dict[str, list[str]] = {}

    def clean(
        self, records: list[Record], folder: Path | None, exclude: set[str], languages: Sequence[str] | None, form: str
    ) -> list[Record]:
        """Records that may be used, their texts in the form wanted.

        Args:
            records: of the split.
            folder: of the images, None for texts alone.
            exclude: file names, with or without folder, to leave out.
            languages: languages to keep, None for all.
            form: see ``apply_text_form``.

        Raises:
            DataError: duplicate names, captions that are no text, or a fault that the policies do not let pass.
        """
        counts = Counter(record.filename for record in records)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise DataError(f"{self.source} names {len(twice)} images more than once: {first_names(twice)}")
        if exclude:
            kept = [r for r in records if r.filename not in exclude and Path(r.filename).name not in exclude]
            self._note("excluded", records, kept)
            records = kept
        records = self._texts(records, languages, form)
        if folder is not None:
            records = self._files(records, folder)
        if not records:
            reasons = {reason: len(names) for reason, names in self.left_out.items()}
            raise DataError(f"{self.source}: no image is left to use; left out {reasons or 'none: it holds none'}")
        return records

    def report(self, total: int) -> None:
        """Print how many images, or captions, were left out and why."""
        for reason, names in self.left_out.items():
            text = f"{self.source}: {len(names)} of {total} images {reason}: {first_names(names)}"
            print_log(text, logger="current", level=30)  # logging.WARNING

    def _note(self, reason: str, before: Sequence[Record], after: Sequence[Record]) -> None:
        left = {record.filename for record in after}
        names = [record.filename for record in before if record.filename not in left]
        if names:
            self.left_out[reason] = names

    def _texts(self, records: list[Record], languages: Sequence[str] | None, form: str) -> list[Record]:
        wrong = [r.filename for r in records for language, text in r.captions if not isinstance(text, str)]
        if wrong:
            raise DataError(f"{self.source}: {len(wrong)} captions are no text, of {first_names(wrong)}")
        blank = [r.filename for r in records for _, text in r.captions if not text.strip()]
        if blank:
            if self.empty == "error":
                raise DataError(
                    f"{self.source}: {len(blank)} captions are empty, of {first_names(blank)}. "
                    "Set empty='drop' to leave them out."
                )
            self.left_out["have an empty caption that was dropped"] = list(dict.fromkeys(blank))
        kept = []
        for record in records:
            captions = [
                (language, apply_text_form(text, form))
                for language, text in record.captions
                if text.strip() and (languages is None or language in languages)
            ]
            if captions:
                kept.append(replace(record, captions=captions))
        self._note(f"have no caption{'' if languages is None else f' in {list(languages)}'}", records, kept)
        if len(kept) < len(records) and self.empty == "error":
            reason, names = list(self.left_out.items())[-1]
            raise DataError(
                f"{self.source}: {len(names)} images {reason}: {first_names(names)}. "
                "Set empty='drop' to leave them out."
            )
        return kept

    def _files(self, records: list[Record], folder: Path) -> list[Record]:
        parents = {(folder / record.filename).parent for record in records}
        there = {parent: _listing(parent) for parent in parents}
        kept = [r for r in records if (path := folder / r.filename).name in there[path.parent]]
        self._note("are missing", records, kept)
        if len(kept) < len(records) and self.missing == "error":
            names = self.left_out["are missing"]
            raise DataError(
                f"{self.source} names {len(names)} images that are not in {str(folder)!r}: {first_names(names)}"
                f"{_other_suffix(folder / names[0], there)}. Set missing='drop' to leave them out."
            )
        return kept


def _listing(folder: Path) -> frozenset[str]:
    """Names in a folder: one system call instead of one per image."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()  # every image of a folder that is not there is reported as missing


def _other_suffix(path: Path, there: dict[Path, frozenset[str]]) -> str:
    same = sorted(name for name in there[path.parent] if Path(name).stem == path.stem)
    return f" (there is {same[0]!r}: convert the names in the caption file or the images)" if same else ""


def class_list(
    records: Iterable[Record], classes: Sequence[str] | None, source: str
) -> tuple[tuple[str, ...], list[int]]:
    """Class names and the label of every record, -1 where it has none.

    Args:
        records: the records.
        classes: names in label order; None takes the sorted names that occur.
        source: name of the caption file for messages.

    Raises:
        DataError: a record's class is not among ``classes``.
    """
    found = [record.label for record in records]
    names = tuple(sorted({label for label in found if label is not None})) if classes is None else tuple(classes)
    index: dict[str | None, int] = {name: label for label, name in enumerate(names)}
    outside = Counter(label for label in found if label is not None and label not in index)
    if outside:
        label, _ = outside.most_common(1)[0]
        near = nearest(label, names, 1)
        hint = f"; nearest to {label!r} is {near[0]!r}" if near else ""
        raise DataError(
            f"{source}: {sum(outside.values())} images have a class outside the {len(names)} of the list: "
            f"{first_names([f'{name!r} ({count})' for name, count in outside.most_common()])}{hint}"
        )
    return names, [index.get(label, -1) if label is not None else -1 for label in found]
