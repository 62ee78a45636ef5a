"""Tables from CSV, Parquet and npz files: kinds of columns, categories, numbers, and errors by row and column."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import load_arrays
from perception.datasets.table_rows import TableData
from perception.errors import DataError, nearest, not_among
from perception.transforms.table_columns import KINDS, Column, category_text

MISSING_VALUES = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")
_MANY = 50  # a text column with more values than this, most of them once, is an identifier or free text
_KINDS = (*KINDS, "ignore")


@dataclass(frozen=True)
class RawTable:
    """A table as its file has it.

    Attributes:
        cells: name -> (n,) array of float64 or of texts (object).
        missing: name -> (n,) bool.
        source: what messages call the file.
        arrays: the other arrays of a ``.npz``, such as images.
    """

    cells: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]
    source: str
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    def column(self, name: str, role: str) -> np.ndarray:
        """Cells of the column that the argument ``role`` names.

        Raises:
            DataError: there is none of that name; the nearest is told.
        """
        if name not in self.cells:
            near = nearest(name, self.cells, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{self.source} has no column {name!r} ({role}), only {', '.join(self.cells)}{hint}")
        return self.cells[name]

    def texts(self, name: str, role: str) -> np.ndarray:
        """Cells of a column as texts (object), missing ones as empty texts."""
        cells = self.column(name, role)
        gone = self.missing[name]
        if cells.dtype == object:
            return np.where(gone, "", cells)
        return np.array(
            ["" if hole else category_text(v) for v, hole in zip(cells.tolist(), gone, strict=True)], object
        )

    def numbers(self, name: str, role: str) -> np.ndarray:
        """Cells of a column as float64, NaN where missing.

        Raises:
            DataError: one is no finite number, naming row and column.
        """
        cells, gone = self.column(name, role), self.missing[name]
        if cells.dtype == object:
            import pandas

            values = np.asarray(pandas.to_numeric(pandas.Series(cells), errors="coerce"), dtype=np.float64)
        else:
            values = cells.astype(np.float64)
        values = np.where(gone, np.nan, values)
        wrong = np.flatnonzero(~np.isfinite(values) & ~gone)
        if len(wrong):
            more = f" (and {len(wrong) - 1} more such cells)" if len(wrong) > 1 else ""
            raise DataError(
                f"{self.source}, row {wrong[0]}, column {name!r}: {cells[wrong[0]]!r} is not a finite number{more}; "
                "make the column categorical, or list what stands for a missing cell in missing_values"
            )
        return values


def read_table(file: Any, separator: str = ",", missing_values: Sequence[str] = MISSING_VALUES) -> RawTable:
    """Read a ``.csv`` or ``.tsv`` with a header, a ``.parquet`` or a ``.npz``, or take a pandas DataFrame.

    Rows are counted from 0 in messages. Of a ``.npz`` (plain arrays, no pickles) every one-dimensional array is a
    column under its own name, and ``table`` (n, F) is F columns named by the array ``columns`` (F,).

    Args:
        file: path, or a DataFrame.
        separator: between the cells of a ``.csv``.
        missing_values: texts that stand for a missing cell, in any column; blanks around a text do not count.

    Raises:
        DataError: no such file, no rows, rows of different lengths, a column name that occurs twice, a damaged file.
    """
    arrays: dict[str, np.ndarray] = {}
    if isinstance(file, (str, Path)):
        path = Path(file).expanduser()
        source, kind = f"table {str(path)!r}", path.suffix.lower()
        if not path.is_file():
            raise DataError(f"{source} does not exist")
        if kind not in SUFFIXES:
            raise DataError(f"{source}: {path.suffix!r} is {not_among(path.suffix, SUFFIXES)}")
        if kind == ".npz":
            columns, arrays = _npz_columns(path)
        elif kind == ".parquet":
            columns = _parquet_columns(path)
        else:
            columns = _csv_columns(path, "\t" if kind == ".tsv" else separator)
    elif hasattr(file, "iloc"):
        source = "the DataFrame"
        columns = _frame_columns(file, source)
    else:
        raise DataError(f"a table is a path or a DataFrame, not {type(file).__name__}")
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{source} has no rows")
    cells, missing = {}, {}
    gone = set(missing_values)
    for name, values in columns.items():
        cells[name], missing[name] = _typed(values, gone)
    return RawTable(cells, missing, source, arrays)


def _csv_columns(path: Path, separator: str) -> dict[str, Any]:
    # Not by pandas, which fills short rows and shifts or cuts long ones without a word.
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _require_unique(header, f"table {str(path)!r}")
            rows: list[list[str]] = []
            for cells in reader:
                if len(cells) != len(header):
                    if not cells:  # an empty line
                        continue
                    raise DataError(
                        f"table {str(path)!r}, row {len(rows)} (line {reader.line_num}) has {len(cells)} cells, but "
                        f"the header names {len(header)} columns"
                    )
                rows.append(cells)
    except UnicodeDecodeError as error:
        raise DataError(f"table {str(path)!r} is not text in UTF-8: {error}") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"table {str(path)!r} cannot be read: {error}") from error
    return {name: np.array(cells, dtype=object) for name, cells in zip(header, zip(*rows, strict=True), strict=False)}


def _parquet_columns(path: Path) -> dict[str, Any]:
    import pandas

    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise DataError(f'table {str(path)!r}: Parquet files need `pip install "perception-lab[parquet]"`') from error
    except Exception as error:  # pyarrow has errors of many classes, all of which mean a damaged file
        raise DataError(f"table {str(path)!r} cannot be read: {error}") from error
    return _frame_columns(frame, f"table {str(path)!r}")


def _frame_columns(frame: Any, source: str) -> dict[str, Any]:
    import pandas

    names = [str(name) for name in frame.columns]
    _require_unique(names, source)
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        series = frame.iloc[:, place]
        numeric = pandas.api.types.is_numeric_dtype(series) and not pandas.api.types.is_bool_dtype(series)
        kind = np.float64 if numeric else object
        found[name] = series.to_numpy(dtype=kind, na_value=np.nan if numeric else None)
    return found


def _npz_columns(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = load_arrays(path)
    found: dict[str, Any] = {}
    table = arrays.pop("table", None)
    if table is not None:
        names = arrays.pop("columns", None)
        if table.ndim != 2 or (names is not None and names.shape != (table.shape[1],)):
            told = "no array 'columns'" if names is None else f"columns {names.shape}"
            raise DataError(f"table {str(path)!r}: 'table' has the shape {table.shape} and {told}")
        labels = [f"table_{j}" for j in range(table.shape[1])] if names is None else [str(name) for name in names]
        _require_unique([*labels, *(n for n, a in arrays.items() if a.ndim == 1)], f"table {str(path)!r}")
        found.update({name: table[:, j] for j, name in enumerate(labels)})
    lengths = {len(a) for a in found.values()} or {a.shape[0] for a in arrays.values() if a.ndim == 1}
    rows = max(lengths, default=0)
    for name in [n for n, a in arrays.items() if a.ndim == 1 and len(a) == rows]:
        found[name] = arrays.pop(name)
    return found, arrays


def _require_unique(names: Sequence[str], source: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source} has two columns called {twice[0]!r}")


def _typed(values: np.ndarray, gone: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 or object of texts, and (n,) bool of what is missing."""
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        return numbers, np.isnan(numbers)
    if values.dtype.kind == "b":
        return values.astype(str).astype(object), np.zeros(len(values), dtype=bool)
    texts = np.array(["" if v is None or v != v else category_text(v).strip() for v in values.tolist()], dtype=object)
    return texts, np.isin(texts.astype(str), list(gone))


def infer_kinds(table: RawTable, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Kind of every column but ``leave_out``: ``continuous``, ``categorical`` or ``ignore``.

    Numbers are continuous, unless there are at most two of them; texts are categorical. A text column with more than 50
    values of which most occur once is an identifier or free text and is ignored. It is a proposal to be looked at:
    nobody can tell a year from a code.
    """
    kinds = {}
    for name, cells in table.cells.items():
        if name in leave_out:
            continue
        known = cells[~table.missing[name]]
        distinct = np.unique(known.astype(str) if known.dtype == object else known)
        if not len(distinct) or (_numeric(known) and len(distinct) > 2):
            kinds[name] = "continuous"
        elif len(distinct) > _MANY and len(distinct) > len(known) / 2:
            kinds[name] = "ignore"
        else:
            kinds[name] = "categorical"
    return kinds


def _numeric(cells: np.ndarray) -> bool:
    if cells.dtype != object:
        return True
    import pandas

    values = pandas.to_numeric(pandas.Series(cells), errors="coerce")
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())


def schema_text(table: RawTable, kinds: Mapping[str, str]) -> str:
    """``kinds`` as a dict to paste into a config, with the number of values, of holes and an example beside each."""
    width = max(len(repr(name)) for name in kinds) if kinds else 0
    lines = []
    for name, kind in kinds.items():
        known = table.cells[name][~table.missing[name]]
        distinct = np.unique(known.astype(str) if known.dtype == object else known)
        holes = float(table.missing[name].mean())
        example = f", such as {category_text(known[0])[:30]!r}" if len(known) else ""
        told = f"{len(distinct)} value{'s' * (len(distinct) != 1)}, {holes:.1%} missing{example}"
        lines.append(f"    {name!r}: {' ' * (width - len(repr(name)))}{kind!r},  # {told}")
    return "\n".join(["columns={", *lines, "}"])


def encode(table: RawTable, kinds: Mapping[str, str]) -> tuple[tuple[Column, ...], np.ndarray, np.ndarray]:
    """Columns, cells (n, F) float32 and holes (n, F) bool of the columns that ``kinds`` names, in its order.

    The categories of a column are all its values, as numbers in rising order where they are numbers, else by letter.

    Raises:
        DataError: a column that is not there, an unknown kind, a cell that is no number.
    """
    used = {name: kind for name, kind in kinds.items() if kind != "ignore"}
    wrong = [name for name, kind in kinds.items() if kind not in _KINDS]
    if wrong:
        raise DataError(
            f"{table.source}, column {wrong[0]!r}: {kinds[wrong[0]]!r} is {not_among(kinds[wrong[0]], _KINDS)}"
        )
    if not used:
        raise DataError(f"{table.source}: no column is left for the model")
    columns = []
    cells = np.zeros((len(table), len(used)), dtype=np.float32)
    missing = np.zeros(cells.shape, dtype=bool)
    for j, (name, kind) in enumerate(used.items()):
        table.column(name, "columns")
        missing[:, j] = table.missing[name]
        known = ~missing[:, j]
        if kind == "continuous":
            columns.append(Column(name))
            cells[known, j] = table.numbers(name, "columns")[known]
            continue
        texts = table.texts(name, "columns")[known].astype(str)
        found, codes = np.unique(texts, return_inverse=True)
        order = category_order(found)
        columns.append(Column(name, "categorical", tuple(found[order].tolist())))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        cells[known, j] = place[codes]
    return tuple(columns), cells, missing


def category_order(values: np.ndarray) -> np.ndarray:
    """Order of distinct texts: by value where all are numbers, else by letter."""
    try:
        return np.argsort(values.astype(np.float64), kind="stable")
    except ValueError:
        return np.argsort(values, kind="stable")


def encode_labels(
    table: RawTable, name: str, target: str, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (n,) of the column ``name`` and the names of the classes.

    Args:
        table: the table.
        name: the column.
        target: ``class`` gives int64, -1 where missing; ``number`` float32, NaN where missing.
        classes: names of the classes in label order; None takes all values of the column, as categories are ordered.

    Raises:
        DataError: a label that is no number, or none of ``classes``; row and column are named.
    """
    if target == "number":
        return table.numbers(name, "label").astype(np.float32), ()
    texts, gone = table.texts(name, "label"), table.missing[name]
    found = np.unique(texts[~gone].astype(str))
    names = tuple(found[category_order(found)].tolist()) if classes is None else tuple(map(str, classes))
    codes = {text: code for code, text in enumerate(names)}
    labels = np.array([-1 if hole else codes.get(text, -2) for text, hole in zip(texts, gone, strict=True)], np.int64)
    wrong = np.flatnonzero(labels == -2)
    if len(wrong):
        text = texts[wrong[0]]
        raise DataError(f"{table.source}, row {wrong[0]}, column {name!r}: class {text!r} is {not_among(text, names)}")
    return labels, names


def table_data(
    table: RawTable,
    kinds: Mapping[str, str],
    label: str | None = None,
    target: str = "class",
    classes: Sequence[str] | None = None,
) -> TableData:
    """All rows of a table with the columns of ``kinds``, and its labels."""
    columns, cells, missing = encode(table, kinds)
    if label is None:
        return TableData(cells, missing, columns)
    return TableData(cells, missing, columns, *encode_labels(table, label, target, classes))
