"""A user's own videos with texts: a csv file of paths, labels, groups and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perception.datasets.base import load_arrays
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord
from perception.datasets.video_table_rows import SPLITS, Table, TableRow, expanded, read_rows, split_rows
from perception.errors import ConfigError, DataError, Fault, not_among
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom


@dataclass(frozen=True)
class RowRecord(VideoRecord):
    """A video that remembers its row: one file may be in several rows."""

    row: int = -1


@DATASETS.register_module()
class VideoTable(VideoFiles):
    """Videos of a csv file, each with a label, a group and a text as far as there are columns for them.

    Nothing is guessed and nothing is filled in: cells that are empty or say ``nan``, files that are missing and videos
    that cannot be read are an error that names them, or are left out, counted and reported. No clip is ever made up.

    The default split keeps groups together, such as operations, patients or cameras: clips of one group on both sides
    would show how well a model knows the scene. ``split_by='random'`` says so when it is used.

    Args:
        table: the csv file, with a header; ``~`` and ``$VARIABLES`` are filled in.
        path: column of the paths of the videos.
        label: column of the labels; ``None`` has none.
        group: column of the groups, or several whose pairs are the groups.
        text: column of the texts, or several that are joined by ", ".
        root: folder that paths start from, by default that of the table.
        classes: class names in label order, or a mapping of class names to the value or values of the column that
            belong to it. By default names are sorted, numbers are their own names.
        where: take only rows whose columns have these values (one, or a list), such as ``dict(split='train')``.
        split: ``all``, or the part ``train``, ``val`` or ``test`` of a split.
        split_by: ``group`` for grouped, stratified folds, ``random`` for stratified folds of rows, or the name of a
            column whose cells say train, val or test.
        folds: number of folds k.
        fold: the one that is tested; the one after it is for validation.
        fold_seed: of the folds. It is no seed of the run: all runs of a table share their folds.
        validation: False gives the validation fold to training.
        remove_names: names that are taken out of the texts.
        missing: what to do with rows that lack a path, a label or a group: ``raise`` or ``skip``.
        missing_text: the same for texts; ``keep`` gives an empty text and ``text_missing``.
        features: by name of a branch an ``.npz`` file of stored features, as ``perception embed`` writes them:
            ``features`` or ``embeddings`` (n, D), and ``names`` (n,), the paths as written in the table. Without names
            there is one row for every line of the table, in its order.
        video: False never touches the videos, for texts or stored features alone.
        clip: how clips are cut: see ``VideoFiles``.

    Attributes:
        rows: of the table, one for every video that is used.
        keys: paths as written.
        texts: (videos,) list.
        groups: (videos,) int64 number of the group of every video, -1 without groups.
        group_names: names by number, of the whole table.
        features: (videos, D) float32 by name of a branch.
        dropped: reason by path, or by line, of everything that was left out.
    """

    cut_by = ("split_by", "folds", "fold", "fold_seed")

    def __init__(
        self,
        table: str,
        path: str = "path",
        label: str | None = None,
        group: str | Sequence[str] | None = None,
        text: str | Sequence[str] | None = None,
        root: str | None = None,
        classes: Sequence[str] | Mapping[str, Any] = (),
        where: Mapping[str, Any] | None = None,
        split: str = "all",
        split_by: str = "group",
        folds: int = 5,
        fold: int = 0,
        fold_seed: int = 0,
        validation: bool = True,
        remove_names: Sequence[str] = (),
        missing: str = "raise",
        missing_text: str = "raise",
        features: Mapping[str, str] | None = None,
        video: bool = True,
        **clip: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "clip")}
        faults = [Fault(key, given[key], told) for key, told in self._choice_faults(given)]
        if faults:
            raise ConfigError(faults, "VideoTable")
        found, chosen = _chosen(given, tell=True)
        base = expanded(table).parent if root is None else expanded(root)
        records = [RowRecord(base / found.rows[i].path, found.rows[i].label, row=i) for i in chosen.tolist()]
        self.video = video
        super().__init__(records, found.classes, **clip)
        self.dropped = {**found.dropped, **self.dropped}
        used = np.array([record.row for record in self.records])  # type: ignore[attr-defined]
        self.rows: list[TableRow] = [found.rows[i] for i in used.tolist()]
        self.keys = [row.path for row in self.rows]
        self.texts = [row.text for row in self.rows]
        self.has_text = text is not None
        self.text_missing = np.array([not row.text for row in self.rows])
        self.group_names = tuple(sorted({row.group for row in found.rows} - {""}))
        numbers = {name: number for number, name in enumerate(self.group_names)}
        self.groups = np.array([numbers.get(row.group, -1) for row in self.rows], dtype=np.int64)
        self.features = {
            name: _stored(str(expanded(file)), found, used, f"features.{name}")
            for name, file in (features or {}).items()
        }
        self.split = split

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """As ``VideoFiles.draw``, and what the table says.

        Returns:
            In addition ``text``, a list of n texts, and ``text_missing`` (n,) bool, with a column of texts; ``cluster``
            (n,) int64, the number of the group, with groups; ``<name>_features`` (n, D) float32. Without ``video``
            there are no clips, nor ``view`` and ``frame_index``.
        """
        if self.video:
            batch = super().draw(indices, random)
        else:
            indices = np.asarray(indices)
            owner = torch.from_numpy(indices // (self.views * self.crops))
            batch = {"index": torch.from_numpy(indices), "video_index": owner}
            if self.labelled:
                batch["label"] = torch.from_numpy(self.targets[owner.numpy()])
        rows = batch["video_index"].numpy()
        if self.has_text:
            batch["text"] = [self.texts[row] for row in rows.tolist()]
            batch["text_missing"] = torch.from_numpy(self.text_missing[rows])
        if self.group_names:
            batch["cluster"] = torch.from_numpy(self.groups[rows])
        for name, values in self.features.items():
            batch[f"{name}_features"] = torch.from_numpy(values[rows])
        return batch

    def rows_where(self, where: Mapping[str, Any]) -> np.ndarray:
        """(videos,) bool, True for the videos whose columns have these values."""
        wanted = {c: {str(v) for v in (vs if isinstance(vs, (list, tuple)) else [vs])} for c, vs in where.items()}
        absent = [column for column in wanted if column not in self.rows[0].cells]
        if absent:
            raise DataError(f"the table has no column {absent[0]!r}: {not_among(absent[0], self.rows[0].cells)}")
        return np.array([all(row.cells[c] in values for c, values in wanted.items()) for row in self.rows])

    def _leave_out(self, on_error: str) -> None:
        if self.video:
            super()._leave_out(on_error)

    @classmethod
    def _choice_faults(cls, cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults that can be seen without the table."""
        for key, choices in (
            ("split", SPLITS),
            ("missing", ("raise", "skip")),
            ("missing_text", ("raise", "skip", "keep")),
        ):
            if cfg[key] not in choices:
                yield key, not_among(cfg[key], choices)
        least = 3 if cfg["validation"] else 2
        yield from at_least(cfg, least, "folds")
        if not 0 <= cfg["fold"] < cfg["folds"]:
            yield "fold", f"must be 0 to folds - 1 = {cfg['folds'] - 1}"
        if cfg["split"] == "val" and not cfg["validation"]:
            yield "split", "there is no part 'val' with validation=False"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: no such table or column, cells that are missing, a split or clips that cannot be."""
        faults = [*cls._choice_faults(cfg), *cls.clip_faults(cfg)]
        if faults:
            yield from faults
            return
        try:
            found, chosen = _chosen(cfg, tell=False)
        except DataError as error:
            yield "table", str(error)
            return
        for name, file in (cfg["features"] or {}).items():
            try:
                _stored(str(expanded(file)), found, chosen, f"features.{name}")
            except DataError as error:
                yield "features", str(error)


def _chosen(cfg: Mapping[str, Any], tell: bool) -> tuple[Table, np.ndarray]:
    """The table and the places of the rows of the split."""
    keys = ("table", "path", "label", "group", "text", "classes", "where", "missing", "missing_text")
    found = read_rows(**{key: cfg[key] for key in keys}, names=cfg["remove_names"], tell=tell)
    split_by = cfg["split_by"]
    if split_by not in ("group", "random", *found.rows[0].cells):
        choices = ("group", "random", *found.rows[0].cells)
        raise DataError(f"split_by={split_by!r} is {not_among(split_by, choices)}")
    options = (cfg["split"], split_by, cfg["folds"], cfg["fold"], cfg["fold_seed"], cfg["validation"])
    return found, split_rows(found.rows, *options, tell=tell)


def _stored(file: str, table: Table, rows: np.ndarray, key: str) -> np.ndarray:
    """Stored features (n, D) float32 of the rows."""
    arrays = load_arrays(file)
    name = next((name for name in ("features", "embeddings") if name in arrays), None)
    if name is None:
        raise DataError(f"{key}: {file!r} holds {sorted(arrays)}, no array 'features' or 'embeddings'")
    values = arrays[name]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{key}: {name!r} of {file!r} is {values.dtype} {values.shape}, not numbers (n, D)")
    if "names" in arrays:
        names = [str(value) for value in arrays["names"]]
        if len(names) != len(values) or len(set(names)) < len(names):
            told = f"{len(names)} names for {len(values)} rows" if len(names) != len(values) else "a name twice"
            raise DataError(f"{key}: {file!r} has {told}")
        places = {value: place for place, value in enumerate(names)}
        absent = [table.rows[i].path for i in rows.tolist() if table.rows[i].path not in places]
        if absent:
            raise DataError(f"{key}: {file!r} lacks {len(absent)} of {len(rows)} rows, the first is {absent[0]!r}")
        order = np.array([places[table.rows[i].path] for i in rows.tolist()])
    elif len(values) == table.lines:
        order = table.order[rows]
    else:
        told = f"{len(values)} rows and no array 'names', the table has {table.lines}"
        raise DataError(f"{key}: {file!r} has {told}")
    chosen = np.ascontiguousarray(values[order], dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(chosen).all(1))
    if len(wrong):
        raise DataError(f"{key}: {file!r} has values that are not finite for {table.rows[rows[wrong[0]]].path!r}")
    return chosen
