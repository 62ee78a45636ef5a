"""Videos packed in tar shards give the clips that their files give, after a stop as well."""

import importlib.util
import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from perception.datasets import video_worker
from perception.datasets.shard_writer import write_video_shards
from perception.datasets.video_backends import BACKENDS, Place, available
from perception.datasets.video_decode import VideoDecoder
from perception.datasets.video_folder import VideoFolder, VideoManifest
from perception.datasets.video_shards import VideoShards
from perception.engine.sampler import ResumableSampler
from perception.errors import DataError
from perception.registry import DATASETS
from perception.transforms.base import identity_collate
from perception.validation import validate_config

ROOT = Path(__file__).parents[2]
CLIP = dict(frames=4, stride=2, size=16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


def write_video(path, level, frames=20):
    """Frame i is grey of about ``level + 4 * i``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), level + 4 * i, np.uint8))
    writer.release()


@pytest.fixture
def films(tmp_path):
    """Seven films of 14 to 20 frames in two classes, and their list."""
    lines = ["path,label"]
    for i in range(7):
        label = ("wave", "bend")[i % 2]
        write_video(tmp_path / "films" / label / f"{i}.mp4", 20 * i, 14 + i)
        lines.append(f"{label}/{i}.mp4,{label}")
    (tmp_path / "films" / "list.csv").write_text("\n".join(lines))
    return tmp_path / "films"


def listed(films, **more):
    return VideoManifest(path=str(films / "list.csv"), **CLIP | more)


def packed(films, tmp_path, **more):
    folder = tmp_path / "shards"
    if not folder.exists():
        write_video_shards(listed(films), folder, per_shard=3)
    return VideoShards(str(folder), **CLIP | more)


def same(one, other):
    assert one.keys() == other.keys() and one["meta"] == other["meta"]
    assert all(torch.equal(one[key], other[key]) for key in one if key != "meta")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if available(name)])
@pytest.mark.parametrize("guard", [True, False])
def test_packed_clips_are_those_of_the_files(films, tmp_path, backend, guard):
    options = dict(backends=[backend], guard=guard, sampling="dense", seed=5)
    files, shards = listed(films, **options), packed(films, tmp_path, **options)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 3 and shards.classes == files.classes == ("bend", "wave")
    assert [str(r.path.relative_to(r.place.shard)) for r in shards.records] == [
        str(r.path.relative_to(films)) for r in files.records
    ]
    same(files.fetch(np.array([6, 0, 3, 0])), shards.fetch(np.array([6, 0, 3, 0])))
    test = dict(sampling="dense_views", views=2, crops=3, backends=[backend], guard=guard)
    same(listed(films, **test).fetch(np.arange(42)), packed(films, tmp_path, **test).fetch(np.arange(42)))


def test_one_film_after_another_at_the_same_place_of_other_shards(films, tmp_path):
    """The first film of every shard begins at the same byte: a reader must not be taken for that of another shard."""
    data = packed(films, tmp_path)
    assert len({record.place.offset for record in (data.records[0], data.records[3], data.records[6])}) == 1
    levels = data.fetch(np.array([0, 3, 6, 0]))["video"].float().mean((1, 2, 3, 4))
    expected = listed(films).fetch(np.array([0, 3, 6, 0]))["video"].float().mean((1, 2, 3, 4))
    assert torch.equal(levels, expected) and len(set(levels.tolist())) == 3


def test_a_run_resumes_in_the_middle_of_an_epoch(films, tmp_path):
    data = packed(films, tmp_path, transforms=[dict(type="RandomFlip")], seed=3)
    files = listed(films, transforms=[dict(type="RandomFlip")], seed=3)

    def epoch(source, start, workers=0):
        sampler = ResumableSampler(source, shuffle=True, seed=1)
        sampler.set_epoch(4, start)
        return list(DataLoader(source, 2, sampler=sampler, num_workers=workers, collate_fn=identity_collate))

    whole, rest, unpacked = epoch(data, 0), epoch(data, 4, workers=2), epoch(files, 4)
    assert len(whole) == 4 and len(rest) == len(unpacked) == 2
    for one, other, file in zip(whole[2:], rest, unpacked, strict=True):
        same(one, other)
        same(one, file)


def test_ranges_of_frames_are_kept(films, tmp_path):
    (films / "parts.txt").write_text("wave/0.mp4 3 8 1\nbend/1.mp4 1 15 0")
    files = VideoManifest(path=str(films / "parts.txt"), **CLIP)
    write_video_shards(files, tmp_path / "parts")
    shards = VideoShards(str(tmp_path / "parts"), **CLIP)
    assert [(r.first, r.count, r.label) for r in shards.records] == [(2, 6, 1), (0, 15, 0)]
    same(files.fetch(np.arange(2)), shards.fetch(np.arange(2)))


def test_the_same_list_gives_the_same_bytes_and_numbers_of_classes_stay(films, tmp_path):
    (films / "numbers.txt").write_text("wave/0.mp4 1\nbend/1.mp4 2\nwave/2.mp4 12")
    files = VideoManifest(path=str(films / "numbers.txt"), first_label=1, **CLIP)
    for name in ("one", "two"):
        write_video_shards(files, tmp_path / name, per_shard=2)
    one, two = (sorted((tmp_path / name).glob("*.tar")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    shards = VideoShards(str(tmp_path / "one"), **CLIP)
    assert shards.targets.tolist() == files.targets.tolist() == [0, 1, 11] and shards.classes == files.classes
    with tarfile.open(one[0]) as archive:
        assert archive.getnames()[:2] == ["000000000.mp4", "000000000.json"]
        assert archive.extractfile("000000000.mp4").read() == (films / "wave" / "0.mp4").read_bytes()


def test_the_frame_counts_of_packed_videos_are_kept(films, tmp_path, monkeypatch):
    data = packed(films, tmp_path)
    assert [data.source.total(i) for i in range(7)] == list(range(14, 21))
    monkeypatch.setattr(VideoDecoder, "_verify", None)  # would fail if it were asked for again
    again = packed(films, tmp_path)
    assert [again.source.total(i) for i in range(7)] == list(range(14, 21))


def test_damaged_videos_in_shards_are_named_or_left_out(films, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("perception.datasets.video_files.print_log", lambda text, **_: said.append(text))
    (films / "bend" / "3.mp4").write_bytes(b"no film")
    data = packed(films, tmp_path, timeout=20.0)
    with pytest.raises(
        DataError, match=r"videos-000001\.tar/bend/3\.mp4' cannot be decoded: decord: .*; opencv: "
    ) as told:
        data.fetch(np.array([3]))
    assert "/proc" not in str(told.value)
    kept = packed(films, tmp_path, on_error="skip")
    assert len(kept) == 6 and list(kept.dropped) == [str(tmp_path / "shards/videos-000001.tar/bend/3.mp4")]
    assert len(said) == 1 and "left out 1 of 7 videos" in said[0]


def test_shards_that_become_shorter_or_vanish(films, tmp_path):
    data = packed(films, tmp_path)
    last = data.records[5].place
    os.truncate(last.shard, last.offset + 10)
    with pytest.raises(DataError, match="has become shorter than its index says"):
        data.fetch(np.array([5]))
    last.shard.unlink()
    with pytest.raises(DataError, match=r"videos-000001\.tar/bend/5\.mp4' does not exist"):
        data.fetch(np.array([5]))


def test_without_files_in_memory_a_temporary_one_serves_and_goes(films, tmp_path, monkeypatch):
    data = packed(films, tmp_path, guard=False)
    expected = data.fetch(np.arange(7))
    monkeypatch.setattr(video_worker, "_IN_MEMORY", False)
    monkeypatch.setattr(video_worker.tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    worker = video_worker.Worker()
    place = data.records[2].place
    request = dict(task="read", path="2", place=[str(place.shard), place.offset, place.size], indices=[0, 3])
    head, _ = worker.answer({**request, "backend": "opencv", "cover": None})
    assert head == {"shape": (2, 48, 64, 3)} and len(set(tmp_path.iterdir()) - before) == 1
    worker.answer({**request, "backend": "opencv", "cover": None, "place": None, "path": str(films / "wave/0.mp4")})
    assert set(tmp_path.iterdir()) == before
    data.source.decoder._worker = video_worker.Worker()
    same(data.fetch(np.arange(7)), expected)


def test_memory_of_many_packed_films_does_not_stay(films, tmp_path):
    data = packed(films, tmp_path)
    for i in range(200):
        data.fetch(np.array([i % 7]))
    process = data.source.decoder._worker._process.pid
    assert len(os.listdir(f"/proc/{process}/fd")) < 12


@pytest.mark.parametrize("more", [dict(per_shard=0), dict(prefix="videos")])
def test_what_cannot_be_packed(films, tmp_path, more):
    write_video_shards(listed(films), tmp_path / "shards")
    with pytest.raises(DataError, match=r"per_shard must be positive|holds videos-000000\.tar already"):
        write_video_shards(listed(films), tmp_path / "shards", **more)
    with pytest.raises(DataError, match="is packed already"):
        write_video_shards(VideoShards(str(tmp_path / "shards"), **CLIP), tmp_path / "again")
    cv2_frames = tmp_path / "frames" / "wave" / "1"
    cv2_frames.mkdir(parents=True)
    cv2.imwrite(str(cv2_frames / "img_1.png"), np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(DataError, match=r"wave/1' is a folder of frames: make a video of it"):
        write_video_shards(VideoFolder(str(tmp_path / "frames"), **CLIP), tmp_path / "again")


def test_samples_that_are_no_videos_and_labels_that_are_no_classes(films, tmp_path):
    folder = write_video_shards(listed(films), tmp_path / "shards")[0].parent
    with pytest.raises(DataError, match=r"3 videos have the label 'bend', which is .*nearest is 'bent'"):
        VideoShards(str(folder), classes=["bent", "wave"], **CLIP)
    with tarfile.open(folder / "videos-000001.tar", "w") as archive:
        (tmp_path / "text").write_text(json.dumps({"label": "wave"}))
        archive.add(tmp_path / "text", "a.json")
    with pytest.raises(DataError, match=r"videos-000001\.tar': 1 of 1 samples have no video: a"):
        VideoShards(str(folder), **CLIP)
    faults = validate_config({"dataset": dict(type="VideoShards", shards=str(tmp_path / "none"), sampling="dens")})
    assert faults


def test_the_tool_packs_a_list(films, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("make_shards", ROOT / "tools/make_shards.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (films / "bend" / "3.mp4").write_bytes(b"no film")
    words = [f"VideoManifest(path='{films / 'list.csv'}', on_error='skip')", "--out", str(tmp_path / "out")]
    assert tool.main([*words, "--per-shard", "4"]) == 0
    assert "6 samples -> 2 shards" in capsys.readouterr().out
    data = DATASETS.build(dict(type="VideoShards", shards=str(tmp_path / "out"), **CLIP))
    assert data.names == ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "5.mp4", "6.mp4"]
    with pytest.raises(DataError, match="videos are copied as they are"):
        tool.main([*words[:2], str(tmp_path / "other"), "--format", "png"])


def test_places_are_part_of_what_is_remembered(films, tmp_path):
    """Two videos of one name in one shard are told apart by where they lie."""
    data = packed(films, tmp_path)
    decoder = VideoDecoder(cache=tmp_path / "own")
    first, second = data.records[0], data.records[2]
    assert decoder.info(first.path, first.place).frames == 14
    assert decoder.info(first.path, Place(second.place.shard, second.place.offset, second.place.size)).frames == 16
    decoder.close()
