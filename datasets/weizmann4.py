"""Four actions of nine people: a small real set of videos, judged by leaving one person out."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.images import check_split
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord
from perception.errors import DataError
from perception.registry import DATASETS

CLASSES = ("bend", "jack", "wave1", "wave2")
SUBJECTS = tuple(range(9))
HINT = "It must hold manifest.csv and the clips that it names."


@DATASETS.register_module()
class Weizmann4(VideoFiles):
    """36 clips of 64 x 64 pixels ("Actions as Space-Time Shapes", Gorelick et al., 2007): bend, jack, wave1, wave2.

    The protocol leaves one of the nine subjects out: ``test`` has that subject's four clips, ``train`` the other 32.
    Classes are largely told by single frames: print a baseline on static pixels beside every figure.

    Args:
        split: ``train``, ``test``, ``all``, or ``pretrain``, which is ``train`` without labels.
        subject: the one that is left out, 0 to 8; ``None`` takes everyone, and only with ``all`` and ``pretrain``.
        root: folder of the clips, by default ``$PERCEPTION_DATA/video/weizmann4``.
        keep: see ``VideoFiles``.
        clip: how clips are cut: see ``VideoFiles``.

    Attributes:
        groups: (videos,) int64 subject of every clip, for grouped folds.
    """

    SPLITS = ("pretrain", "train", "test", "all")

    def __init__(
        self,
        split: str = "all",
        subject: int | None = None,
        root: str | None = None,
        keep: bool = True,
        **clip: Any,
    ) -> None:
        check_split(split, self.SPLITS)
        folder = data_root(root, "video/weizmann4", HINT)
        rows = read_table(folder, ("file", "label", "subject"))
        for key, text in self._subject_faults(split, subject):
            raise DataError(f"Weizmann4.{key}: {text}")
        if split != "all":
            rows = [row for row in rows if subject is None or (int(row["subject"]) == subject) == (split == "test")]
        records = [VideoRecord(folder / row["file"], CLASSES.index(row["label"])) for row in rows]
        super().__init__(records, CLASSES, keep=keep, **{"labels": split != "pretrain", **clip})
        subjects = {str(folder / row["file"]): int(row["subject"]) for row in rows}
        self.groups = np.array([subjects[str(record.path)] for record in self.records], dtype=np.int64)
        self.split = split

    @classmethod
    def _subject_faults(cls, split: str, subject: int | None) -> Iterable[tuple[str, str]]:
        if subject is None and split in ("train", "test"):
            yield "subject", f"split={split!r} needs the number of the subject that is left out, 0 to 8"
        if subject is not None and (subject not in SUBJECTS or split == "all"):
            yield "subject", "must be 0 to 8, and None with split='all'"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or subject, missing data, clips that cannot be."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._subject_faults(cfg["split"], cfg["subject"])
        yield from cls.clip_faults(cfg)
        read_table(data_root(cfg["root"], "video/weizmann4", HINT), ("file", "label", "subject"))


def read_table(folder: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of ``manifest.csv``.

    Raises:
        DataError: there is no such file, or it lacks a column.
    """
    path = folder / "manifest.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    lacking = [name for name in columns if not rows or name not in rows[0]]
    if lacking:
        raise DataError(f"{str(path)!r} has no column {', '.join(lacking)}")
    return rows
