"""Bad data: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from bad_runs import CLIPS, GRAPH, IMAGES, SPEECH, TUNING, TUNING_CLIPS, TUNING_SPEECH, Payload, folder_of_images, train

from perception.cli import main


def image_folder(root: Path) -> str:
    return f"train_dataloader.dataset={{'type': 'ImageFolder', 'root': '{root}', 'grey': True, 'size': 8}}"


def folder_of_videos(root: Path, count: int = 6, size: tuple[int, int] = (48, 32)) -> Path:
    """Films of 12 frames in two classes."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = root / f"{'ab'[i % 2]}" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
        for _ in range(12):
            writer.write(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        writer.release()
    return root


def video_folder(root: Path, more: str = "") -> str:
    data = f"'type': 'VideoFolder', 'root': '{root}', 'frames': 8, 'stride': 1, 'size': 32, 'timeout': 20.0"
    return f"train_dataloader.dataset={{{data}{more}}}"


def folder_of_recordings(root: Path, columns: str = "path,label,speaker", count: int = 12) -> Path:
    """Recordings of half a second, of two labels by as many speakers as files, and their table."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    lines = [columns]
    for i in range(count):
        path = root / f"{'ab'[i % 2]}" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, random.uniform(-0.5, 0.5, 4000), 8000)
        label = "ab"[i % 2]
        row = dict(path=path.relative_to(root), label=label, labels=label, speaker=f"s{i}", split="train")
        lines.append(",".join(str(row[name]) for name in columns.split(",")))
    (root / "table.csv").write_text("\n".join(lines))
    return root


def speech_table(root: Path, more: str = "", split: str = "pretrain") -> str:
    data = f"'type': 'SpeechTable', 'table': '{root / 'table.csv'}', 'split': '{split}', 'sample_rate': 8000"
    return f"train_dataloader.dataset={{{data}, 'parts': (0.6, 0.2){more}}}"


CLIPS_ALONE = ["evaluation={}", "train_dataloader.batch_size=2"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["image", "video", "speech"])
def test_truncated_file(fails, tmp_path, kind, workers):
    if kind == "image":
        broken = folder_of_images(tmp_path / "files") / "a" / "4.jpg"
        command, words = train(IMAGES, image_folder(tmp_path / "files")), ["truncated"]
    elif kind == "speech":
        broken = folder_of_recordings(tmp_path / "files", "path,label,speaker,split") / "a" / "4.wav"
        command = train(SPEECH, speech_table(tmp_path / "files"), *CLIPS_ALONE)
        words = ["1 of 12 clips cannot be used (1 cut off)", "156 of the 8000 bytes", "on_error='skip'"]
    else:
        broken = folder_of_videos(tmp_path / "files") / "a" / "4.mp4"
        command, words = train(CLIPS, video_folder(tmp_path / "files"), *CLIPS_ALONE), ["decord: ", "opencv: "]
    broken.write_bytes(broken.read_bytes()[:200])
    message = fails(*command, f"train_dataloader.num_workers={workers}", code=1)
    assert str(broken) in message and all(word in message for word in words), message


@pytest.mark.parametrize(("config", "data"), [(IMAGES, image_folder), (CLIPS, video_folder)], ids=["image", "video"])
def test_empty_folder(fails, tmp_path, config, data):
    (tmp_path / "files").mkdir()
    message = fails(*train(config, data(tmp_path / "files")), code=2)
    assert str(tmp_path / "files") in message and "train_dataloader.dataset.root" in message


def test_what_a_folder_of_videos_leaves_out_is_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    root = folder_of_videos(tmp_path / "films")
    (root / "b" / "3.mp4").write_bytes(b"no film")
    assert main(train(CLIPS, video_folder(root, ", 'on_error': 'skip'"), *CLIPS_ALONE)) == 0
    told = " ".join("".join(capfd.readouterr()).split())
    assert "left out 1 of 6 videos: " in told and "3.mp4" in told
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 3  # five are left, in batches of two


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("gone", None, "1 missing"),
        ("empty", b"", "1 empty"),
        ("text", b"no sound", "1 damaged"),
        ("silent", np.zeros(4000), "1 silent"),
        ("short", np.full(400, 0.5), "1 too short"),
    ],
)
def test_recordings_that_cannot_be_used_are_counted(fails, tmp_path, capfd, name, content, word):
    root = folder_of_recordings(tmp_path / "files", "path,label,speaker,split")
    broken = root / "b" / "3.wav"
    broken.unlink()
    if isinstance(content, bytes):
        broken.write_bytes(content)
    elif content is not None:
        soundfile.write(broken, content, 8000)
    message = fails(*train(SPEECH, speech_table(root, ", 'join_seconds': 0.6"), *CLIPS_ALONE), code=1)
    assert str(broken) in message and "on_error='skip' leaves" in message, message
    assert name == "silent" or word in message, message  # silence shows when a clip is read: one, not a count
    assert main([*train(SPEECH, speech_table(root, ", 'on_error': 'skip'"), *CLIPS_ALONE), "--overwrite"]) == 0
    told = " ".join("".join(capfd.readouterr()).split())
    assert f"left out 1 of 12 clips ({word}): " in told and "3.wav" in told
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 6  # 11 are left, in batches of two


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("path,speaker", ["no column 'label'", "it has path, speaker"]),
        ("path,labels,speaker", ["no column 'label'", "nearest is 'labels'"]),
        ("path,label", ["no column 'speaker'", "cannot be split"]),
    ],
)
def test_tables_of_recordings_that_cannot_be(fails, tmp_path, columns, words):
    root = folder_of_recordings(tmp_path / "files", columns)
    message = fails(*train(SPEECH, speech_table(root), *CLIPS_ALONE), code=2)
    assert str(root / "table.csv") in message and all(word in message for word in words), message


def test_spans_that_are_longer_than_clips(fails):
    spans = ["model.pretexts.wav2vec2.mask_length=80", "train_dataloader.dataset.speakers=4", "evaluation={}"]
    message = fails(*train(SPEECH, *spans), code=1)
    assert "59 frames, fewer than the 80 of one masked span" in message and "'mask_length' to at most 59" in message


@pytest.mark.parametrize("place", ["train_dataloader.dataset", "evaluation.test"])
def test_recordings_of_another_rate_than_the_record(fails, tmp_path, place):
    message = fails("validate", SPEECH, "--set", f"{place}.sample_rate=16000", code=2)
    assert f"{place}.sample_rate = 16000" in message and "sample_rate = 8000" in message and "'8000'" in message


def test_a_speaker_that_is_unheard_in_the_test_alone(fails):
    speaker = "train_dataloader.dataset.held_out_speaker"
    message = fails("validate", "speech/ce_tiny_fsdd", "--set", f"{speaker}=theo", code=2)
    assert "test_dataloader.dataset.held_out_speaker = 'lucas'" in message and f"{speaker} = 'theo'" in message


def test_groups_that_are_not_there(fails):
    contrast = ["model.type=ContrastiveClassifier", "train_dataloader.dataset.speakers=4"]
    message = fails("validate", TUNING_SPEECH, "--set", *contrast, "model.across_groups=True", code=2)
    assert "model.group_key = None" in message and "'speaker'" in message
    message = fails(*train(TUNING_SPEECH, *contrast, "model.group_key=speker"), code=1)
    assert "group_key = 'speker'" in message and "nearest is 'speaker'" in message
    message = fails(*train(TUNING_SPEECH, "train_dataloader.sampler.groups=speaker"), "--overwrite", code=1)
    assert "PKSampler.groups = 'speaker'" in message and "nearest is 'speakers'" in message


def test_speakers_and_sizes_that_nobody_knows(fails):
    message = fails("validate", SPEECH, "--set", "model.backbone.preset=bse", code=2)
    assert "model.backbone.preset = 'bse'" in message and "nearest is 'base'" in message
    if "PERCEPTION_DATA" in os.environ:
        place = "train_dataloader.dataset.held_out_speaker"
        message = fails("validate", "speech/joint_tiny_fsdd", "--set", f"{place}=lukas", code=2)
        assert f"{place} = 'lukas'" in message and "nearest is 'lucas'" in message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (", 'frames': 4", ["clips of (4, 32, 32)", "frames=8"]),
        (", 'size': None", ["clips of (32, 48) pixels", "says (32, 32)", "size="]),
    ],
)
def test_clips_that_are_not_those_of_the_record(fails, tmp_path, more, words):
    root = folder_of_videos(tmp_path / "films")
    message = fails(*train(CLIPS, video_folder(root, more), *CLIPS_ALONE), code=1)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a/0.mp4 0\nb/1.mp4 1\nb/9.mp4 1", ["1 of 3 videos", "b/9.mp4", "does not exist", "on_error='skip'"]),
        ("a/0.mp4 0\nb/1.mp4", ["line 2", "there is no label"]),
        ("path,label\na/0.mp4,wave\nb/1.mp4,wavd", ["'wavd'", "nearest is 'wave'"]),
    ],
)
def test_lists_of_videos_that_cannot_be(fails, tmp_path, lines, words):
    folder_of_videos(tmp_path / "films")
    (tmp_path / "films" / "list.csv").write_text(lines)
    data = f"'type': 'VideoManifest', 'path': '{tmp_path / 'films' / 'list.csv'}', 'frames': 8, 'size': 32"
    classes = ", 'classes': ['bend', 'wave']" if "wave" in lines else ""
    command = train(CLIPS, f"train_dataloader.dataset={{{data}{classes}}}", *CLIPS_ALONE)
    message = fails(*command, code=1 if "9.mp4" in lines else 2)
    assert all(word in message for word in words), message


def test_npz_with_pickles_is_refused_and_not_run(fails, tmp_path):
    path, canary = tmp_path / "graph.npz", tmp_path / "ran"
    np.savez(path, x=np.array([Payload(canary)], dtype=object), edge_index=np.zeros((2, 1), dtype=int))
    message = fails(*train(GRAPH, graph_file(path)), code=1)
    assert str(path) in message and "pickle" in message
    assert not canary.exists()


def graph_file(path: Path) -> str:
    return f"train_dataloader.dataset={{'type': 'GraphFile', 'path': '{path}'}}"


def write_graph(path: Path, **changed: np.ndarray) -> Path:
    random = np.random.default_rng(0)
    arrays = {"x": random.random((20, 64), dtype=np.float32), "edge_index": random.integers(0, 20, (2, 60))}
    np.savez(path, **{**arrays, **changed})
    return path


def test_edges_out_of_range(fails, tmp_path):
    edges = np.zeros((2, 60), dtype=int)
    edges[1, 7] = 20
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", edge_index=edges))), code=1)
    assert "column 7" in message and "20 nodes" in message


def test_nan_features(fails, tmp_path):
    x = np.zeros((20, 64), dtype=np.float32)
    x[3, 5] = np.nan
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", x=x))), code=1)
    assert "x[3, 5]" in message and "nan" in message


def test_features_of_another_width(fails, tmp_path):
    x = np.ones((20, 9), dtype=np.float32)
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", x=x))), code=1)
    assert "9" in message and "64" in message


@pytest.mark.parametrize(("config", "classes"), [(TUNING, 5), (TUNING_CLIPS, 3), (TUNING_SPEECH, 3)])
def test_labels_out_of_range(fails, config, classes):
    message = fails("train", config, "--out", "run", "--set", f"model.num_classes={classes}", code=1)
    assert f"model.num_classes = {classes}" in message and "out of range" in message
