"""Ways of playing clips as labels: what is reversed, what is skipped, and that still pixels cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.config import load_config
from perception.datasets.playback import Playback
from perception.errors import ConfigError
from perception.registry import DATASETS
from perception.validation import validate_config


@pytest.fixture
def folder(tmp_path):
    """Three videos as folders of frames; frame t of video v is filled with 40 v + 2 t."""
    import cv2

    for video in range(3):
        place = tmp_path / "some" / f"v{video}"
        place.mkdir(parents=True)
        for frame in range(16):
            cv2.imwrite(str(place / f"{frame:03d}.png"), np.full((8, 8, 3), 40 * video + 2 * frame, dtype=np.uint8))
    return dict(type="VideoFolder", root=str(tmp_path), frames=4, sampling="dense_views")


def values(batch):
    """(n, T) grey values of the frames."""
    return batch["video"][:, 0, :, 0, 0].tolist()


def test_every_clip_is_played_forward_and_backward(folder):
    data = Playback(dict(folder, stride=2))
    assert len(data) == 6 and data.classes == ("forward", "backward") and data.targets.tolist() == [0, 1] * 3
    batch = data.__getitems__([0, 1, 5])
    forward = values(DATASETS.build(dict(folder, stride=2)).__getitems__([0, 2]))
    assert values(batch) == [forward[0], forward[0][::-1], forward[1][::-1]]
    assert np.diff(forward[0]).tolist() == [4, 4, 4]
    assert batch["label"].tolist() == [0, 1, 1] and batch["index"].tolist() == [0, 1, 5]
    video = batch["video"].double()
    assert torch.equal(video[0].mean(1), video[1].mean(1)) and torch.equal(video[0].var(1), video[1].var(1))


def test_speed_is_the_stride(folder):
    data = Playback(folder, task="speed", strides=(1, 4))
    assert data.classes == ("stride 1", "stride 4") and len(data) == 6
    batch = data.__getitems__([3, 2])
    assert batch["label"].tolist() == [1, 0]
    assert np.diff(values(batch)).tolist() == [[8, 8, 8], [2, 2, 2]]
    assert all(40 <= v < 80 for clip in values(batch) for v in clip)  # both of the second video


def test_draws_depend_on_the_sample_alone_and_transforms_have_their_own(folder):
    data = Playback(dict(folder, sampling="random", stride=1), transforms=[dict(type="RandomFlip")], seed=3)
    whole = values(data.__getitems__(list(range(6))))
    assert [values(data.__getitems__([i]))[0] for i in range(6)] == whole


def test_groups_follow_their_videos():
    @DATASETS.register_module(name="GroupedClips", force=True)
    class Clips:
        modality, groups = "video", np.array([4, 9])

        def __len__(self):
            return 4  # two clips of each video

        def draw(self, indices, random):
            return {"video": torch.zeros(len(indices), 3, 4, 2, 2)}

    assert Playback(dict(type="GroupedClips")).groups.tolist() == [4] * 4 + [9] * 4


@pytest.mark.parametrize("task", ["order", "speed"])
def test_it_stands_in_an_evaluation_section(folder, task):
    """Validation fills in the defaults of the inner data set, its stride, too."""
    cfg = load_config("video/videomae_vit-tiny_moving-digits")
    for split in ("train", "val", "test"):
        cfg.evaluation[split] = dict(type="Playback", dataset=folder, task=task)
    assert validate_config(cfg) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(task="sped"), "'speed'"),
        (dict(strides=(2,)), "at least two different"),
        (dict(strides=(0, 1)), "at least 1"),
        (dict(dataset="RailWagon4"), "config of a data set"),
        (dict(dataset=dict(type="VideoFolder", transforms=[dict(type="RandomFlip")])), "transforms of its own"),
        (dict(dataset=dict(type="Digits")), "not of video"),
    ],
)
def test_faults_are_told(folder, options, match):
    with pytest.raises(ConfigError, match=match):
        Playback(**{"dataset": folder, **options})
