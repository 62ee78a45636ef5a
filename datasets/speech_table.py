"""A user's own recordings, listed in a csv file: path, label, speaker."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log

from perception.datasets.audio_clips import AudioClips
from perception.datasets.audio_files import AudioRecord, BadAudioError, read_audio, samples_at, usable
from perception.datasets.images import check_split
from perception.datasets.speaker_split import geographic_order, require_disjoint, speaker_disjoint_split
from perception.errors import DataError, check_arguments, nearest, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform

PARTS = ("train", "val", "test")
NEEDED = ("path", "label")
OPTIONAL = ("speaker", "split", "start", "end", "neighbours")


class SpeechRow(NamedTuple):
    """A line of the table."""

    record: AudioRecord
    label: str
    speaker: str
    split: str
    neighbours: tuple[str, ...]


@DATASETS.register_module()
class SpeechTable(AudioClips):
    """Clips of files that a csv file lists.

    Columns: ``path`` (from ``root``), ``label``, ``speaker`` (or city: whatever must not be in two splits); optional
    ``start`` and ``end`` in seconds, ``split`` (train, val, test) and ``neighbours``, labels that border on the row's,
    divided by semicolons. Without a column ``split`` speakers are shared out by ``speaker_disjoint_split``. What files
    have to be like is told in ``audio_files``.

    Args:
        table: the csv file.
        split: ``train``, ``val``, ``test``, ``all``, or ``pretrain``: ``train`` without labels.
        root: folder of the files; None is that of the table.
        parts: shares of speakers in ``train`` and ``val``; the others are in ``test``.
        split_seed: seed of the draw.
        sample_rate: to which clips are resampled as they are read, in hertz.
        segment_seconds: cut longer clips into segments of this length; each keeps label and speaker. A rest shorter
            than ``min_seconds`` is left out, counted and reported.
        min_seconds: shorter clips are faults.
        crop_seconds: see ``AudioClips``.
        join_seconds: see ``AudioClips``.
        on_error: ``raise`` stops at clips that cannot be used; ``skip`` reads all once at construction, leaves out
            those that fail and reports their number by reason.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        records: the clips that are used.
        dropped: reason by clip of those left out.
        order: positions of ``classes`` in which neighbours are close; None without the column.
    """

    cut_by = ("parts", "split_seed")
    SPLITS = ("pretrain", *PARTS, "all")

    def __init__(
        self,
        table: str,
        split: str = "train",
        root: str | None = None,
        parts: Sequence[float] = (0.7, 0.15),
        split_seed: int = 0,
        sample_rate: int = 16000,
        segment_seconds: float | None = None,
        min_seconds: float = 0.1,
        crop_seconds: float | None = None,
        join_seconds: float | None = None,
        on_error: str = "raise",
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments("SpeechTable", self._faults, locals())
        check_split(split, self.SPLITS)
        rows = read_speech_table(table, root)
        classes, labels = _numbered([row.label for row in rows])
        names, speakers = _numbered([row.speaker for row in rows]) if rows[0].speaker else ([], None)
        chosen = _rows_of(rows, labels, speakers, split, parts, split_seed, classes, table)
        records = [rows[i].record for i in chosen]
        good, places, self.dropped = usable(records, on_error, min_seconds, "SpeechTable")
        if segment_seconds is not None:
            good, places = _segments(good, places, segment_seconds, min_seconds)
        super().__init__(
            sample_rate,
            None if split == "pretrain" else labels[chosen][good],
            classes,
            None if speakers is None else speakers[chosen][good],
            names,
            crop_seconds,
            transforms,
            seed,
            join_seconds,
        )
        self.records, self.on_error = [records[i] for i in good], on_error
        self.rates, self.first, self.frames = places.T
        self.lengths = samples_at(self.frames, self.rates, sample_rate)
        self.split, self.may_be_silent = split, segment_seconds is not None
        neighbours: dict[str, set[str]] = {}
        for row in rows:
            neighbours.setdefault(row.label, set()).update(row.neighbours)
        self.order = None
        if any(neighbours.values()):
            self.order = geographic_order(classes, {name: sorted(others) for name, others in neighbours.items()})

    def read(self, indices: np.ndarray, start: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
        """See ``AudioClips``; only the part that is asked for is read. Windows of longer clips may be silent.

        Raises:
            BadAudioError: a file that its header did not give away, and how to leave it out.
        """
        clips = []
        for i, at, number in zip(indices.tolist(), start.tolist(), length.tolist(), strict=True):
            whole = number == self.lengths[i]
            rate, frames = int(self.rates[i]), int(self.frames[i])
            count = frames if whole else min(math.ceil(number * rate / self.sample_rate), frames)
            offset = 0 if whole else min(at * rate // self.sample_rate, frames - count)
            silent = self.may_be_silent or not whole
            try:
                clip = read_audio(self.records[i], self.sample_rate, int(self.first[i]) + offset, count, silent)
            except BadAudioError as error:
                cure = "on_error='skip' leaves such clips out"
                if self.on_error == "skip":
                    cure = "it could be read when the data set was built, so it has changed since"
                raise BadAudioError(error.kind, f"{error}. {cure}") from error
            clips.append(clip[:number])
        return clips

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.clip_faults(cfg)
        if cfg["on_error"] not in ("raise", "skip"):
            yield "on_error", not_among(cfg["on_error"], ("raise", "skip"))
        if len(cfg["parts"]) != 2 or min(cfg["parts"]) <= 0 or sum(cfg["parts"]) >= 1:
            yield "parts", "must be two positive shares, of train and val, that leave something for test"
        if cfg["segment_seconds"] is not None and cfg["segment_seconds"] < cfg["min_seconds"]:
            yield "segment_seconds", f"must not be below min_seconds = {cfg['min_seconds']:g}"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, a table that cannot be read or split, files that are not there."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)
        try:
            rows = read_speech_table(cfg["table"], cfg["root"])
            classes, labels = _numbered([row.label for row in rows])
            speakers = _numbered([row.speaker for row in rows])[1] if rows[0].speaker else None
            split, parts, seed = cfg["split"], cfg["parts"], cfg["split_seed"]
            _rows_of(rows, labels, speakers, split, parts, seed, classes, cfg["table"])
        except DataError as error:
            yield "table", str(error)
            return
        if not any(row.record.path.is_file() for row in rows):
            yield "root", f"none of {len(rows)} files exists; the first would be {str(rows[0].record.path)!r}"


def read_speech_table(table: str, root: str | None) -> list[SpeechRow]:
    """Lines of the csv file of ``SpeechTable``.

    Raises:
        DataError: it cannot be read, lacks a column, or a line is wrong, with its number.
    """
    path = Path(table).expanduser()
    folder = path.parent if root is None else Path(root).expanduser()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table: {error}") from error
    for name in NEEDED:
        if name not in columns:
            near = nearest(name, columns, 1)
            hint = f"; nearest is {near[0]!r}" if near else ""
            raise DataError(f"{str(path)!r} has no column {name!r}; it has {', '.join(columns)}{hint}")
    if not lines:
        raise DataError(f"{str(path)!r} has no rows")
    rows = []
    for number, line in enumerate(lines, 2):  # line 1 is the header
        values = {name: (line.get(name) or "").strip() for name in (*NEEDED, *OPTIONAL)}
        empty = [name for name in (*NEEDED, "speaker") if name in columns and not values[name]]
        if empty:
            raise DataError(f"line {number} of {str(path)!r} has no {', '.join(empty)}")
        if "split" in columns and values["split"] not in PARTS:
            text = not_among(values["split"], PARTS)
            raise DataError(f"line {number} of {str(path)!r}: split {values['split']!r} is {text}")
        try:
            start = float(values["start"] or 0)
            end = float(values["end"]) if values["end"] else None
        except ValueError as error:
            raise DataError(f"line {number} of {str(path)!r}: start and end must be seconds: {error}") from error
        if not start >= 0 or (end is not None and not end > start):
            raise DataError(f"line {number} of {str(path)!r}: {start:g} to {end} s is no part of a recording")
        others = tuple(name.strip() for name in values["neighbours"].split(";") if name.strip())
        record = AudioRecord(folder / values["path"], start, end)
        rows.append(SpeechRow(record, values["label"], values["speaker"], values["split"], others))
    return rows


def _numbered(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Sorted names without repetition, and the number (n,) int64 of each value among them."""
    names, numbers = np.unique(np.array(values, dtype=str), return_inverse=True)
    return names.tolist(), numbers.astype(np.int64)


def _rows_of(
    rows: Sequence[SpeechRow],
    labels: np.ndarray,
    speakers: np.ndarray | None,
    split: str,
    parts: Sequence[float],
    split_seed: int,
    classes: Sequence[str],
    table: str,
) -> np.ndarray:
    """Row numbers of a split."""
    if split == "all":
        return np.arange(len(rows))
    wanted = "train" if split == "pretrain" else split
    if not rows[0].split:
        if speakers is None:
            raise DataError(f"{table!r} has no column 'speaker', so it cannot be split: nobody may speak in two splits")
        return speaker_disjoint_split(labels, speakers, parts, split_seed, classes)[PARTS.index(wanted)]
    given = np.array([row.split for row in rows])
    if speakers is None:
        print_log(
            f"SpeechTable: {table!r} has a column 'split' and no column 'speaker': if voices occur in two splits, test "
            "figures say how well voices are recognised",
            logger="current",
            level=30,
        )
    else:
        people = np.array([row.speaker for row in rows])
        require_disjoint({name: people[given == name] for name in PARTS}, repr(table))
    chosen = np.flatnonzero(given == wanted)
    if not len(chosen):
        raise DataError(f"{table!r} has no row of split {wanted!r}")
    return chosen


def _segments(
    good: Sequence[int], places: np.ndarray, segment_seconds: float, min_seconds: float
) -> tuple[list[int], np.ndarray]:
    """Clips (m, 3) of rate, first frame and frames cut into segments: positions, and (s, 3) likewise."""
    rate, first, frames = places.T
    size = np.maximum(np.round(segment_seconds * rate), 1).astype(np.int64)
    pieces = -(-frames // size)
    clip = np.repeat(np.arange(len(places)), pieces)
    at = (np.arange(len(clip)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size[clip]
    length = np.minimum(size[clip], frames[clip] - at)
    kept = length >= min_seconds * rate[clip]
    if not kept.all():
        lost = float((length / rate[clip])[~kept].sum())
        text = f"left out {int((~kept).sum())} rests shorter than {min_seconds:g} s, {lost:.1f} s in all"
        print_log(f"SpeechTable: {text}", logger="current", level=30)
    found = np.stack([rate[clip], first[clip] + at, length], axis=1)[kept]
    return [good[i] for i in clip[kept]], found
