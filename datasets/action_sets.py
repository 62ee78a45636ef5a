"""The public benchmarks of action recognition, read from their official lists; the videos are a user's own copy."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from perception.datasets.base import data_root
from perception.datasets.images import check_split
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord
from perception.datasets.video_lists import read_text
from perception.errors import DataError, not_among
from perception.registry import DATASETS

Found = tuple[list[VideoRecord], tuple[str, ...]]


class ActionVideos(VideoFiles):
    """Base of the benchmarks: an area, its splits, and how its lists are read."""

    AREA: ClassVar[str]
    HINT: ClassVar[str]
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    FOLDS: ClassVar[int] = 1

    def __init__(self, split: str = "train", fold: int = 1, root: str | None = None, **clip: Any) -> None:
        """Read the lists.

        Args:
            split: one of ``SPLITS``.
            fold: number of the official partition, from 1.
            root: folder of the data set.
            clip: how clips are cut: see ``VideoFiles``.
        """
        check_split(split, self.SPLITS)
        if not 1 <= fold <= self.FOLDS:
            raise DataError(f"{type(self).__name__}.fold: must be 1 to {self.FOLDS}, not {fold}")
        self.split, self.fold = split, fold
        super().__init__(*self.read_lists(data_root(root, self.AREA, self.HINT), split, fold), **clip)

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """Videos and class names of a split.

        Raises:
            DataError: a list is missing or says something odd, naming it and the line.
        """
        raise NotImplementedError

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or fold, lists that are missing or odd, clips that cannot be."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls.clip_faults(cfg)
        if not 1 <= cfg["fold"] <= cls.FOLDS:
            yield "fold", f"must be 1 to {cls.FOLDS}"
            return
        try:
            cls.read_lists(data_root(cfg["root"], cls.AREA, cls.HINT), cfg["split"], cfg["fold"])
        except DataError as error:
            yield "root", str(error)


@DATASETS.register_module()
class UCF101(ActionVideos):
    """UCF101 ("UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", Soomro et al., 2012).

    ``root`` holds ``UCF-101/<class>/*.avi`` and ``ucfTrainTestlist/`` with ``classInd.txt`` and the lists of the three
    partitions. The clips of one ``g`` number show the same scene: never share them out over splits of your own.

    Args:
        split: ``train`` or ``test``.
        fold: 1, 2 or 3.
        root: by default ``$PERCEPTION_DATA/video/ucf101``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    AREA, FOLDS, SPLITS = "video/ucf101", 3, ("train", "test")
    HINT = "It must hold UCF-101/<class>/ and ucfTrainTestlist/ of crcv.ucf.edu/data/UCF101.php."

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """See ``ActionVideos``."""
        lists = root / "ucfTrainTestlist"
        index = [line.split() for line in read_text(lists / "classInd.txt") if line.strip()]
        classes = tuple(name for _, name in sorted((int(number), name) for number, name in index))
        records, path = [], lists / f"{split}list{fold:02d}.txt"
        for number, line in enumerate(read_text(path), start=1):
            if line.strip():
                name = line.split()[0]
                label = _place(name.split("/")[0], classes, f"{str(path)!r}, line {number}")
                records.append(VideoRecord(root / "UCF-101" / name, label))
        return records, classes


@DATASETS.register_module()
class HMDB51(ActionVideos):
    """HMDB51 ("HMDB: A Large Video Database for Human Motion Recognition", Kuehne et al., 2011).

    ``root`` holds ``videos/<class>/*.avi`` and ``testTrainMulti_7030_splits/<class>_test_split<fold>.txt``, where 1
    means train, 2 test and 0 neither.

    Args:
        split: ``train`` or ``test``.
        fold: 1, 2 or 3.
        root: by default ``$PERCEPTION_DATA/video/hmdb51``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    AREA, FOLDS, SPLITS = "video/hmdb51", 3, ("train", "test")
    HINT = "It must hold videos/<class>/ and testTrainMulti_7030_splits/ of the HMDB page of serre-lab.clps.brown.edu."

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """See ``ActionVideos``."""
        ending, wanted = f"_test_split{fold}.txt", {"train": "1", "test": "2"}[split]
        lists = sorted((root / "testTrainMulti_7030_splits").glob(f"*{ending}"))
        if not lists:
            raise DataError(f"{str(root)!r} has no testTrainMulti_7030_splits/<class>{ending}. {cls.HINT}")
        classes = tuple(path.name.removesuffix(ending) for path in lists)
        records = []
        for label, path in enumerate(lists):
            for number, line in enumerate(read_text(path), start=1):
                cells = line.split()
                if cells and (len(cells) != 2 or cells[1] not in ("0", "1", "2")):
                    raise DataError(f"{str(path)!r}, line {number}: {line.strip()!r} is not a file name and 0, 1 or 2")
                if cells and cells[1] == wanted:
                    records.append(VideoRecord(root / "videos" / classes[label] / cells[0], label))
        return records, classes


@DATASETS.register_module()
class Kinetics(ActionVideos):
    """Kinetics-400, -600 or -700 ("The Kinetics Human Action Video Dataset", Kay et al., 2017).

    ``root`` holds ``train.csv``, ``val.csv`` and ``test.csv`` with the columns ``label``, ``youtube_id``,
    ``time_start`` and ``time_end``, and the clips as ``<split>/<class>/<id>_<start>_<end>.mp4`` (times of six digits),
    with blanks or underscores in the classes, or without their folders. Classes are those of ``train.csv`` where it is
    there. Copies lack videos that are no longer public: ``on_error='skip'`` leaves them out and says how many; figures
    then do not compare exactly with published ones.

    Args:
        split: ``train``, ``val`` or ``test``.
        fold: 1.
        root: by default ``$PERCEPTION_DATA/video/kinetics``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    AREA = "video/kinetics"
    HINT = "It must hold train.csv, val.csv, test.csv and train/, val/, test/ with the clips."

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """See ``ActionVideos``."""
        path = root / f"{split}.csv"
        rows = _table(path, ("label", "youtube_id", "time_start", "time_end"))
        first = root / "train.csv"
        named = _table(first, ("label",)) if first.is_file() and split != "train" else rows
        classes = tuple(sorted({row["label"] for row in named}))
        unknown = sorted({row["label"] for row in rows} - set(classes))
        if unknown:
            raise DataError(f"{str(path)!r}: class {unknown[0]!r} is {not_among(unknown[0], classes)}")
        places = {name: number for number, name in enumerate(classes)}
        folders = {name: _class_folder(root / split, name) for name in classes}
        records = []
        for number, row in enumerate(rows, start=2):
            try:
                times = f"{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            except (TypeError, ValueError) as error:
                raise DataError(f"{str(path)!r}, line {number}: a time is no whole number of seconds") from error
            records.append(
                VideoRecord(folders[row["label"]] / f"{row['youtube_id']}_{times}.mp4", places[row["label"]])
            )
        return records, classes


@DATASETS.register_module()
class SomethingSomethingV2(ActionVideos):
    """Something-Something V2 ("The something something video database", Goyal et al., 2017).

    ``root`` holds ``20bn-something-something-v2/<id>.webm`` and ``labels/`` with ``labels.json``, ``train.json``,
    ``validation.json`` and ``test.json``, or the older names that start with ``something-something-v2-``. The test
    videos are unlabelled. Left and right matter: do not mirror clips.

    Args:
        split: ``train``, ``val`` or ``test``.
        fold: 1.
        root: by default ``$PERCEPTION_DATA/video/ssv2``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    AREA = "video/ssv2"
    HINT = "It must hold 20bn-something-something-v2/ and labels/ of the data set's page."

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """See ``ActionVideos``."""
        numbers = _json(cls._list(root, "labels"), dict)
        classes = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
        path = cls._list(root, "validation" if split == "val" else split)
        records = []
        for row in _json(path, list):
            template = _key(row, "template", path) if split != "test" else ""
            label = _place(template.replace("[", "").replace("]", ""), classes, str(path)) if template else -1
            records.append(VideoRecord(root / "20bn-something-something-v2" / f"{_key(row, 'id', path)}.webm", label))
        return records, classes

    @staticmethod
    def _list(root: Path, name: str) -> Path:
        places = [root / "labels" / f"{name}.json"]
        for folder in (root / "labels", root):
            places.append(folder / f"something-something-v2-{name}.json")
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise DataError(f"{str(root)!r} has neither {' nor '.join(str(p.relative_to(root)) for p in places)}")
        return found


@DATASETS.register_module()
class Diving48(ActionVideos):
    """Diving48 ("RESOUND: Towards Action Recognition without Representation Bias", Li et al., 2018).

    ``root`` holds ``rgb/<name>.mp4``, ``Diving48_vocab.json`` and the lists of version 2, ``Diving48_V2_train.json``
    and ``Diving48_V2_test.json``.

    Args:
        split: ``train`` or ``test``.
        fold: 1.
        root: by default ``$PERCEPTION_DATA/video/diving48``.
        clip: how clips are cut: see ``VideoFiles``.
    """

    AREA, SPLITS = "video/diving48", ("train", "test")
    HINT = "It must hold rgb/ and the lists Diving48_V2_*.json and Diving48_vocab.json of the data set's page."

    @classmethod
    def read_lists(cls, root: Path, split: str, fold: int) -> Found:
        """See ``ActionVideos``."""
        vocabulary = _json(root / "Diving48_vocab.json", list)
        classes = tuple("/".join(map(str, dive)) if isinstance(dive, list) else str(dive) for dive in vocabulary)
        path = root / f"Diving48_V2_{split}.json"
        records = []
        for row in _json(path, list):
            name, label = _key(row, "vid_name", path), _key(row, "label", path)
            if not isinstance(label, int) or not 0 <= label < len(classes):
                raise DataError(f"{str(path)!r}: label {label!r} of {name!r} is out of range: {len(classes)} classes")
            records.append(VideoRecord(root / "rgb" / f"{name}.mp4", label))
        return records, classes


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(read_text(path)))
    lacking = [name for name in columns if not rows or name not in rows[0]]
    if lacking:
        raise DataError(f"{str(path)!r} has no column {', '.join(lacking)}")
    return rows


def _place(name: str, classes: tuple[str, ...], where: str) -> int:
    if name not in classes:
        raise DataError(f"{where}: class {name!r} is {not_among(name, classes)}")
    return classes.index(name)


def _class_folder(folder: Path, name: str) -> Path:
    candidates = (folder / name, folder / name.replace(" ", "_"))
    return next((path for path in candidates if path.is_dir()), folder)


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads("\n".join(read_text(path)))
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(found, kind):
        raise DataError(f"{str(path)!r} holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def _key(row: Mapping[str, Any], name: str, path: Path) -> Any:
    if not isinstance(row, dict) or name not in row:
        raise DataError(f"{str(path)!r}: an entry has no {name!r}: {str(row)[:80]}")
    return row[name]
