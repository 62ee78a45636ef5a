"""Lists of videos: csv files with a header, plain lists with or without frame numbers, and their labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from perception.datasets.video_frames import VideoRecord
from perception.errors import DataError, not_among

PATH_COLUMNS = ("path", "file", "video")


@dataclass(frozen=True)
class Row:
    """One line of a list, labels as written.

    Attributes:
        path: as written.
        label: as written, "" where there is none.
        first: number of the first frame from 0.
        count: number of frames, ``None`` for all.
        line: in the file, from 1.
    """

    path: str
    label: str
    first: int
    count: int | None
    line: int


def read_manifest(
    path: Path, root: str | None, split: str | None, classes: Sequence[str], first_label: int
) -> tuple[list[VideoRecord], tuple[str, ...]]:
    """Videos and class names of a list; see ``VideoManifest``.

    Raises:
        DataError: naming the list and the line.
    """
    path = path.expanduser()
    rows = read_rows(path, split)
    base = path.parent if root is None else Path(root).expanduser()
    labels, names = numbered([row.label for row in rows], classes, first_label, str(path))
    records = [
        VideoRecord(base / row.path, label, row.first, row.count) for row, label in zip(rows, labels, strict=True)
    ]
    return records, names


def read_text(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_rows(path: Path, split: str | None = None) -> list[Row]:
    """Lines of a list.

    Raises:
        DataError: it cannot be read, is empty, has no such split, or a line says something else than the others.
    """
    lines = read_text(path)
    filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise DataError(f"list {str(path)!r} is empty")
    header = [name.strip().lower() for name in next(csv.reader([lines[filled[0] - 1]]))]
    if any(name in PATH_COLUMNS for name in header):
        return _with_header(path, lines, header, split)
    if split is not None:
        raise DataError(f"list {str(path)!r} has no header, and so no column 'split' to take {split!r} from")
    rows = [_plain(lines[number - 1].strip(), number, path) for number in filled]
    labelled = [row for row in rows if row.label]
    if 0 < len(labelled) < len(rows):
        odd = next(row for row in rows if not row.label)
        raise DataError(f"list {str(path)!r}, line {odd.line}: there is no label, other lines have one")
    return rows


def _with_header(path: Path, lines: list[str], header: list[str], split: str | None) -> list[Row]:
    place = next(i for i, name in enumerate(header) if name in PATH_COLUMNS)
    if split is not None and "split" not in header:
        raise DataError(f"list {str(path)!r} has no column 'split'; it has {', '.join(header)}")
    table = [(number, cells) for number, cells in enumerate(csv.reader(lines), start=1) if cells][1:]
    for number, cells in table:
        if len(cells) != len(header):
            raise DataError(f"list {str(path)!r}, line {number}: {len(cells)} columns, the header has {len(header)}")
    if split is not None:
        column = header.index("split")
        splits = sorted({cells[column] for _, cells in table})
        if split not in splits:
            raise DataError(f"list {str(path)!r} has no split {split!r}: it is {not_among(split, splits)}")
        table = [(number, cells) for number, cells in table if cells[column] == split]
    label = header.index("label") if "label" in header else None
    return [
        Row(cells[place].strip(), "" if label is None else cells[label].strip(), 0, None, number)
        for number, cells in table
    ]


def _plain(line: str, number: int, path: Path) -> Row:
    """``path [label]``, ``path frames label`` or ``path first last label``; numbers are read from the right."""
    mark = "," if "," in line else "\t" if "\t" in line else None
    cells = [cell.strip() for cell in line.split(mark)] if mark else line.split()
    tail: list[str] = []
    while len(cells) > 1 and len(tail) < 3 and re.fullmatch(r"-?\d+", cells[-1]):
        tail.insert(0, cells.pop())
    if not tail and mark and len(cells) == 2:  # a label that is a name
        return Row(cells[0], cells[1], 0, None, number)
    if mark and len(cells) > 1:
        raise DataError(f"list {str(path)!r}, line {number}: {len(cells) + len(tail)} columns, not path and label")
    name = cells[0] if mark else line.rsplit(maxsplit=len(tail))[0] if tail else line
    if len(tail) < 2:
        return Row(name, tail[0] if tail else "", 0, None, number)
    first, count = (1, int(tail[0])) if len(tail) == 2 else (int(tail[0]), int(tail[1]) - int(tail[0]) + 1)
    if first < 1 or count < 1:
        raise DataError(f"list {str(path)!r}, line {number}: frames {tail[:-1]} are no range that starts at 1 or later")
    return Row(name, tail[-1], first - 1, count, number)


def numbered(
    labels: Sequence[str], classes: Sequence[str], first_label: int, source: str
) -> tuple[list[int], tuple[str, ...]]:
    """Class numbers from 0 and class names of labels as they are written; -1 for labels that are empty.

    Raises:
        DataError: a name that is no class, or a number out of range; where the list counts from 1, it says so.
    """
    if not any(labels):
        return [-1] * len(labels), tuple(classes)
    if not all(re.fullmatch(r"-?\d+", label) for label in labels):
        names = tuple(classes) or tuple(sorted(set(labels)))
        places = {name: number for number, name in enumerate(names)}
        for label in labels:
            if label not in places:
                raise DataError(f"{source}: label {label!r} is {not_among(label, names)}")
        return [places[label] for label in labels], names
    numbers = [int(label) - first_label for label in labels]
    if min(numbers) < 0:
        raise DataError(f"{source}: label {min(numbers) + first_label} is below first_label={first_label}")
    if classes and max(numbers) >= len(classes):
        hint = ": the list may count from 1, set first_label=1" if first_label == 0 and min(numbers) > 0 else ""
        raise DataError(
            f"{source}: label {max(numbers) + first_label} is out of range for {len(classes)} classes{hint}"
        )
    if not classes and first_label == 0 and min(numbers) == 1:
        text = f"{source}: no label is 0; if the list counts from 1, set first_label=1, or class 0 stays empty"
        print_log(text, logger="current", level=30)  # logging.WARNING
    return numbers, tuple(classes) or tuple(str(n + first_label) for n in range(max(numbers) + 1))
