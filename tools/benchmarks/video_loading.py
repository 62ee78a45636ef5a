"""Clips of 16 frames from video files: our loader against plain decord, and PyAV and torchcodec if installed."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from perception.datasets.video_files import VideoFiles
from perception.datasets.video_frames import VideoRecord

from .harness import Contender, Step, Target, compare

VIDEOS, LENGTH, HEIGHT, WIDTH = 8, 120, 256, 340
FRAMES, STRIDE = 16, 4
NAMES = ("perception, guarded", "perception, in process", "plain decord", "plain PyAV", "plain torchcodec")
# In process there is nothing to pay but the stacking; a guarded clip crosses a pipe.
LIMIT, GUARDED_LIMIT = 1.1, 1.25


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Videos of 256 x 340 pixels and 120 frames: a smooth texture that drifts, with some noise."""
    made = tempfile.TemporaryDirectory(prefix="video_loading_")
    random = np.random.default_rng(0)
    for number in range(VIDEOS):
        coarse = random.integers(0, 256, (HEIGHT // 8, 2 * WIDTH // 8, 3), dtype=np.uint8)
        world = cv2.resize(coarse, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        path = str(Path(made.name) / f"{number}.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
        for t in range(LENGTH):
            noise = random.integers(0, 8, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            writer.write(cv2.add(np.ascontiguousarray(world[:, 2 * t : 2 * t + WIDTH]), noise))
        writer.release()
    return made


def paths() -> list[Path]:
    """The files."""
    return sorted(Path(folder().name).glob("*.mp4"))


def build_set(guard: bool) -> Step:
    """One clip of every video, at random places."""
    data = VideoFiles([VideoRecord(path) for path in paths()], (), frames=FRAMES, stride=STRIDE, guard=guard)

    def step() -> int:
        return len(data.__getitems__(range(VIDEOS))["video"])

    step()  # verifies the files
    return step


def build_guarded(device: str) -> Step:
    """Ours as it comes: decoding in a process that may be ended."""
    return build_set(True)


def build_in_process(device: str) -> Step:
    """Ours for files that are known to be sound."""
    return build_set(False)


def build_plain(read: Callable[[str, list[int]], np.ndarray]) -> Step:
    """As one would write it: open every file, read the frames, stack."""
    random = np.random.default_rng(0)
    files = [str(path) for path in paths()]

    def step() -> Tensor:
        starts = random.integers(0, LENGTH - FRAMES * STRIDE + 1, VIDEOS).tolist()
        clips = [read(f, list(range(s, s + FRAMES * STRIDE, STRIDE))) for f, s in zip(files, starts, strict=True)]
        return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous()

    return step


def build_decord(device: str) -> Step:
    """Plain decord with one thread, as ours has."""
    import decord

    def read(path: str, numbers: list[int]) -> np.ndarray:
        return decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()

    return build_plain(read)


def build_pyav(device: str) -> Step:
    """PyAV with one thread; from the start of the file, since seeking in time does not hit a frame."""
    import av

    def read(path: str, numbers: list[int]) -> np.ndarray:
        wanted = set(numbers)
        with av.open(path) as container:
            container.streams.video[0].thread_count = 1
            frames = zip(range(numbers[-1] + 1), container.decode(video=0), strict=False)
            return np.stack([frame.to_ndarray(format="rgb24") for n, frame in frames if n in wanted])

    return build_plain(read)


def build_torchcodec(device: str) -> Step:
    """Plain torchcodec with one thread."""
    from torchcodec.decoders import VideoDecoder

    def read(path: str, numbers: list[int]) -> np.ndarray:
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
        return decoder.get_frames_at(numbers).data.numpy()

    return build_plain(read)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours within a tenth of plain decord, a quarter if guarded; the others for comparison."""
    builds: dict[str, Callable[[str], Step]] = {NAMES[0]: build_guarded, NAMES[1]: build_in_process}
    builds[NAMES[2]] = build_decord
    for name, package, build in ((NAMES[3], "av", build_pyav), (NAMES[4], "torchcodec", build_torchcodec)):
        if find_spec(package) is not None:
            builds[name] = build
    contenders = [Contender(name, build) for name, build in builds.items()]
    targets = [Target(NAMES[1], NAMES[2], LIMIT), Target(NAMES[0], NAMES[2], GUARDED_LIMIT)]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = [
        f"one step = {VIDEOS} clips of {FRAMES} frames, stride {STRIDE}, {HEIGHT} x {WIDTH} px, no data workers",
        "guarded: decoding runs in another process, whose CPU time and memory (about 60 MiB) are not in the table",
    ]
    return result
