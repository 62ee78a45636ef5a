"""Labels that need no labelling and can be told by motion alone: which way a clip is played, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from perception.datasets.base import Dataset
from perception.errors import ConfigError, Fault, check_arguments, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

TASKS = ("order", "speed")


@DATASETS.register_module()
class Playback(Dataset):
    """Every clip of a data set in several ways of playing it, labelled by the way.

    Most sets of videos are told by single frames; this shows whether features hold any motion.

    - ``order``: ``forward`` or ``backward``. What does not know the order of frames, such as their mean or their
      deviation over time, is at chance exactly, clip by clip. ("Shuffle and Learn", Misra et al., 2016; "Learning and
      Using the Arrow of Time", Wei et al., 2018.)
    - ``speed``: every frame, every second, every fourth: the data set is read with each of ``strides``. Pixels are near
      chance where cameras stand still. ("SpeedNet", Benaim et al., 2020.)

    The ways of one clip lie side by side, and a split keeps them together as the data set itself does.

    Args:
        dataset: config of a data set of videos, such as ``dict(type='RailWagon4', split='train',
            sampling='dense_views')``; its own labels are not used, nor is its stride by ``speed``.
        task: ``order`` or ``speed``.
        strides: of ``speed``, in frames.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        targets: (n,) int64 labels.
        groups: (n,) those of the data set, where it has some.
    """

    modality: ClassVar[str] = "video"

    def __init__(
        self,
        dataset: dict[str, Any],
        task: str = "order",
        strides: Sequence[int] = (1, 2, 4),
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments("Playback", self.check_config, locals())
        super().__init__(transforms, seed)
        self.task = task
        ways = [{}] if task == "order" else [{"stride": stride} for stride in strides]
        self.members: list[Any] = [DATASETS.build({**dataset, **way}) for way in ways]
        kind = getattr(self.members[0], "modality", None)
        if kind != "video":
            raise ConfigError([Fault("dataset", dataset["type"], f"is of {kind}, not of video")], "Playback")
        self.classes = ("forward", "backward") if task == "order" else tuple(f"stride {s}" for s in strides)
        count = len(self.members[0])
        self.targets = np.tile(np.arange(len(self.classes), dtype=np.int64), count)
        groups = getattr(self.members[0], "groups", None)
        if groups is not None:
            self.groups = np.repeat(np.asarray(groups), len(self) // len(groups))

    def __len__(self) -> int:
        return len(self.targets)

    def fetch(self, indices: np.ndarray) -> Batch:
        """As ``draw``, with the random choices of epoch 0."""
        return self.draw(indices, SampleRandom(self.seed, 0, indices))

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """``video`` as the data set gives it, ``label`` (n,) and ``index`` (n,)."""
        indices = np.asarray(indices)
        sample, way = np.divmod(indices, len(self.classes))
        clips: list[Any] = [None] * len(indices)
        cuts = random.streams(1)  # what a data set draws for its cuts is not drawn again by transforms
        for member, rows in self._shared(way):
            found = member.draw(sample[rows], cuts.rows(rows))["video"]
            for row, clip in zip(rows.tolist(), found, strict=True):
                clips[row] = clip.flip(-3) if self.task == "order" and way[row] else clip
        same = len({clip.shape for clip in clips}) == 1
        return {
            "video": torch.stack(clips) if same else clips,
            "index": torch.from_numpy(indices),
            "label": torch.from_numpy(self.targets[indices]),
        }

    def _shared(self, way: np.ndarray) -> Iterable[tuple[Any, np.ndarray]]:
        """Every data set that is read, and the rows of the batch that come from it."""
        if self.task == "order":
            return [(self.members[0], np.arange(len(way)))]
        return [(self.members[number], np.flatnonzero(way == number)) for number in np.unique(way).tolist()]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config."""
        if cfg["task"] not in TASKS:
            yield "task", not_among(cfg["task"], TASKS)
        strides = cfg["strides"]
        if len(strides) < 2 or len(set(strides)) < len(strides) or min(strides) < 1:
            yield "strides", "must be at least two different numbers of frames, each at least 1"
        if not isinstance(cfg["dataset"], dict) or "type" not in cfg["dataset"]:
            yield "dataset", "must be the config of a data set, such as dict(type='RailWagon4', split='train')"
        elif cfg["dataset"].get("transforms"):
            yield "dataset", "has transforms of its own: give them to Playback"
