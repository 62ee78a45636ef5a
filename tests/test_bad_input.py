"""Bad input through the command line: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from perception.cli import main

IMAGES = "image/mae_vit-tiny_digits"
TUNING = "image/finetune_vit-tiny_digits"
GRAPH = "graph/graphmae_gat_digits"
TOWERS = "remote_sensing/clip_tiny_land-cover"
FRAMES = "driving/centerpoint_pillars_kitti-frames"
POINTS = "driving/prc_pillars_scenes"
FUSION = "driving/finetune_fusion_scenes"
CLIPS = "video/videomae_vit-tiny_moving-digits"
TUNING_CLIPS = "video/finetune_vit-tiny_moving-digits"
SPEECH = "speech/wav2vec2_tiny_varieties"
TUNING_SPEECH = "speech/finetune_wav2vec2-tiny_varieties"
SHORT = ["train_cfg.max_epochs=1"]


@pytest.fixture
def fails(capfd, tmp_path, monkeypatch):
    """Run a command that must fail, and return its message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int) -> str:
        assert main(list(arguments)) == code
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert error.count("perception: ") == 1
        return error.split("perception: ", 1)[1]

    return run


def train(config: str, *overrides: str) -> list[str]:
    return ["train", config, "--out", "run", "--set", *SHORT, *overrides]


# -- data ---------------------------------------------------------------------------------------------------------


def folder_of_images(root: Path, count: int = 12) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        path = root / f"{'ab'[i % 2]}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    return root


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
    assert str(broken) in message and (name == "silent" or word in message), message
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


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


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


# -- captions and bands -------------------------------------------------------------------------------------------


def captions(root: Path, count: int = 6, changes: dict[str, dict[str, object]] | None = None) -> str:
    """A caption file and its images, ``changes`` by file name; returns what the data set's config begins with."""
    folder_of_images(root / "images", count)
    names = sorted(str(path.relative_to(root / "images")) for path in (root / "images").rglob("*.jpg"))
    records = [{"filename": name, "captions": ["a river", "water"], "label": "river"} for name in names]
    records = [{**record, **(changes or {}).get(record["filename"], {})} for record in records]
    (root / "captions.json").write_text(json.dumps(records))
    return f"'type': 'CaptionFiles', 'file': '{root / 'captions.json'}', 'images': '{root / 'images'}', 'size': 64"


def towers(data: str, *overrides: str) -> list[str]:
    transforms = "[{'type': 'PickCaption'}, {'type': 'MultiCrop', 'size': 64, 'global_views': 1, 'local_views': 0}]"
    dataset = f"train_dataloader.dataset={{{data}, 'transforms': {transforms}}}"
    return train(TOWERS, dataset, "train_dataloader.batch_size=2", "evaluation={}", *overrides)


def test_captions_of_images_that_are_missing(fails, tmp_path):
    data = captions(tmp_path)
    for name in ("a/0.jpg", "b/3.jpg"):
        (tmp_path / "images" / name).unlink()
    message = fails(*towers(data), code=1)
    assert "names 2 images that are not in" in message and "a/0.jpg, b/3.jpg" in message and "'drop'" in message


def test_what_captions_leave_out_is_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    data = captions(tmp_path, changes={"a/2.jpg": {"captions": []}, "a/4.jpg": {"captions": ["a river", " "]}})
    (tmp_path / "images" / "b" / "3.jpg").unlink()
    assert main(towers(f"{data}, 'missing': 'drop', 'empty': 'drop'")) == 0
    out = "".join(capfd.readouterr())
    assert "1 of 6 images are missing: b/3.jpg" in out and "1 of 6 images have no caption: a/2.jpg" in out
    assert "1 of 6 images have an empty caption that was dropped: a/4.jpg" in out
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 2  # four images are left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": ["a river", "  "]}, ["1 captions are empty, of b/1.jpg", "empty='drop'"]),
        ({"captions": []}, ["1 images have no caption: b/1.jpg", "empty='drop'"]),
        ({"captions": ["a river", 7]}, ["b/1.jpg"]),
    ],
)
def test_empty_captions(fails, tmp_path, change, words):
    message = fails(*towers(captions(tmp_path, changes={"b/1.jpg": change})), code=1)
    assert str(tmp_path / "captions.json") in message and all(word in message for word in words), message


def test_a_class_outside_the_list(fails, tmp_path):
    data = captions(tmp_path, changes={"b/1.jpg": {"label": "rivr"}})
    message = fails(*towers(f"{data}, 'classes': ['forest', 'river']"), code=1)
    assert "1 images have a class outside the 2 of the list: 'rivr' (1)" in message and "nearest" in message


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_behind_a_caption(fails, tmp_path, in_memory):
    data = captions(tmp_path)
    broken = tmp_path / "images" / "b" / "5.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    message = fails(*towers(f"{data}, 'in_memory': {in_memory}"), code=1)
    assert str(broken) in message and "truncated" in message


def test_views_that_are_no_whole_patches(fails):
    key = "train_dataloader.dataset.transforms.1"
    message = fails("validate", TOWERS, "--set", f"{key}.local_views=2", f"{key}.local_size=40", code=2)
    assert f"{key}.local_size" in message and "'32' or '48'" in message


BANDS = "model.backbone.preprocess.bands"


def test_more_bands_than_the_images_have(fails):
    four = ["model.backbone.in_channels=4", "model.backbone.preprocess.mean=(0.5, 0.5, 0.5, 0.5)"]
    four += ["model.backbone.preprocess.std=(0.2, 0.2, 0.2, 0.2)", f"{BANDS}=('red', 'green', 'blue', 'nir')"]
    message = fails(*train(TOWERS, *four), code=1)
    assert "(64, 3, 64, 64)" in message and "'nir'" in message


def test_bands_that_nobody_knows(fails, tmp_path):
    (tmp_path / "eurosat").mkdir()
    data = f"{{'type': 'EuroSAT', 'root': '{tmp_path / 'eurosat'}', 'bands': ['B04', 'B03', 'B22']}}"
    message = fails("validate", "remote_sensing/simclr_convnet_eurosat-mini", "--set", f"evaluation.val={data}", code=2)
    assert "evaluation.val" in message and "B22" in message
    message = fails("validate", TOWERS, "--set", f"{BANDS}=('red', 'green', 'red')", code=2)
    assert "names a band twice" in message


# -- driving ------------------------------------------------------------------------------------------------------

CALIBRATION = {
    "P2": "700 0 600 44 0 700 180 0.2 0 0 1 0.0027",
    "R0_rect": "1 0 0 0 1 0 0 0 1",
    "Tr_velo_to_cam": "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27",
}
AHEAD = "Car 0 0 0 560 150 640 250 1.5 1.8 4.0 {x} 1.7 12.0 -1.57"  # x metres to the right of the camera


def frames(
    root: Path, count: int = 2, rows: tuple[str, ...] = (AHEAD.format(x=0),), **changed: str | None
) -> list[str]:
    """KITTI frames of a car's points, with changed rows of the calibration; returns what makes a run of 2 steps."""
    random = np.random.default_rng(0)
    for part in ("calib", "image_2", "label_2", "velodyne"):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    given = {**CALIBRATION, **changed}
    for name in (f"training/{{}}/{i:06d}" for i in range(count)):
        calibration = "\n".join(f"{key}: {value}" for key, value in given.items() if value is not None)
        (root / f"{name.format('calib')}.txt").write_text(calibration)
        (root / f"{name.format('label_2')}.txt").write_text("\n".join(rows))
        cv2.imwrite(str(root / f"{name.format('image_2')}.png"), np.zeros((375, 1242, 3), np.uint8))
        points = random.uniform((10, -1, -1.6, 0), (14, 1, -0.2, 1), (200, 4)).astype(np.float32)
        points.tofile(root / f"{name.format('velodyne')}.bin")
    sets = [f"{part}_dataloader.dataset.root={root}" for part in ("train", "val", "test")]
    return ["train", FRAMES, "--out", "run", "--set", "train_cfg.max_iters=2", *sets]


def scalars() -> list[dict[str, float]]:
    return [json.loads(line) for line in Path("run/seed_0/scalars.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Tr_velo_to_cam": None}, ["no row 'Tr_velo_to_cam'", "it has P2, R0_rect"]),
        ({"P2": None}, ["no row 'P2'"]),
        ({"Tr_velo_to_cam": "0 -1.1 0 0 0 0 -1 -0.08 1 0 0 -0.27"}, ["Tr_velo_to_cam", "is not rigid"]),
        ({"R0_rect": "1 0 0 0 1 0.2 0 0 1"}, ["R0_rect", "is not rigid"]),
        ({"Tr_velo_to_cam": "0 1 0 0 0 0 -1 -0.08 1 0 0 -0.27"}, ["Tr_velo_to_cam", "is mirrored"]),
        ({"P2": "700 0 600 44 0 700 180 0.2 0 0 0 0"}, ["P2", "is no camera matrix"]),
    ],
)
def test_calibrations_that_are_missing_or_wrong(fails, tmp_path, changed, words):
    message = fails(*frames(tmp_path / "kitti", **changed), code=1)
    assert all(word in message for word in ["000000.txt", *words]), message


def test_a_camera_without_its_picture(fails, tmp_path, capfd):
    command = frames(tmp_path / "kitti")
    (tmp_path / "kitti/training/image_2/000001.png").unlink()
    message = fails(*command, code=1)
    assert "1 of 2 frames are incomplete" in message and "no picture image_2/000001.png" in message
    assert "on_missing='skip' leaves them out" in message
    skipping = [f"{part}_dataloader.dataset.on_missing=skip" for part in ("train", "val", "test")]
    assert main([*command, *skipping, "train_dataloader.batch_size=1", "--overwrite"]) == 0
    assert "left out 1 of 2 frames are incomplete" in "".join(capfd.readouterr())
    (tmp_path / "kitti/training/image_2/000000.png").write_bytes(b"no picture")
    message = fails(*command, *skipping, "--overwrite", code=1)
    assert "000000.png" in message


def test_a_fusion_without_pictures(fails):
    small = [f"{part}_dataloader.dataset.count=4" for part in ("train", "val", "test")]
    message = fails("train", FUSION, "--out", "run", "--set", *small, "train_dataloader.dataset.cameras=False", code=1)
    assert "the camera branch reads 'cams'" in message and "drop_camera" in message


@pytest.mark.parametrize("name", ["car", "Palm"])
def test_a_box_of_a_class_that_nobody_knows(fails, tmp_path, name):
    row = AHEAD.format(x=0).replace("Car", name)
    message = fails(*frames(tmp_path / "kitti", rows=(AHEAD.format(x=0), row)), code=1)
    assert "000000.txt', row 2" in message and f"'{name}' is no type of KITTI" in message
    assert name != "car" or "Did you mean 'Car'?" in message


def test_classes_of_another_data_set(fails, tmp_path):
    message = fails(*frames(tmp_path / "kitti"), "model.classes=('Car', 'Pedestrain')", code=1)
    assert "Car, Pedestrian, Cyclist" in message and "Pedestrain" in message


def test_what_sweeps_and_boxes_lack_is_counted_and_training_goes_on(tmp_path, monkeypatch, capfd):
    """An empty sweep, points that are not finite, a frame without boxes, a box beyond the range."""
    monkeypatch.chdir(tmp_path)
    command = frames(tmp_path / "kitti", count=4)
    data = tmp_path / "kitti/training"
    (data / "velodyne/000000.bin").write_bytes(b"")
    points = np.fromfile(data / "velodyne/000001.bin", np.float32).reshape(-1, 4)
    points[[3, 8, 9], [0, 1, 3]] = np.nan, np.inf, -np.inf
    points.tofile(data / "velodyne/000001.bin")
    (data / "label_2/000002.txt").write_text("")
    (data / "label_2/000003.txt").write_text(AHEAD.format(x=60))  # 60 m to the right; the map ends at 39.68
    scales = ["train_dataloader.dataset.in_image=False", "train_dataloader.batch_size=4"]
    assert main([*command, *scales]) == 0
    told = " ".join("".join(capfd.readouterr()).split())
    assert "000000: the sweep holds no point; it stays in the batch" in told
    assert "000001: dropped 3 of 200 points: not finite" in told
    lines = [line for line in scalars() if "loss" in line]
    assert lines and all(line["boxes_dropped"] == 1 and np.isfinite(line["loss"]) for line in lines)


def test_sweeps_with_nothing_to_contrast(tmp_path, monkeypatch):
    """A LiDAR of one shot sees no region, and mostly nothing at all: the losses are 0 and training goes on."""
    monkeypatch.chdir(tmp_path)
    blind = ["dataset.beams=1", "dataset.azimuths=1", "dataset.count=8"]
    overrides = [*(f"train_dataloader.{key}" for key in blind), "evaluation={}"]
    assert main([*train(POINTS, *overrides)]) == 0
    losses = [line["loss"] for line in scalars() if "loss" in line]
    assert losses and all(np.isfinite(losses))
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 2


def test_a_record_of_other_points_is_refused(fails):
    short = ["train_dataloader.dataset.count=4", "evaluation={}"]
    assert main(["train", POINTS, "--out", "points", "--set", *SHORT, *short]) == 0
    tuning = ["train", "driving/finetune_pillars_scenes", "--out", "run", "--set", "model.backbone.init_from=points"]
    message = fails(*tuning, "model.backbone.preprocess.intensity_scale=255", code=1)
    assert "intensity_scale" in message and "points" in message
    message = fails(*tuning, "model.backbone.cell=(1.0, 1.0)", "--overwrite", code=1)
    assert "cell" in message


# -- checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder of one epoch."""
    out = tmp_path_factory.mktemp("trained")
    assert main(["train", IMAGES, "--out", str(out), "--set", *SHORT]) == 0
    return out / "seed_0"


def checkpoint_of(run: Path) -> Path:
    return next((run / "checkpoints").glob("step_*.pth"))


def test_checkpoint_of_another_architecture(fails, trained):
    message = fails(*train(TUNING, f"model.backbone.init_from={trained}", "model.backbone.depth=4"), code=1)
    assert "blocks.3.attn.qkv.weight" in message and str(trained) in message


def test_checkpoint_of_another_width(fails, trained):
    message = fails(*train(TUNING, f"model.backbone.init_from={trained}", "model.backbone.embed_dim=32"), code=1)
    assert "32" in message and "shape" in message


def test_truncated_checkpoint(fails, trained, tmp_path):
    broken = tmp_path / "broken.pth"
    whole = checkpoint_of(trained).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    message = fails(*train(TUNING, f"model.backbone.init_from={broken}"), code=1)
    assert str(broken) in message and "damaged" in message


STARTS = [
    (TUNING, "model.backbone.init_from"),
    (TUNING_CLIPS, "model.backbone.init_from"),
    (TUNING_SPEECH, "model.backbone.init_from"),
    (TOWERS, "model.backbone.init_from"),
    ("remote_sensing/finetune_clip-tiny_land-cover", "model.backbone.init_from"),
    ("driving/finetune_pillars_scenes", "model.backbone.init_from"),
    (FUSION, "model.backbone.camera.init_from"),
    ("driving/rad_lift-splat_scenes", "model.pretexts.rad.teacher.init_from"),
]


@pytest.mark.parametrize(("config", "key"), STARTS)
def test_foreign_checkpoint_that_needs_code(fails, tmp_path, config, key):
    foreign, canary = tmp_path / "foreign.pth", tmp_path / "ran"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Payload(canary)}, foreign)
    message = fails("train", config, "--out", "run", "--set", f"{key}={foreign}", code=1)
    assert str(foreign) in message and "mkdir" in message and "trust=True" in message
    assert not canary.exists()


def test_a_bare_pickle_is_no_checkpoint(fails, tmp_path):
    foreign, canary = tmp_path / "foreign.pth", tmp_path / "ran"
    foreign.write_bytes(pickle.dumps(Payload(canary)))
    message = fails("export", str(foreign), "--out", "out", code=1)
    assert str(foreign) in message
    assert not canary.exists()


def test_a_checkpoint_that_is_not_there(fails):
    message = fails(*train(TUNING, "model.backbone.init_from=nowhere/run"), code=2)
    assert "model.backbone.init_from" in message and "nowhere/run" in message


# -- disks --------------------------------------------------------------------------------------------------------


def test_run_folder_that_cannot_be_written(fails, monkeypatch):
    # Permissions do not bind the superuser, whom containers run tests as; a refusing system call does.
    real = os.open

    def refuse(path, flags, *rest, **kwargs):
        if "run/seed_0" in str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    message = fails(*train(IMAGES), code=1)
    assert "run/seed_0" in message and "Read-only file system" in message


def test_full_disk_during_a_save(fails, monkeypatch):
    def full(*arguments, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    message = fails(*train(IMAGES), code=1)
    assert "step_" in message and "No space left on device" in message and "MiB free" in message
    assert not list(Path("run/seed_0/checkpoints").glob("*"))


def test_run_folder_with_something_in_it(fails, tmp_path):
    (tmp_path / "run" / "seed_0").mkdir(parents=True)
    (tmp_path / "run" / "seed_0" / "thesis.tex").write_text("years of work")
    assert "not empty" in fails(*train(IMAGES), code=2)
    assert "not emptied" in fails(*train(IMAGES), "--overwrite", code=2)
    assert (tmp_path / "run" / "seed_0" / "thesis.tex").exists()


# -- configs ------------------------------------------------------------------------------------------------------


def test_typos_in_type_keyword_and_value_come_in_one_report(fails, tmp_path):
    message = fails(
        *train(
            IMAGES,
            "model.backbone.type=VIT",
            "train_dataloader.dataset.type=Digit",
            "model.pretexts.mae.mask_ratio=1.5",
        ),
        code=2,
    )
    assert "'ViT'" in message and "'Digits'" in message and "model.pretexts.mae.mask_ratio" in message
    assert not (tmp_path / "run").exists()


def test_typo_in_a_keyword_of_a_file(fails, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("model = dict(type='Classifier', backbone=dict(type='ViT', embed_dims=64), num_classes=3)\n")
    message = fails("validate", str(config), code=2)
    assert "model.backbone.embed_dims" in message and "'embed_dim'" in message


def test_typo_in_an_override(fails):
    message = fails(*train(IMAGES, "optim_wrapper.optimizer.learning_rate=1", "train_cfg.max_epoch=3"), code=2)
    assert "optim_wrapper.optimizer.learning_rate" in message and "'max_epochs'" in message


def test_typo_in_the_config_name(fails):
    assert IMAGES in fails("train", "image/mae_vit-tiny_digit", code=2)


def test_typo_in_the_command(fails):
    assert "'train'" in fails("trian", code=2)


@pytest.mark.parametrize(
    ("config", "changes", "keys"),
    [
        (IMAGES, {"patch_size": 3, "num_heads": 7}, ["image_size", "num_heads"]),
        (CLIPS, {"patch_size": 5, "tubelet": 3, "position": "learned"}, ["image_size", "frames", "position"]),
        (
            SPEECH,
            {"num_heads": 7, "pos_groups": 9, "conv_strides": (5, 2)},
            ["num_heads", "pos_groups", "conv_strides"],
        ),
    ],
)
def test_impossible_sizes(fails, config, changes, keys):
    message = fails(*train(config, *(f"model.backbone.{key}={value}" for key, value in changes.items())), code=2)
    assert all(f"model.backbone.{key}" in message for key in keys)
