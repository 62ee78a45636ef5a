"""Rows of a csv file about videos: paths, labels, groups and texts; what is missing is named or counted."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from perception.datasets.folds import grouped_folds, random_folds, side_of
from perception.datasets.video_lists import numbered
from perception.errors import DataError, nearest, not_among
from perception.transforms.names import remove_names

SPLITS = ("all", "train", "val", "test")
NOTHING = frozenset({"", "nan", "na", "n/a", "<na>", "null", "none"})
NO_TEXT = frozenset({"", "nan", "<na>"})  # "none" and "null" may be what somebody said
_SHOWN = 3


@dataclass(frozen=True)
class TableRow:
    """What a line of the file says of a video.

    Attributes:
        line: where it begins in the file, from 1; the header is line 1.
        path: as written.
        label: class number, -1 where there is none.
        group: name of the group, "" without groups.
        text: columns of text joined by ", ", names removed; "" where it is missing.
        cells: all columns as written.
    """

    line: int
    path: str
    label: int
    group: str
    text: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows that can be used, and those that cannot.

    Attributes:
        rows: in the order of the file.
        classes: class names in label order.
        dropped: reason by ``<file>, line <n>`` of every row that was left out because a cell is missing.
        order: (rows,) place of every row among all lines of the file, counted from 0.
        lines: number of those lines.
    """

    rows: list[TableRow]
    classes: tuple[str, ...]
    dropped: dict[str, str]
    order: np.ndarray
    lines: int


def expanded(path: str) -> Path:
    """A path with ``~`` and variables such as ``$PERCEPTION_DATA`` filled in.

    Raises:
        DataError: a variable is not set.
    """
    found = os.path.expandvars(os.path.expanduser(path))
    unset = re.findall(r"\$\{?(\w+)\}?", found)
    if unset:
        raise DataError(f"path {path!r} needs the variable {unset[0]}, which is not set")
    return Path(found)


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and lines of a csv file (of a ``.tsv`` file by tabs); cells may hold line breaks.

    Raises:
        DataError: it cannot be read, names a column twice or none, or a line has another number of cells.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"table {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    lines: list[tuple[int, list[str]]] = []
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"table {str(path)!r}, line {reader.line_num}: {error}") from error
    if len(lines) < 2:
        raise DataError(f"table {str(path)!r} has no rows below a header")
    header = [name.strip() for name in lines[0][1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"table {str(path)!r} names the column {twice[0]!r} twice")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(f"table {str(path)!r}, line {number}: {len(cells)} cells, the header has {len(header)}")
    return header, lines[1:]


def read_rows(
    table: str,
    path: str,
    label: str | None,
    group: str | Sequence[str] | None,
    text: str | Sequence[str] | None,
    classes: Sequence[str] | Mapping[str, Any],
    where: Mapping[str, Any] | None,
    names: Sequence[str],
    missing: str,
    missing_text: str,
    tell: bool = True,
) -> Table:
    """Rows of a file; see ``VideoTable`` for the arguments. ``tell`` prints warnings.

    Raises:
        DataError: naming the file, and the line or the column.
    """
    file = expanded(table)
    header, lines = read_csv(file)
    groups, texts = as_names(group), as_names(text)
    for column in (path, *([label] if label else []), *groups, *texts, *(where or {})):
        if column not in header:
            hint = nearest(column, header, 1)
            more = f"; nearest is {hint[0]!r}" if hint else ""
            raise DataError(f"table {str(file)!r} has no column {column!r}: it has {', '.join(header)}{more}")
    found, dropped = [], {}
    for place, (number, line) in enumerate(lines):
        cells = {name: value.strip() for name, value in zip(header, line, strict=True)}
        if not all(cells[column] in _wanted(wanted) for column, wanted in (where or {}).items()):
            continue
        lacking = [c for c in (path, *([label] if label else []), *groups) if cells[c].lower() in NOTHING]
        silent = [c for c in texts if cells[c].lower() in NO_TEXT]
        no_text = bool(texts) and len(silent) == len(texts)
        if no_text and missing_text != "keep":
            lacking += silent
        if lacking:
            how = missing_text if lacking == silent else missing
            dropped[f"{file.name}, line {number}"] = f"column {lacking[0]!r} is {cells[lacking[0]] or 'empty'!r}", how
        else:
            said = ", ".join(cells[c] for c in texts if c not in silent)
            found.append((place, number, cells, " / ".join(cells[c] for c in groups), said))
    _judge(file, dropped, len(found), tell)
    if not found:
        raise DataError(f"table {str(file)!r} has no row with {dict(where or {})!r}" if where else f"{file}: no row")
    labels = [cells[label] if label else "" for _, _, cells, _, _ in found]
    values, known = _numbers(labels, classes, [number for _, number, *_ in found], str(file))
    cleaned = remove_names([said for *_, said in found], names)
    rows = [
        TableRow(number, cells[path], value, owner, said, cells)
        for (_, number, cells, owner, _), value, said in zip(found, values, cleaned, strict=True)
    ]
    if tell:
        _tell_copies(file, rows)
    order = np.array([place for place, *_ in found], dtype=np.int64)
    return Table(rows, known, {place: reason for place, (reason, _) in dropped.items()}, order, len(lines))


def split_rows(
    rows: Sequence[TableRow],
    split: str,
    split_by: str,
    folds: int,
    fold: int,
    seed: int,
    validation: bool,
    tell: bool = True,
) -> np.ndarray:
    """Places of the rows of ``split``, ascending; see ``VideoTable``.

    Raises:
        DataError: no groups to split by, too few of them, or a part that is empty.
    """
    if split == "all":
        return np.arange(len(rows))
    labels = np.array([row.label for row in rows])
    groups = np.array([row.group for row in rows])
    if split_by == "group":
        if not groups[0]:
            raise DataError(
                f"split={split!r} keeps groups together: name their column with group=, or set split_by='random', "
                "which may put parts of one scene on both sides"
            )
        side = side_of(grouped_folds(labels, groups, folds, seed), fold, folds, validation)
    elif split_by == "random":
        side = side_of(random_folds(labels, folds, seed), fold, folds, validation)
        if tell:
            _warn(_leak(side, groups))
    else:
        side = np.array([row.cells[split_by].lower() for row in rows])
        wrong = np.flatnonzero(~np.isin(side, SPLITS[1:]))
        if len(wrong):
            row = rows[wrong[0]]
            raise DataError(f"line {row.line}: column {split_by!r} is {row.cells[split_by]!r}, not train, val or test")
        if tell and groups[0] and (shared := _shared(side, groups)):
            _warn(f"column {split_by!r} has {shared} of {len(set(groups))} groups on several sides: figures may leak")
    chosen = np.flatnonzero(side == split)
    if not len(chosen):
        raise DataError(f"no row is in the part {split!r} of the split by {split_by!r}")
    return chosen


def as_names(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    """No, one or several names as a tuple."""
    return () if columns is None else (columns,) if isinstance(columns, str) else tuple(columns)


def _wanted(value: Any) -> set[str]:
    return {str(v) for v in value} if isinstance(value, (list, tuple)) else {str(value)}


def _judge(file: Path, dropped: Mapping[str, tuple[str, str]], good: int, tell: bool) -> None:
    """Stop at what must not be missing, report what is left out."""
    fatal = {place: reason for place, (reason, how) in dropped.items() if how == "raise"}
    for faults, stop in ((fatal, True), ({p: r for p, (r, _) in dropped.items()}, False)):
        if not faults or (not stop and not tell):
            continue
        first = "; ".join(f"{place}: {reason}" for place, reason in list(faults.items())[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        share = f"{len(faults)} of {good + len(dropped)} rows"
        if stop:
            told = "missing='skip' leaves such rows out, missing_text= says what to do without a text"
            raise DataError(f"table {str(file)!r}: {share} lack a value: {first}{more}. {told}")
        _warn(f"table {str(file)!r}: left out {share} that lack a value: {first}{more}")


def _numbers(
    labels: Sequence[str], classes: Sequence[str] | Mapping[str, Any], lines: Sequence[int], file: str
) -> tuple[list[int], tuple[str, ...]]:
    """Class numbers and names; a mapping joins the values of a class."""
    if not isinstance(classes, Mapping):
        return numbered(labels, classes, 0, f"table {file!r}")
    places: dict[str, int] = {}
    for number, (name, values) in enumerate(classes.items()):
        for value in _wanted(values):
            if places.setdefault(value, number) != number:
                raise DataError(f"classes: {value!r} belongs to two classes, the second is {name!r}")
    if not any(labels):
        return [-1] * len(labels), tuple(classes)
    for label, line in zip(labels, lines, strict=True):
        if label not in places:
            raise DataError(f"table {file!r}, line {line}: label {label!r} is {not_among(label, places)}")
    return [places[label] for label in labels], tuple(classes)


def _tell_copies(file: Path, rows: Sequence[TableRow]) -> None:
    copies = len(rows) - len({(row.path, row.text, row.label) for row in rows})
    if copies:
        _warn(
            f"table {str(file)!r} has {copies} rows twice, path, text and label alike: in a test set copies make "
            "accuracy and intervals wrong; classes are balanced by BalancedSampler, in training alone"
        )


def _shared(side: np.ndarray, groups: np.ndarray) -> int:
    """Groups on more than one side."""
    return sum(len(set(side[groups == group])) > 1 for group in np.unique(groups))


def _leak(side: np.ndarray, groups: np.ndarray) -> str:
    if groups[0]:
        told = f"puts clips of {_shared(side, groups)} of {len(set(groups))} groups on several sides"
    else:
        told = "knows no groups, such as the operation or the camera of a clip"
    return f"split_by='random' {told}: the test may tell how well scenes are known. split_by='group' keeps them apart"


def _warn(text: str) -> None:
    print_log(text, logger="current", level=30)  # logging.WARNING
