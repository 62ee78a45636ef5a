"""The Preprocess record of tables with images: columns, vocabularies and statistics of the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from perception.errors import CheckpointError, ConfigError, DataError, Fault
from perception.registry import PREPROCESSES
from perception.transforms.image_preprocess import VIEWS, ImagePreprocess
from perception.transforms.preprocess import Batch
from perception.transforms.table_columns import Column, as_columns, category_text, code_map, column_order
from perception.transforms.table_statistics import fitted_statistics

TABLES = ("table", "table_view")
"""Fields of a batch that hold cells: the table, and what a transform made of it for another view."""
_TOLERANCE = 1e-6  # sums of the same numbers may differ in their last bits from one machine to another


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class TableImagePreprocess(ImagePreprocess):
    """``ImagePreprocess``, and the cells of a table as codes and standard scores. Either may be absent.

    Data sets give columns in any order and categories in codes of their own; both are matched by name. A category that
    no training row has becomes a missing cell and is counted in ``unseen``; so does a value that is not finite.

    Attributes:
        columns: the model's columns (``Column``, or its plain values), categorical ones first.
        table_mean: of the observed training cells of every continuous column.
        table_std: their standard deviation; 1 for a constant column.
        fit: config or instance of the data set of training rows from which the three are taken instead, once, when
            the record is built. Images are not read for it.
    """

    columns: Sequence[Any] = ()
    table_mean: Sequence[float] = ()
    table_std: Sequence[float] = ()
    fit: InitVar[Any] = None

    def __post_init__(self, fit: Any) -> None:  # type: ignore[override]
        if fit is not None:
            if self.columns:
                raise ConfigError([Fault("model.backbone.preprocess.fit", None, "give either fit= or columns=")])
            found = fitted_statistics(fit)
            object.__setattr__(self, "columns", found.columns)
            object.__setattr__(self, "table_mean", found.mean)
            object.__setattr__(self, "table_std", found.std)
        object.__setattr__(self, "columns", as_columns(self.columns))
        for name in ("table_mean", "table_std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        super().__post_init__()
        object.__setattr__(self, "unseen", Counter())
        object.__setattr__(self, "_plans", [])

    @property
    def categories(self) -> tuple[int, ...]:
        """Number of codes of every categorical column, which come first."""
        return tuple(column.size for column in self.columns if column.categorical)

    @property
    def continuous(self) -> int:
        """Number of continuous columns."""
        return len(self.columns) - len(self.categories)

    def __call__(self, batch: Batch) -> Batch:
        """Normalise ``image`` and ``views`` as the base does, and ``table`` and ``table_view`` (B, F), where present.

        The result has ``table`` (B, N) float32, codes first, then standard scores, 0 where missing, ``table_missing``
        (B, N) bool and ``table_columns``, the record's. ``table_view`` has the missing cells of ``table``, and a code
        that the record does not know keeps the one of ``table``. Images of rows that ``image_missing`` (B,) names
        become 0, the mean image.

        Raises:
            DataError: a column is missing or was renamed, the fields do not fit together, or the batch holds neither
                images nor a table.
        """
        if batch.get("image") is not None or batch.get(VIEWS) is not None or batch.get("table") is None:
            out = self._blank(super().__call__(batch))
        else:
            out = dict(batch)
        return out if batch.get("table") is None else {**out, **self._cells(batch)}

    def _blank(self, batch: Batch) -> Batch:
        """Rows without an image: zeros, whatever their pixels were."""
        missing = batch.get("image_missing")
        if missing is None:
            return batch
        gone = torch.as_tensor(missing).view(-1, 1, 1, 1)
        out = dict(batch)
        if out.get("image") is not None:
            out["image"] = out["image"].masked_fill(gone.to(out["image"].device), 0.0)
        if out.get(VIEWS) is not None:
            out[VIEWS] = [view.masked_fill(gone.to(view.device), 0.0) for view in out[VIEWS]]
        return out

    def _cells(self, batch: Batch) -> Batch:
        table = _typed(batch["table"], "table")
        plan = self._plan(batch.get("table_columns"), table)
        missing = batch.get("table_missing")
        missing = torch.zeros_like(table, dtype=torch.bool) if missing is None else torch.as_tensor(missing)
        if missing.dtype != torch.bool or missing.shape != table.shape:
            raise DataError(
                f"table_missing must be bool {tuple(table.shape)}, not {missing.dtype} {tuple(missing.shape)}"
            )
        order = torch.tensor(plan.order, device=table.device)
        missing = (missing | ~torch.isfinite(table))[:, order]
        cells, unknown = self._scaled(table[:, order], plan)
        if unknown is not None:
            self._count(unknown & ~missing[:, : len(self.categories)], plan)
            missing = missing.clone()
            missing[:, : len(self.categories)] |= unknown
        out: Batch = {"table": cells.masked_fill(missing, 0.0), "table_missing": missing, "table_columns": self.columns}
        if batch.get("table_view") is not None:
            view = _typed(batch["table_view"], "table_view")
            if view.shape != table.shape:
                raise DataError(f"table_view has shape {tuple(view.shape)}, but table {tuple(table.shape)}")
            changed, strange = self._scaled(view[:, order], plan)
            if strange is not None:
                codes = slice(len(self.categories))
                changed[:, codes] = torch.where(strange, cells[:, codes], changed[:, codes])
            out["table_view"] = changed.masked_fill(missing, 0.0)
        return out

    def _scaled(self, table: Tensor, plan: _Plan) -> tuple[Tensor, Tensor | None]:
        """Cells (B, N) in the record's order as codes and scores, and where a code has no place in the record."""
        split = len(self.categories)
        # In float64: a year less its mean has few digits left in float32.
        mean, std = torch.tensor([self.table_mean, self.table_std], dtype=torch.float64, device=table.device)
        scores = ((table[:, split:] - mean) / std).to(torch.float32)
        if not split:
            return scores, None
        codes = table[:, :split].nan_to_num(-1.0, -1.0, -1.0).long()
        maps = torch.from_numpy(plan.maps).to(table.device)  # (N_c, K)
        inside = (codes >= 0) & (codes < maps.shape[1])
        found = maps.gather(1, torch.where(inside, codes, 0).T).T
        unknown = ~inside | (found < 0)
        return torch.cat([found.clamp_min(0).to(torch.float32), scores], dim=1), unknown

    def _count(self, unknown: Tensor, plan: _Plan) -> None:
        if not plan.unknown:  # the vocabularies leave nothing out: no need to wait for the device
            return
        counts = unknown.sum(0).tolist()
        for column, count in zip(self.columns, counts, strict=False):
            if not count:
                continue
            if column.name not in self.unseen:  # type: ignore[attr-defined]
                strange = ", ".join(map(repr, plan.unknown.get(column.name, ())[:5]))
                text = f"column {column.name!r}: no training row has {strange}; such cells are read as missing"
                print_log(text, logger="current", level=30)  # logging.WARNING
            self.unseen[column.name] += count  # type: ignore[attr-defined]

    def _plan(self, given: Any, table: Tensor) -> _Plan:
        """How the columns of a batch become the record's; worked out once for each set of columns."""
        if given is None:
            raise DataError("a batch with a table needs table_columns, which name its columns")
        columns = tuple(given)
        if table.ndim != 2 or table.shape[1] != len(columns):
            raise DataError(f"a table of shape {tuple(table.shape)} does not fit {len(columns)} columns")
        plans: list[_Plan] = self._plans  # type: ignore[attr-defined]
        for plan in plans:
            if plan.given is columns or plan.given == columns:
                return plan
        order = column_order(self.columns, columns)
        codes = [
            (column.name, columns[place].categories, code_map(column.categories, columns[place].categories))
            for column, place in zip(self.columns, order, strict=True)
            if column.categorical
        ]
        width = max((len(codes_) for _, _, codes_ in codes), default=0)
        maps = np.full((len(codes), width), -1, dtype=np.int64)
        for row, (_, _, codes_) in enumerate(codes):
            maps[row, : len(codes_)] = codes_
        unknown = {
            name: tuple(value for value, code in zip(categories, codes_, strict=False) if code < 0)
            for name, categories, codes_ in codes
        }
        plan = _Plan(columns, order, maps, {k: v for k, v in unknown.items() if v})
        plans[:] = [*plans[-7:], plan]
        return plan

    def prepare_table(self, rows: Any) -> Batch:
        """Rows of a user's as the RAW batch that ``embed`` takes, to which images may be added.

        Args:
            rows: a sequence of mappings from column name to value, or a pandas DataFrame. ``None``, an empty text and
                NaN are missing cells; columns that the record does not have are left out.

        Raises:
            DataError: a column is missing, or a cell of a continuous one is no number; row and column are named.
        """
        records = rows.to_dict("records") if hasattr(rows, "to_dict") else [dict(row) for row in rows]
        kinds = {column.name: column.kind for column in self.columns}
        for row in records:
            column_order(self.columns, [Column(str(name), kinds.get(name, "continuous")) for name in row])
        columns, table = [], np.zeros((len(records), len(self.columns)), dtype=np.float32)
        missing = np.zeros(table.shape, dtype=bool)
        for j, column in enumerate(self.columns):
            cells = [row[column.name] for row in records]
            missing[:, j] = [cell is None or cell == "" or cell != cell for cell in cells]
            if column.categorical:
                texts = [category_text(cell) for cell in cells]
                seen = {t for t, gone in zip(texts, missing[:, j], strict=True) if not gone}
                extra = sorted(seen - set(column.categories))
                columns.append(Column(column.name, column.kind, (*column.categories, *extra)))
                codes = {text: code for code, text in enumerate(columns[-1].categories)}
                table[:, j] = [codes.get(text, 0) for text in texts]
                continue
            columns.append(column)
            for i, cell in enumerate(cells):
                if missing[i, j]:
                    continue
                try:
                    table[i, j] = float(cell)
                except (TypeError, ValueError) as error:
                    raise DataError(f"row {i}, column {column.name!r}: {cell!r} is not a number") from error
        return {
            "table": torch.from_numpy(table),
            "table_missing": torch.from_numpy(missing),
            "table_columns": tuple(columns),
        }

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """What needs no training, of a preprocessed batch: (B, F) float32 each, as far as the batch has it.

        ``pixels`` are normalised and on a grid of at most 16 x 16. ``table`` has one column for every category and one
        for every continuous column, 0 where missing. ``raw`` is both, side by side. ``mask`` is what is missing and
        nothing else: how much the holes alone tell.
        """
        found: dict[str, Tensor] = {}
        if batch.get("image") is not None:
            image = batch["image"].float()
            side = (min(16, image.shape[2]), min(16, image.shape[3]))
            found["pixels"] = torch.nn.functional.adaptive_avg_pool2d(image, side).flatten(1)
        if batch.get("table") is not None:
            found["table"] = self.one_hot(batch["table"], batch["table_missing"])
        if len(found) == 1:  # then it is called as everywhere else
            found = {"raw": next(iter(found.values()))}
        elif found:
            found = {"raw": torch.cat([found["pixels"], found["table"]], dim=1), **found}
        if batch.get("table") is not None:
            found["mask"] = batch["table_missing"].float()
        return found

    def one_hot(self, table: Tensor, missing: Tensor) -> Tensor:
        """Preprocessed cells (B, N) -> (B, sum K + N_n): one column for every code, all 0 where the cell is missing."""
        split = len(self.categories)
        codes = table[:, :split].long()
        parts = [torch.nn.functional.one_hot(codes[:, j], size) for j, size in enumerate(self.categories)]
        shown = [part * ~missing[:, j : j + 1] for j, part in enumerate(parts)]
        return torch.cat([*(part.to(torch.float32) for part in shown), table[:, split:].float()], dim=1)

    def record(self) -> dict[str, Any]:
        """Plain values, columns as dicts."""
        values = {name: getattr(self, name) for name in self.field_names() if name != "columns"}
        return {"type": type(self).__name__, **values, "columns": [column.record() for column in self.columns]}

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's; where columns differ, the message says which, not all of them."""
        theirs = {str(column["name"]): dict(column) for column in other.get("columns") or ()}
        mine = {column.name: column.record() for column in self.columns}
        lines = [f"column {name!r} is not here" for name in theirs if name not in mine]
        lines += [f"column {name!r} is new" for name in mine if name not in theirs]
        if not lines and theirs and list(theirs) != list(mine):
            lines.append(f"the columns were in the order {', '.join(theirs)}")
        for name in mine.keys() & theirs.keys():
            kinds = (theirs[name]["kind"], mine[name]["kind"])
            if kinds[0] != kinds[1]:
                lines.append(f"column {name!r} was {kinds[0]} and is {kinds[1]}")
            elif list(theirs[name]["categories"]) != mine[name]["categories"]:
                counts = (len(theirs[name]["categories"]), len(mine[name]["categories"]))
                lines.append(f"column {name!r} had other categories ({counts[0]} there, {counts[1]} here)")
        if lines and theirs:
            listed = "\n".join(f"  - {line}" for line in sorted(lines))
            raise CheckpointError(
                f"{source} was trained with other columns than this config asks for:\n{listed}\n"
                "Fit model.backbone.preprocess to the same training rows, or set it to the recorded values."
            )
        other = dict(other)
        for name in ("table_mean", "table_std"):
            values, own = other.get(name), getattr(self, name)
            if values is not None and len(values) == len(own) and np.allclose(values, own, rtol=_TOLERANCE, atol=1e-12):
                other[name] = own
        if theirs:
            other["columns"] = [column.record() for column in self.columns]
        super().require_same(other, source)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record: one source of columns, categorical ones first, one mean and deviation of each other."""
        yield from super().check_config(cfg)
        if bool(cfg["columns"]) == (cfg.get("fit") is not None):
            yield "columns", "give either columns=[...] or fit=<data set with a table>"
            return
        try:
            columns = as_columns(cfg["columns"])
        except (DataError, TypeError, ValueError) as error:
            yield "columns", str(error)
            return
        kinds = [column.categorical for column in columns]
        if kinds != sorted(kinds, reverse=True):
            yield "columns", "must begin with the categorical ones"
        if cfg.get("fit") is not None:
            return
        for key in ("table_mean", "table_std"):
            if len(cfg[key]) != kinds.count(False):
                yield key, f"must have one value for each of the {kinds.count(False)} continuous columns"
        if any(not value > 0 for value in cfg["table_std"]):
            yield "table_std", "must be positive"


class _Plan(NamedTuple):
    """How the columns ``given`` become a record's."""

    given: tuple[Column, ...]
    order: tuple[int, ...]
    maps: np.ndarray  # (N_c, K) int64, the record's code of every given one, or -1
    unknown: dict[str, tuple[str, ...]]  # categories without a code, by column


def _typed(table: Any, name: str) -> Tensor:
    table = torch.as_tensor(table)
    if table.dtype not in (torch.float32, torch.float64):
        raise DataError(f"a raw {name} must be float32 in the units of the columns, not {table.dtype}")
    return table.to(torch.float32)
