"""What the columns of a table are: name, kind and categories. Every batch of a table carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.errors import DataError, nearest, not_among

KINDS = ("categorical", "continuous")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: by which data and records find each other's columns, whatever their order.
        kind: ``categorical`` or ``continuous``.
        categories: the values of a categorical column; a cell holds the position of its value. Empty for a continuous
            column, and for a categorical one of which no value was ever seen.
    """

    name: str
    kind: str = "continuous"
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(str(value) for value in self.categories))
        if self.kind not in KINDS:
            raise DataError(f"column {self.name!r}: kind {self.kind!r} is {not_among(self.kind, KINDS)}")
        if self.kind == "continuous" and self.categories:
            raise DataError(f"column {self.name!r} is continuous and has categories: it must be one of the two")
        if len(set(self.categories)) < len(self.categories):
            raise DataError(f"column {self.name!r} names a category twice")

    @property
    def categorical(self) -> bool:
        """Whether cells hold codes of categories."""
        return self.kind == "categorical"

    @property
    def size(self) -> int:
        """Number of codes; 1 where no category is known, since code 0 stands in missing cells."""
        return max(len(self.categories), 1) if self.categorical else 1

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "kind": self.kind, "categories": list(self.categories)}


def as_columns(values: Iterable[Column | Mapping[str, Any]]) -> tuple[Column, ...]:
    """Columns from columns or their plain values.

    Raises:
        DataError: a name occurs twice, or a column is not one.
    """
    columns = tuple(value if isinstance(value, Column) else Column(**dict(value)) for value in values)
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}")
    return columns


def column_order(wanted: Sequence[Column], given: Sequence[Column]) -> tuple[int, ...]:
    """Places among ``given`` of the columns ``wanted``, found by name.

    Raises:
        DataError: a column is missing or of the other kind; the nearest of the names that are there is told.
    """
    places = {column.name: place for place, column in enumerate(given)}
    missing = [column.name for column in wanted if column.name not in places]
    if missing:
        known = {column.name for column in wanted}
        # A renamed column is among those that nobody asks for.
        near = nearest(missing[0], [name for name in places if name not in known] or list(places), 1)
        hint = f"; did it become {near[0]!r}?" if near else ""
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"the table has no column {missing[0]!r}{more}, only {', '.join(places)}{hint}")
    for column in wanted:
        found = given[places[column.name]]
        if found.kind != column.kind:
            raise DataError(f"column {column.name!r} is {found.kind} in the table, but {column.kind} in the record")
    return tuple(places[column.name] for column in wanted)


def code_map(wanted: Sequence[str], given: Sequence[str]) -> np.ndarray:
    """Code among ``wanted`` of every category of ``given``: (max(K, 1),) int64, -1 where ``wanted`` has none."""
    codes = {category: code for code, category in enumerate(wanted)}
    found = [codes.get(category, -1) for category in given]
    return np.array(found or [-1], dtype=np.int64)


def category_text(value: Any) -> str:
    """One spelling of a category: whole numbers without a point, whatever type a file gave them."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
