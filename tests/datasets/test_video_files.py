"""Clips of files and frame folders: written here with known frames, and the real small sets."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from perception.datasets.base import SampleKey
from perception.datasets.concatenated import Concatenated
from perception.datasets.railwagon4 import LOCATIONS, RailWagon4
from perception.datasets.video_decode import VideoDecoder
from perception.datasets.video_files import VideoFiles
from perception.datasets.video_folder import VideoFolder, VideoManifest
from perception.datasets.video_frames import VideoRecord
from perception.datasets.weizmann4 import Weizmann4
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.transforms.base import identity_collate
from perception.validation import validate_config

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/video")
SHARED = Path(os.environ.get("PERCEPTION_DATA", ".")) / "video"
STEP = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


def write_frames(folder, count=24, size=(8, 12), start=0):
    """Frame i is grey of exactly ``STEP * (start + i)``, its column x brighter by x."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        frame = np.full((*size, 3), STEP * (start + i), np.uint8) + np.arange(size[1], dtype=np.uint8)[None, :, None]
        cv2.imwrite(str(folder / f"img_{i + 1:05d}.png"), frame)
    return folder


def write_video(path, frames=20, size=(48, 64), rate=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (size[1], size[0]))
    for i in range(frames):
        writer.write(np.full((*size, 3), 10 * i, np.uint8))
    writer.release()
    return path


def shown(batch):
    """Numbers of the frames that are in the picture, from the pixels."""
    return batch["video"][:, 0, :, 0, 0].long().div(STEP, rounding_mode="floor")


@pytest.fixture
def folders(tmp_path):
    for name in ("wave", "bend"):
        for number in range(4):
            write_frames(tmp_path / "data" / name / f"my clip_{number}", 24 + number)
    return tmp_path / "data"


def test_a_batch_of_frame_folders(folders):
    data = VideoFolder(str(folders), frames=4, stride=3)
    batch = data.fetch(np.array([7, 0, 7]))
    assert len(data) == 8 and data.classes == ("bend", "wave") and data.modality == "video"
    assert batch["video"].shape == (3, 3, 4, 8, 12) and batch["video"].dtype == torch.uint8
    assert torch.equal(shown(batch), batch["frame_index"])
    assert batch["label"].tolist() == [1, 0, 1] and batch["index"].tolist() == [7, 0, 7]
    assert batch["video_index"].tolist() == [7, 0, 7] and batch["view"].tolist() == [0, 0, 0]
    assert (batch["frame_index"].diff(dim=1) == 3).all()
    assert "label" not in VideoFolder(str(folders), frames=4, labels=False).fetch(np.arange(2))


@pytest.mark.parametrize("how", ["random", "dense", "uniform"])
def test_choices_are_a_function_of_seed_epoch_and_index(folders, how):
    data = VideoFolder(str(folders), frames=4, stride=3, sampling=how)
    whole = data.__getitems__(range(8))["frame_index"]
    assert torch.equal(data.__getitems__([5, 2])["frame_index"], whole[[5, 2]])
    later = [data.__getitems__([SampleKey(i, epoch) for i in range(8)])["frame_index"] for epoch in (0, 1)]
    assert torch.equal(later[0], whole) and not torch.equal(later[1], whole)
    data.seed = 1
    assert not torch.equal(data.__getitems__(range(8))["frame_index"], whole)


def test_views_in_time_and_space_are_extra_samples(folders):
    data = VideoFolder(str(folders), frames=4, stride=2, sampling="dense_views", views=5, crops=3, size=8)
    assert len(data) == 8 * 15
    batch = data.__getitems__(range(15, 30))  # video 1 of 25 frames: n' = 13, starts int(k 9 / 4) = 0, 2, 4, 6, 9
    assert batch["video"].shape == (15, 3, 4, 8, 8)
    assert batch["video_index"].tolist() == [1] * 15 and batch["view"].tolist() == list(range(15))
    assert (batch["frame_index"][::3, 0] // 2).tolist() == [0, 2, 4, 6, 9]
    left = (batch["video"][:, 0, 0, 0, 0] - STEP * batch["frame_index"][:, 0]).tolist()
    assert left == [0, 2, 4] * 5  # of 12 columns, 8 wide
    two = VideoFolder(str(folders), frames=4, sampling="uniform_views", views=2).__getitems__([0, 1])["frame_index"]
    assert two.tolist() == [[0, 6, 12, 18], [3, 9, 15, 21]]


def test_one_decoding_gives_several_clips(folders, monkeypatch):
    data = VideoFolder(str(folders), frames=4, stride=2, repeats=3, transforms=[])
    asked = []
    honest = data.source.read
    monkeypatch.setattr(data.source, "read", lambda i, n: (asked.append(i), honest(i, n))[1])
    batch = data.__getitems__([4, 6])
    assert batch["index"].tolist() == [4, 6] * 3 and batch["label"].tolist() == [1] * 6 and sorted(asked) == [4, 6]
    assert torch.equal(shown(batch), batch["frame_index"]) and len(batch["frame_index"][::2, 0].unique()) > 1
    assert torch.equal(data.__getitems__([6])["frame_index"], batch["frame_index"][1::2])


def test_sizes(folders):
    assert VideoFolder(str(folders), frames=2, size=(4, 6)).__getitems__([0])["video"].shape == (1, 3, 2, 4, 6)
    assert VideoFolder(str(folders), frames=2, short_side=16).__getitems__([0])["video"].shape == (1, 3, 2, 16, 24)
    both = VideoFolder(str(folders), frames=2, short_side=16, size=8).__getitems__([0])["video"]
    assert both.shape == (1, 3, 2, 8, 8)
    write_frames(folders / "wave" / "large", size=(10, 10))
    ragged = VideoFolder(str(folders), frames=2).__getitems__([0, 4])["video"]
    assert [tuple(clip.shape) for clip in ragged] == [(3, 2, 8, 12), (3, 2, 10, 10)]


def grey(batch):
    """Numbers of the frames of ``write_video`` that are in the picture, (n, T)."""
    return (batch["video"].float().mean((1, 3, 4)) / 10).round().long()


@pytest.mark.parametrize("backend", ["decord", "opencv"])
@pytest.mark.parametrize(
    ("rate", "seconds", "used"),
    # Frame i begins at i / rate: of 12.5 a second, the last that begins within one second is number 12, at 0.96 s.
    [(10, 1.5, 15), (10, 1.1, 11), (12.5, 1.0, 13), (25, 0.5, 13), (10, 0.01, 1), (10, 2.5, 25), (10, 60.0, 25)],
)
def test_frames_after_the_first_seconds_are_never_taken(tmp_path, backend, rate, seconds, used):
    write_video(tmp_path / "data" / "clip.mp4", 25, rate=rate)
    asked = dict(first_seconds=seconds, backends=[backend], guard=False)
    whole = VideoFolder(str(tmp_path / "data"), frames=8, sampling="whole", **asked).__getitems__([0])
    assert whole["frame_index"][0].tolist() == np.linspace(0, used - 1, 8).astype(int).tolist()
    assert torch.equal(grey(whole), whole["frame_index"])
    for sampling in ("random", "dense", "uniform", "dense_views", "uniform_views"):
        data = VideoFolder(str(tmp_path / "data"), frames=4, stride=2, sampling=sampling, **asked)
        seen = [data.__getitems__([SampleKey(0, epoch)])["frame_index"].max() for epoch in range(20)]
        assert max(seen) < used


def test_the_first_seconds_count_from_where_a_list_starts(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 25)
    options = dict(frames=3, stride=1, first_seconds=0.3, guard=False)
    for keep in (False, True):  # kept in memory is what is used, and no more
        data = VideoFiles([VideoRecord(path, first=5, count=18), VideoRecord(path, first=20)], (), keep=keep, **options)
        assert grey(data.__getitems__([0, 1])).tolist() == [[5, 6, 7], [20, 21, 22]]
    assert [len(frames) for frames in data.source._kept.values()] == [3, 3]


def test_what_has_no_frame_rate_has_no_first_seconds(folders, tmp_path, monkeypatch):
    path = write_video(folders / "wave" / "film.mp4")
    with pytest.raises(DataError, match=r"8 of 9 videos .*clip_0' has no frame rate, and first_seconds=2 .*'skip'"):
        VideoFolder(str(folders), frames=2, first_seconds=2)
    data = VideoFolder(str(folders), frames=2, first_seconds=2, on_error="skip", guard=False)
    assert data.names == ["film.mp4"] and len(data.dropped) == 8
    assert data.source.first_seconds == 2
    info = replace(data.source.decoder.info(path), fps=0.0)
    monkeypatch.setattr(VideoDecoder, "info", lambda *_: info)
    with pytest.raises(DataError, match=r"film\.mp4' has no frame rate"):
        VideoFiles([VideoRecord(path)], (), frames=2, first_seconds=2).__getitems__([0])


def test_kept_videos_are_read_once(folders, monkeypatch):
    data = VideoFolder(str(folders), frames=4, stride=3, keep=True)
    first = data.__getitems__(range(8))
    monkeypatch.setattr(data.source, "_read", lambda *_: pytest.fail("read again"))
    assert torch.equal(data.__getitems__(range(8))["video"], first["video"])


def test_workers_give_the_same_batches(tmp_path):
    for number in range(3):
        write_video(tmp_path / "data" / "a" / f"{number}.mp4", 20 + number)
    data = VideoFolder(str(tmp_path / "data"), frames=4, stride=2, size=16)
    here = data.__getitems__([0, 1, 2])  # the process that decodes for this one is not that of the worker
    loader = DataLoader(data, batch_size=3, num_workers=1, collate_fn=identity_collate)
    (there,) = list(loader)
    assert torch.equal(here["video"], there["video"]) and here["video"].shape == (3, 3, 4, 16, 16)
    data.source.decoder.close()


def test_unreadable_videos_are_named_or_left_out(tmp_path, capsys):
    root = tmp_path / "data"
    write_video(root / "a" / "good.mp4")
    (root / "a" / "bad.mp4").write_text("not a video")
    (root / "b" / "empty").mkdir(parents=True)
    write_frames(root / "b" / "frames")
    (root / "b" / "frames" / "img_00003.png").write_bytes(b"")
    stops = VideoFolder(str(root), frames=2)
    assert [path.name for path in (r.path for r in stops.records)] == ["bad.mp4", "good.mp4", "frames"]
    with pytest.raises(DataError, match=r"bad\.mp4' cannot be decoded"):
        stops.__getitems__([0])
    with pytest.raises(DataError, match=r"img_00003\.png.* cannot be decoded"):
        VideoFolder(str(root), frames=24, stride=1).__getitems__([2])
    skips = VideoFolder(str(root), frames=2, on_error="skip")
    assert [Path(name).name for name in skips.dropped] == ["bad.mp4"] and len(skips) == 2
    assert skips.targets.tolist() == [0, 1] and skips.__getitems__([0])["label"].tolist() == [0]
    records = [VideoRecord(root / "a" / "good.mp4"), VideoRecord(root / "a" / "gone.mp4")]
    with pytest.raises(DataError, match=r"1 of 2 videos cannot be used: .*gone\.mp4: does not exist"):
        VideoFiles(records, (), frames=2)
    assert len(VideoFiles(records, (), frames=2, on_error="skip")) == 1
    with pytest.raises(DataError, match="none of 1 videos"):
        VideoFiles(records[1:], (), frames=2, on_error="skip")
    for made in (stops, skips):
        made.source.decoder.close()


def test_manifests_in_every_form(folders):
    paths = [f"{name}/my clip_{number}" for name in ("bend", "wave") for number in range(2)]
    (folders / "named.csv").write_text("split,label,path\n" + "".join(f"train,{p[:4]},{p}\n" for p in paths))
    named = VideoManifest(str(folders / "named.csv"), split="train", frames=2)
    assert named.classes == ("bend", "wave") and named.targets.tolist() == [0, 0, 1, 1]
    (folders / "plain.txt").write_text("".join(f"{p} {i}\n" for i, p in enumerate(paths)))
    plain = VideoManifest(str(folders / "plain.txt"), frames=2)
    assert plain.classes == ("0", "1", "2", "3") and plain.names == [Path(p).name for p in paths]
    (folders / "part.txt").write_text(f"{paths[0]} 3 5 0\n{paths[1]} 10 1\n")
    part = VideoManifest(str(folders / "part.txt"), frames=3, stride=1)
    assert [part.source.total(i) for i in range(2)] == [3, 10]
    assert shown(part.__getitems__([0])).tolist() == [[2, 3, 4]]  # frames 3 to 5, counted from 1
    (folders / "unlabelled.txt").write_text("\n".join(paths))
    assert "label" not in VideoManifest(str(folders / "unlabelled.txt"), frames=2).__getitems__([0])
    (folders / "one.csv").write_text(f"{paths[0]},1\n{paths[2]},2\n")
    one = VideoManifest(str(folders / "one.csv"), first_label=1, classes=["bend", "wave"], frames=2)
    assert one.targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("bend/my clip_0,1\nbend/my clip_1,2\n", {"classes": ["a", "b"]}, "set first_label=1"),
        ("bend/my clip_0,wawe\n", {"classes": ["wave"]}, "nearest is 'wave'"),
        ("bend/my clip_0 0\nbend/my clip_1 x\n", {}, "line 2: there is no label"),
        ("bend/my clip_0,a,b,c\n", {}, "line 1: 4 columns"),
        ("bend/my clip_0 5 3 1\n", {}, "no range"),
        ("path,label\nbend/my clip_0\n", {}, "line 2: 1 columns, the header has 2"),
        ("path,label,split\nbend/my clip_0,1,train\n", {"split": "trian"}, "nearest is 'train'"),
        ("bend/my clip_0 0\n", {"split": "train"}, "no header"),
        ("bend/my clip_0 -1\n", {"first_label": 0, "classes": ["a"]}, "below first_label"),
        ("bend/my clip_9 0\n", {}, "clip_9: does not exist"),
    ],
)
def test_faults_of_lists_are_named(folders, text, options, message):
    (folders / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        VideoManifest(str(folders / "list.csv"), frames=2, **options)


def test_frames_that_a_list_asks_for_must_exist(folders):
    (folders / "list.txt").write_text("bend/my clip_0 20 30 0\n")
    with pytest.raises(DataError, match="has 24 frames: frames 19 to 29 are asked for"):
        VideoManifest(str(folders / "list.txt"), frames=2).__getitems__([0])


def test_odd_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        VideoFolder(str(tmp_path / "empty"))
    write_frames(tmp_path / "both" / "a" / "1")
    (tmp_path / "both" / "x.mp4").touch()
    with pytest.raises(DataError, match="holds both videos"):
        VideoFolder(str(tmp_path / "both"))


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"sampling": "dens"}, "sampling", "nearest is 'dense'"),
        ({"views": 5}, "views", "is for tests"),
        ({"sampling": "uniform_views", "views": 3}, "views", "1 or 2"),
        ({"sampling": "dense_views", "crops": 2}, "crops", "1 or 3"),
        ({"sampling": "dense_views", "crops": 3}, "size", "square"),
        ({"sampling": "dense_views", "repeats": 2}, "repeats", "same clip"),
        ({"size": 224, "short_side": 200}, "short_side", "not less than size"),
        ({"frames": 0}, "frames", "at least 1"),
        ({"backends": ["opencl"]}, "backends", "nearest is 'opencv'"),
        ({"timeout": 0}, "timeout", "positive"),
        ({"first_seconds": 0}, "first_seconds", "a positive number of seconds"),
        ({"first_seconds": -2.0}, "first_seconds", "a positive number of seconds"),
        ({"first_seconds": float("nan")}, "first_seconds", "a positive number of seconds"),
        ({"on_error": "skp"}, "on_error", "nearest is 'skip'"),
    ],
)
def test_faults_are_told_before_anything_is_read(folders, options, key, message):
    with pytest.raises(ConfigError, match=message) as error:
        VideoFolder(str(folders), **options)
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"fames": 8}, "Did you mean 'frames'"),
        ({"sampling": "uniforn"}, "nearest is 'uniform'"),
        ({"views": 2}, "tests"),
    ],
)
def test_validation_knows_the_arguments_of_the_base(folders, wrong, text):
    from perception.config import load_config

    cfg = load_config("image/mae_vit-tiny_digits", [])
    cfg.train_dataloader.dataset = dict(type="VideoFolder", root=str(folders), **wrong)
    assert any(text in str(fault) for fault in validate_config(cfg))


def test_joined_sets_draw_anew_every_epoch(folders):
    members = [dict(type="VideoFolder", root=str(folders), frames=4, stride=3, size=8) for _ in range(2)]
    data = Concatenated(members)
    first, second = (data.__getitems__([SampleKey(i, epoch) for i in range(16)]) for epoch in (0, 1))
    assert torch.equal(shown(first), first["frame_index"]) and first["video"].shape == (16, 3, 4, 8, 8)
    assert not torch.equal(first["frame_index"], second["frame_index"])
    assert torch.equal(data.__getitems__([SampleKey(9, 1)])["frame_index"][0], second["frame_index"][9])
    with pytest.raises(ConfigError, match="repeats"):
        Concatenated([VideoFolder(str(folders), frames=4, repeats=2)])


@needs_data
def test_the_frame_folders_of_the_demo_set():
    data = VideoManifest(
        str(SHARED / "frames2" / "annotations.txt"), frames=8, stride=2, classes=["jumping", "running"]
    )
    assert [data.source.total(i) for i in range(4)] == [17, 18, 15, 15] and data.targets.tolist() == [0, 0, 1, 1]
    batch = data.__getitems__([0, 2])
    assert [tuple(clip.shape) for clip in batch["video"]] == [(3, 8, 240, 426), (3, 8, 180, 320)]


@needs_data
def test_weizmann_leaves_one_subject_out():
    seen = []
    for subject in range(9):
        test, train = (Weizmann4(split, subject=subject, frames=4) for split in ("test", "train"))
        assert test.groups.tolist() == [subject] * 4 and sorted(test.targets) == [0, 1, 2, 3]
        assert len(train) == 32 and subject not in train.groups and not set(train.names) & set(test.names)
        seen += test.names
    assert len(set(seen)) == 36
    batch = Weizmann4(frames=8, stride=2).__getitems__([0, 35])
    assert batch["video"].shape == (2, 3, 8, 64, 64) and batch["label"].tolist() == [0, 3]
    assert "label" not in Weizmann4("pretrain", frames=2).__getitems__([0])
    with pytest.raises(DataError, match="0 to 8"):
        Weizmann4("train")


@needs_data
def test_railwagon_protocols():
    train, test = (RailWagon4(split, frames=4) for split in ("train", "test"))
    assert np.bincount(train.targets).tolist() == [30] * 4 and np.bincount(test.targets).tolist() == [10] * 4
    assert test.__getitems__([0])["video"].shape == (1, 3, 4, 96, 128)
    sizes = {}
    for number, location in enumerate(LOCATIONS):
        inside, outside = (RailWagon4(split, location=location, frames=4) for split in ("test", "train"))
        assert set(inside.groups) == {number} and number not in outside.groups and len(inside) + len(outside) == 160
        sizes[location] = len(inside)
    assert sizes == {"gate": 45, "rusty_bridge": 37, "station_outside": 28, "turquoise_bridge": 39, "two_stations": 11}
    moving = RailWagon4("test", target="moving", frames=4)
    assert moving.classes == ("still", "moving") and np.bincount(moving.targets).tolist() == [10, 30]
    with pytest.raises(ConfigError, match="nearest is 'gate'"):
        RailWagon4(location="gates")


@needs_data
def test_real_sets_are_validated_by_name():
    for cfg in (dict(type="Weizmann4", split="train", subject=3), dict(type="RailWagon4", location="gate", frames=8)):
        assert len(DATASETS.build(cfg)) > 30
