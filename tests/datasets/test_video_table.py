"""A user's own table of videos: what is used, what is left out, and that nothing is ever made up."""

import csv
import os

import cv2
import numpy as np
import pytest
import torch

from perception.datasets import video_table_rows
from perception.datasets.video_sampling import whole_frames
from perception.datasets.video_table import VideoTable
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.validation import validate_config

CLIP = dict(frames=4, sampling="whole")
COLUMNS = dict(path="clip id", label="change", group="surgery", text="dialogue")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(video_table_rows, "print_log", lambda text, logger, level: lines.append(text))
    return lines


def folder_of_frames(folder, grey, count=7):
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03d}.png"), np.full((8, 10, 3), grey + i, np.uint8))


def write(path, rows, header=("clip id", "dialogue", "change", "surgery")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def table(tmp_path):
    """Twelve clips of six operations, grey 10, 20, ...; the label is the number's parity."""
    rows = []
    for i in range(12):
        folder_of_frames(tmp_path / f"clip {i}", 10 * (i + 1))
        rows.append([f"clip {i}", f'Anna, pull\n"{i}"', i % 2, f"op{i // 2}"])
    return write(tmp_path / "table.csv", rows)


def test_a_batch(table):
    data = VideoTable(table, **COLUMNS, remove_names=["Anna"], **CLIP)
    batch = data.__getitems__([3, 0])
    assert len(data) == 12 and data.classes == ("0", "1") and batch["label"].tolist() == [1, 0]
    assert batch["video"].shape == (2, 3, 4, 8, 10) and batch["video"][:, 0, 0, 0, 0].tolist() == [40, 10]
    assert batch["frame_index"].tolist() == [[0, 2, 4, 6]] * 2
    assert batch["text"] == [', pull "3"', ', pull "0"'] and batch["text_missing"].tolist() == [False, False]
    assert batch["cluster"].tolist() == [1, 0] and data.group_names == tuple(f"op{i}" for i in range(6))
    assert data.keys[3] == "clip 3" and data.rows[3].line == 8  # texts hold line breaks
    assert "label" not in VideoTable(table, path="clip id", **CLIP).__getitems__([0])
    assert (
        validate_config(dict(evaluation=dict(all=dict(type="VideoTable", table=table, **COLUMNS, **CLIP))), False) == []
    )


def test_frames_of_the_whole_clip():
    assert whole_frames(np.array([16, 61, 3, 1]), 16)[0].tolist() == list(range(16))
    assert whole_frames(np.array([61]), 16).tolist() == [[4 * i for i in range(16)]]
    assert whole_frames(np.array([3, 1]), 4).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def test_texts_without_videos_touch_no_file(tmp_path):
    table = write(tmp_path / "t.csv", [[f"no file {i}", "pull", i % 2, i] for i in range(4)])
    batch = VideoTable(table, **COLUMNS, video=False).__getitems__([2])
    assert set(batch) == {"index", "video_index", "label", "text", "text_missing", "cluster"}
    with pytest.raises(DataError, match="4 of 4 videos cannot be used"):
        VideoTable(table, **COLUMNS)


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [(0, "", "clip id"), (2, "nan", "change"), (2, "NaN", "change"), (3, " ", "surgery"), (1, "", "dialogue")],
)
def test_rows_that_lack_something_are_named_or_counted(table, tmp_path, said, column, value, named):
    rows = [["clip 0", "a", "0", "x"], ["clip 1", "b", "1", "y"], ["clip 2", "c", "0", "z"]]
    rows[1][column] = value
    table = write(tmp_path / "holes.csv", rows)
    with pytest.raises(DataError, match=rf"1 of 3 rows lack a value: holes.csv, line 3: column '{named}'"):
        VideoTable(table, **COLUMNS, **CLIP)
    skip = dict(missing_text="skip") if named == "dialogue" else dict(missing="skip")
    data = VideoTable(table, **COLUMNS, **skip, **CLIP)
    assert data.keys == ["clip 0", "clip 2"] and list(data.dropped) == ["holes.csv, line 3"]
    assert any("left out 1 of 3 rows" in line for line in said)
    assert data.__getitems__([0, 1])["video"].flatten(1).float().mean(1).min() > 0


def test_a_missing_text_can_be_kept_and_is_told(table, tmp_path):
    table = write(tmp_path / "holes.csv", [["clip 0", "nan", "0", "x"], ["clip 1", "none", "1", "y"]])
    batch = VideoTable(table, **COLUMNS, missing_text="keep", **CLIP).__getitems__([0, 1])
    assert batch["text"] == ["", "none"] and batch["text_missing"].tolist() == [True, False]


def test_videos_that_cannot_be_read_are_left_out_with_their_rows(table, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"this is no video" * 100)
    rows = [["clip 0", "a", 0, "x"], ["broken.mp4", "b", 1, "y"], ["gone.mp4", "c", 1, "z"], ["clip 3", "d", 1, "z"]]
    table = write(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=r"1 of 4 videos cannot be used: .*gone.mp4: does not exist"):
        VideoTable(table, **COLUMNS, **CLIP)
    data = VideoTable(table, **COLUMNS, on_error="skip", **CLIP)
    assert data.keys == ["clip 0", "clip 3"] and data.texts == ["a", "d"] and len(data.dropped) == 2
    batch = data.__getitems__([0, 1])
    assert batch["cluster"].tolist() == [0, 2] and batch["label"].tolist() == [0, 1]  # numbers of the whole table
    assert batch["video"][:, 0, 0, 0, 0].tolist() == [10, 40]


def test_one_file_in_several_rows_keeps_its_texts(table, tmp_path, said):
    table = write(tmp_path / "t.csv", [["clip 0", "a", 0, "x"], ["clip 0", "b", 1, "x"], ["clip 0", "b", 1, "x"]])
    data = VideoTable(table, **COLUMNS, **CLIP)
    assert data.texts == ["a", "b", "b"] and data.targets.tolist() == [0, 1, 1]
    assert any("1 rows twice" in line for line in said)


def test_splits_keep_groups_together(table):
    sets = {s: VideoTable(table, **COLUMNS, split=s, folds=3, fold=1, **CLIP) for s in ("train", "val", "test", "all")}
    groups = {name: set(data.groups.tolist()) for name, data in sets.items()}
    assert (
        not groups["train"] & groups["test"]
        and not groups["val"] & groups["test"]
        and not groups["train"] & groups["val"]
    )
    assert [len(sets[name]) for name in ("train", "val", "test")] == [4, 4, 4]
    keys = [set(VideoTable(table, **COLUMNS, split="test", folds=3, fold=k, **CLIP).keys) for k in range(3)]
    assert set.union(*keys) == set(sets["all"].keys) and sum(map(len, keys)) == 12
    both = VideoTable(table, **COLUMNS, split="train", folds=3, fold=1, validation=False, **CLIP)
    assert set(both.keys) == set(sets["train"].keys) | set(sets["val"].keys)


def test_a_random_split_warns_of_the_leak(table, said):
    options = {**COLUMNS, **CLIP, "split_by": "random", "folds": 3}
    VideoTable(table, **options, split="train")
    assert "of 6 groups on several sides" in said[-1] and "split_by='group'" in said[-1]
    VideoTable(table, **{**options, "group": None}, split="train")
    assert "knows no groups" in said[-1]
    said.clear()
    VideoTable(table, **COLUMNS, **CLIP, split="train", folds=3)
    assert said == []
    with pytest.raises(DataError, match="name their column with group="):
        VideoTable(table, **{**COLUMNS, "group": None}, **CLIP, split="train")


def test_a_column_can_hold_the_split(table, tmp_path, said):
    rows = [[f"clip {i}", "t", i % 2, f"op{i // 2}", "test" if i > 8 else "train"] for i in range(12)]
    table = write(tmp_path / "s.csv", rows, ("clip id", "dialogue", "change", "surgery", "part"))
    data = VideoTable(table, **COLUMNS, **CLIP, split="test", split_by="part")
    assert data.keys == ["clip 9", "clip 10", "clip 11"] and "1 of 6 groups" in said[-1]
    assert data.rows_where(dict(surgery="op5")).tolist() == [False, True, True]
    with pytest.raises(DataError, match="no row is in the part 'val'"):
        VideoTable(table, **COLUMNS, **CLIP, split="val", split_by="part")
    with pytest.raises(DataError, match="nearest is 'part'"):
        VideoTable(table, **COLUMNS, **CLIP, split="val", split_by="prat")


def test_classes_and_groups_of_several_columns(tmp_path):
    rows = [["a", "up", "gate", 0], ["b", "down", "gate", 1], ["c", "train", "rust", 0]]
    table = write(tmp_path / "t.csv", rows, ("file", "label", "place", "camera"))
    options = dict(path="file", label="label", video=False, group=["place", "camera"], text=["place", "camera"])
    data = VideoTable(table, **options, classes=dict(still=["up", "down"], moving="train"))
    assert data.classes == ("still", "moving") and data.targets.tolist() == [0, 0, 1]
    assert data.group_names == ("gate / 0", "gate / 1", "rust / 0") and data.texts == ["gate, 0", "gate, 1", "rust, 0"]
    assert VideoTable(table, **options, where=dict(place=["gate"])).keys == ["a", "b"]
    with pytest.raises(DataError, match="label 'down' is not one of up, train"):
        VideoTable(table, **options, classes=dict(still="up", moving="train"))
    with pytest.raises(DataError, match="belongs to two classes"):
        VideoTable(table, **options, classes=dict(still=["up"], moving=["up"]))


def test_stored_features(table, tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(12, 2)
    np.savez(tmp_path / "plain.npz", embeddings=values)
    order = np.random.default_rng(0).permutation(12)
    np.savez(tmp_path / "named.npz", features=values[order], names=np.array([f"clip {i}" for i in order]))
    files = dict(text=str(tmp_path / "plain.npz"), video=str(tmp_path / "named.npz"))
    data = VideoTable(table, **COLUMNS, features=files, video=False, split="test", folds=3)
    batch = data.__getitems__(range(len(data)))
    wanted = torch.from_numpy(values[[int(key.split()[1]) for key in data.keys]])
    assert torch.equal(batch["text_features"], wanted) and torch.equal(batch["video_features"], wanted)

    def refused(message, **arrays):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(DataError, match=message):
            VideoTable(table, **COLUMNS, features=dict(text=str(tmp_path / "bad.npz")), video=False)

    refused("11 rows and no array 'names', the table has 12", features=values[:11])
    refused("lacks 1 of 12 rows, the first is 'clip 11'", features=values[:11], names=[f"clip {i}" for i in range(11)])
    refused("not finite for 'clip 1'", features=np.where(values == 3, np.nan, values))
    refused("a name twice", features=values, names=["clip 0"] * 12)
    refused("no array 'features'", vectors=values)
    refused("pickled", features=np.array([{}] * 12, dtype=object))


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        (dict(text="dialog"), "table", "no column 'dialog'.*nearest is 'dialogue'"),
        (dict(fold=5), "fold", "0 to folds - 1"),
        (dict(folds=2), "folds", "at least 3"),
        (dict(split="valid"), "split", "not one of"),
        (dict(missing="drop"), "missing", "not one of raise, skip"),
        (dict(split="train", folds=7), "table", "7 grouped folds of 6 groups"),
        (dict(where=dict(change="2")), "table", "no row with"),
        (dict(features=dict(text="none.npz")), "features", "does not exist"),
        (dict(sampling="whole", views=2), "views", "must be 1"),
    ],
)
def test_faults_of_configs(table, options, key, message):
    cfg = dict(type="VideoTable", table=table, **{**COLUMNS, **CLIP, **options})
    (fault,) = validate_config(dict(evaluation=dict(all=cfg)), training=False)
    assert fault.path == f"evaluation.all.{key}"
    with pytest.raises((ConfigError, DataError), match=message):
        raise ConfigError([fault])


def test_tables_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    for text, message in (
        ("a,b\n", "no rows below a header"),
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ("path,b\n1,2,3\n", "line 2: 3 cells, the header has 2"),
        ('path,b\n"1,2\n', "line 3|line 2"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            VideoTable(str(tmp_path / "t.csv"), video=False)
    with pytest.raises(DataError, match="cannot be read"):
        VideoTable(str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match="NOWHERE, which is not set"):
        VideoTable("$NOWHERE/t.csv")


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/video")
def test_a_table_of_real_videos():
    data = DATASETS.build(
        dict(
            type="VideoTable",
            table="$PERCEPTION_DATA/video/railwagon4/manifest.csv",
            path="file",
            label="label",
            group="location",
            text=["place", "location"],
            classes=dict(still=["bridge_down", "bridge_up", "no_action"], moving="train_in_out"),
            split="test",
            size=32,
            **CLIP,
        )
    )
    assert len(set(data.groups.tolist())) == 1 and len(data.group_names) == 5
    batch = data.__getitems__([0, len(data) - 1])
    assert batch["video"].shape == (2, 3, 4, 32, 32) and batch["video"].flatten(1).float().std(1).min() > 1
    assert batch["text"][0].split(", ")[1] == data.group_names[batch["cluster"][0]]
