"""Loading bridges at railway wagons in four states: a small real set of videos from fixed cameras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from perception.datasets.base import data_root
from perception.datasets.images import check_split
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord
from perception.datasets.weizmann4 import read_table
from perception.errors import ConfigError, Fault, not_among
from perception.registry import DATASETS

CLASSES = ("bridge_down", "bridge_up", "no_action", "train_in_out")
MOVING = ("still", "moving")
LOCATIONS = ("gate", "rusty_bridge", "station_outside", "turquoise_bridge", "two_stations")
HINT = "It must hold manifest.csv and the clips that it names."


@DATASETS.register_module()
class RailWagon4(VideoFiles):
    """160 clips of 96 x 128 pixels at 6 frames a second, 10 s each: 30 a class for training and 10 for tests.

    Protocols: the split; one of five camera locations left out; moving against still (``target='moving'``); the target
    of few-shot learning across domains. States are largely told by single frames: print a baseline on static pixels
    beside every figure.

    Args:
        split: ``train``, ``test``, ``all``, or ``pretrain``, which is ``train`` without labels.
        location: leave this one out: ``test`` then has all clips from there, ``train`` all others.
        target: ``state`` (four classes) or ``moving``: everything but ``no_action`` moves.
        root: folder of the clips, by default ``$PERCEPTION_DATA/video/railwagon4``.
        keep: see ``VideoFiles``.
        clip: how clips are cut: see ``VideoFiles``.

    Attributes:
        groups: (videos,) int64 number of the location of every clip in ``LOCATIONS``, for grouped folds.
    """

    SPLITS = ("pretrain", "train", "test", "all")

    def __init__(
        self,
        split: str = "train",
        location: str | None = None,
        target: str = "state",
        root: str | None = None,
        keep: bool = True,
        **clip: Any,
    ) -> None:
        check_split(split, self.SPLITS)
        chosen = {"location": location, "target": target}
        faults = [Fault(key, chosen[key], text) for key, text in self._faults(chosen)]
        if faults:
            raise ConfigError(faults, "RailWagon4")
        folder = data_root(root, "video/railwagon4", HINT)
        rows = read_table(folder, ("file", "label", "split", "location"))
        tested = split == "test"
        if split != "all":
            rows = [
                r for r in rows if (r["split"] == "test" if location is None else r["location"] == location) == tested
            ]
        classes = CLASSES if target == "state" else MOVING
        labels = [CLASSES.index(r["label"]) if target == "state" else int(r["label"] != "no_action") for r in rows]
        records = [VideoRecord(folder / r["file"], label) for r, label in zip(rows, labels, strict=True)]
        super().__init__(records, classes, keep=keep, **{"labels": split != "pretrain", **clip})
        places = {str(folder / r["file"]): LOCATIONS.index(r["location"]) for r in rows}
        self.groups = np.array([places[str(record.path)] for record in self.records], dtype=np.int64)
        self.split = split

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["location"] is not None and cfg["location"] not in LOCATIONS:
            yield "location", not_among(cfg["location"], LOCATIONS)
        if cfg["target"] not in ("state", "moving"):
            yield "target", not_among(cfg["target"], ("state", "moving"))

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, location or target, missing data, clips that cannot be."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)
        yield from cls.clip_faults(cfg)
        read_table(data_root(cfg["root"], "video/railwagon4", HINT), ("file", "label", "split", "location"))
