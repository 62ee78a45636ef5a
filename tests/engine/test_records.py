"""The small parts: records of a run, plain states, means, pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from perception.engine.api import train
from perception.engine.environment import git_state
from perception.engine.hooks.pictures import write_gif, write_png
from perception.engine.hooks.scalars import _number, drop_lines_beyond
from perception.engine.meter import Window
from perception.engine.plain import plain_state
from perception.errors import PerceptionError


def test_lines_beyond_a_step_and_a_cut_line_go(tmp_path: Path) -> None:
    path = tmp_path / "scalars.jsonl"
    path.write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 2}\n{"step": 6, "loss": 3}\n{"step": 8, "lo')
    drop_lines_beyond(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]
    drop_lines_beyond(path, 0)
    assert path.read_text() == ""
    drop_lines_beyond(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()


def test_numbers_of_a_record_are_json() -> None:
    values = [_number(v) for v in (float("nan"), float("inf"), 0.5, 3, torch.tensor(2.0), np.float32(1.5), "a")]
    assert values == [None, None, 0.5, 3, 2.0, 1.5, "a"]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    cfg = tiny_config(epochs=1)
    cfg["default_hooks"]["scalars"]["tensorboard"] = True
    with pytest.raises(PerceptionError, match=r"pip install 'perception-lab\[vis\]'"):
        train(cfg, tmp_path, seed=0)


def test_window_means_by_hand() -> None:
    window = Window()
    window.add({"loss": torch.tensor(1.0), "rare": 4.0}, data_seconds=1.0, step_seconds=4.0)
    window.add({"loss": torch.tensor(2.0, dtype=torch.bfloat16)}, data_seconds=2.0, step_seconds=4.0)
    assert window.means() == {"loss": 1.5, "rare": 4.0}
    assert window.data_wait() == 3 / 8
    other = Window()
    other.load_state_dict(window.state_dict())
    other.add({"loss": 6.0}, 0.0, 0.0)
    assert other.means()["loss"] == 3.0
    window.reset()
    assert window.means() == {} and window.data_wait() == 0.0


def test_plain_state_converts_and_refuses_by_place() -> None:
    state = {"a": np.float64(1.5), "b": (np.arange(3), [torch.ones(1, requires_grad=True)]), "c": {2, 1}, 3: None}
    plain = plain_state(state)
    assert plain["a"] == 1.5 and type(plain["a"]) is float
    assert torch.equal(plain["b"][0], torch.arange(3)) and not plain["b"][1][0].requires_grad
    assert plain["c"] == [1, 2] and plain[3] is None
    with pytest.raises(TypeError, match=r"hooks\.Mine\.0 of the checkpoint is a Path"):
        plain_state({"hooks": {"Mine": [type("Path", (), {})()]}})


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    import cv2

    red = np.zeros((4, 5, 3), dtype=np.uint8)
    red[..., 0] = 255
    write_png(tmp_path / "new" / "red.png", red)
    assert cv2.imread(str(tmp_path / "new" / "red.png"))[0, 0].tolist() == [0, 0, 255]  # OpenCV reads BGR


def test_films_keep_their_frames_colours_and_pace(tmp_path: Path) -> None:
    from PIL import Image

    film = np.zeros((3, 4, 5, 3), dtype=np.uint8)
    film[0, ..., 0] = film[1, ..., 1] = film[2, ..., 2] = 255
    write_gif(tmp_path / "new" / "film.gif", film, milliseconds=120)
    with Image.open(tmp_path / "new" / "film.gif") as read:
        assert (read.n_frames, read.info["duration"], read.info["loop"]) == (3, 120, 0)
        for frame in range(3):
            read.seek(frame)
            assert np.array_equal(np.asarray(read.convert("RGB")), film[frame])


def test_git_state_outside_a_checkout_is_unknown(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
