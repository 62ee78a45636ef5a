"""Hours of audio a minute from files: our tables of recordings against plain soundfile, as they are and resampled."""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from perception.datasets.speech_table import SpeechTable

from .harness import Contender, Step, Target, compare

FILES, SECONDS, RATE = 32, 10, 16000
OTHER_RATE = 44100  # stereo
NAMES = ("perception", "plain soundfile", "perception, resampled", "plain soundfile and soxr")
LIMIT = 1.25  # plain reading looks for no silence and no lost sample


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Noise in flac files of both kinds, and a table for each."""
    made = tempfile.TemporaryDirectory(prefix="speech_loading_")
    random = np.random.default_rng(0)
    for kind, rate, channels in (("same", RATE, 1), ("other", OTHER_RATE, 2)):
        lines = ["path,label"]
        for number in range(FILES):
            wave = random.uniform(-0.5, 0.5, (SECONDS * rate, channels))
            soundfile.write(Path(made.name) / f"{kind}{number:02d}.flac", wave, rate)
            lines.append(f"{kind}{number:02d}.flac,x")
        (Path(made.name) / f"{kind}.csv").write_text("\n".join(lines))
    return made


def build_table(kind: str) -> Step:
    """A batch of all files of a kind by our data set."""
    data = SpeechTable(str(Path(folder().name) / f"{kind}.csv"), "all", sample_rate=RATE)
    return lambda: data.__getitems__(range(FILES))["audio"]


def build_plain(kind: str) -> Step:
    """As one would write it: read, average, resample, stack."""
    import soxr

    files = sorted(Path(folder().name).glob(f"{kind}*.flac"))

    def read(path: Path) -> np.ndarray:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = wave.mean(axis=1)
        return mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")

    def step() -> Tensor:
        return torch.from_numpy(np.stack([read(path) for path in files]))

    return step


def build_ours(device: str) -> Step:
    """Ours, at the rate of the files."""
    return build_table("same")


def build_peer(device: str) -> Step:
    """Plain soundfile, at the rate of the files."""
    return build_plain("same")


def build_ours_resampled(device: str) -> Step:
    """Ours, from 44.1 kHz in stereo."""
    return build_table("other")


def build_peer_resampled(device: str) -> Step:
    """Plain soundfile and soxr, from 44.1 kHz in stereo."""
    return build_plain("other")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def hours_a_minute(seconds: float) -> float:
    """Hours of audio in a minute, of a step that takes ``seconds``."""
    return FILES * SECONDS / 60 / seconds


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours within a quarter of plain reading, of either kind."""
    builds = (build_ours, build_peer, build_ours_resampled, build_peer_resampled)
    contenders = [Contender(name, build) for name, build in zip(NAMES, builds, strict=True)]
    targets = [Target(NAMES[0], NAMES[1], LIMIT), Target(NAMES[2], NAMES[3], LIMIT)]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    found = {row["name"]: hours_a_minute(row["median_cpu_s"]) for row in result["rows"]}
    result["hours_a_minute"] = found
    result["notes"] = [
        f"one step = {FILES} flac files of {SECONDS} s, {RATE} Hz mono or {OTHER_RATE} Hz stereo, no data workers",
        "hours of audio a minute of CPU time: " + ", ".join(f"{name} {hours:.1f}" for name, hours in found.items()),
    ]
    return result
