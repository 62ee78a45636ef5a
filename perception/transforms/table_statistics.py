"""What is known of a table from its training rows: vocabularies, means and deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.errors import ConfigError, Fault
from perception.registry import DATASETS
from perception.signatures import signature_of
from perception.transforms.table_columns import Column


class TableStatistics(NamedTuple):
    """What a record keeps of the training rows.

    Attributes:
        columns: categorical ones first, with the categories that occur.
        mean: of the observed cells of every continuous column; 0 where there are none.
        std: their standard deviation, divided by their number; 1 where it would be 0.
        constant: names of the columns with one value only.
        empty: names of those without any.
    """

    columns: tuple[Column, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    constant: tuple[str, ...]
    empty: tuple[str, ...]


def table_statistics(columns: Sequence[Column], table: np.ndarray, missing: np.ndarray) -> TableStatistics:
    """Statistics of training rows over observed cells alone.

    Args:
        columns: F columns.
        table: (n, F) raw cells.
        missing: (n, F) bool.
    """
    kept: dict[bool, list[Column]] = {True: [], False: []}
    mean, std, constant, empty = [], [], [], []
    for j, column in enumerate(columns):
        cells = table[~missing[:, j], j].astype(np.float64)
        cells = cells[np.isfinite(cells)]
        found = np.unique(cells)
        if not len(found):
            empty.append(column.name)
        elif len(found) == 1:
            constant.append(column.name)
        if column.categorical:
            used = tuple(column.categories[int(code)] for code in found)
            kept[True].append(Column(column.name, "categorical", used))
            continue
        kept[False].append(column)
        mean.append(float(cells.mean()) if len(cells) else 0.0)
        std.append(float(cells.std()) if len(found) > 1 else 1.0)
    return TableStatistics((*kept[True], *kept[False]), tuple(mean), tuple(std), tuple(constant), tuple(empty))


def fitted_statistics(fit: Any) -> TableStatistics:
    """Statistics of the rows of a data set, given by its config or as an instance.

    Columns without a value, or with one only, are kept and named in the log.

    Raises:
        ConfigError: it has no table, or no rows.
    """
    data = fit
    if isinstance(fit, Mapping):
        config = dict(fit)
        kind: Any = DATASETS.get(str(config.get("type"))) if isinstance(config.get("type"), str) else config.get("type")
        if kind is not None and "only" in signature_of(kind).arguments:
            config["only"] = "table"
        data = DATASETS.build(config)
    table, missing = getattr(data, "table", None), getattr(data, "table_missing", None)
    if table is None or missing is None or not len(table):
        what = "has no rows" if table is not None and missing is not None else "has no table"
        raise ConfigError([Fault("model.backbone.preprocess.fit", type(data).__name__, f"this data set {what}")])
    found = table_statistics(data.table_columns, table, missing)
    for names, text in ((found.constant, "have one value only"), (found.empty, "have no value at all")):
        if names:
            told = f"{len(names)} columns {text} in the {len(table)} training rows: {', '.join(names)}"
            print_log(told, logger="current", level=30)
    return found
