"""The embedded default of speech: made-up words in four varieties of a made-up language, by speakers of all sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.datasets.audio_clips import ArrayClips
from perception.datasets.images import check_split
from perception.errors import check_arguments, not_among
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform

VARIETIES = ("coast", "valley", "hill", "island")
NEIGHBOURS = {"coast": ("valley", "island"), "valley": ("hill",)}
ORDER = (3, 0, 1, 2)
WORDS = ("paneso", "tomila", "sakunu", "nitope", "ponisa", "tesumo", "samite", "nupako")
LABELS = ("variety", "word", "speaker")
SPEAKERS = {"pretrain": 160, "train": 80, "val": 24, "test": 80}
TAKES = 2  # of every word by every speaker
BLOCK = 16  # speakers made together
SECONDS = 1.0
_FRAME = 0.008

_VOWELS = "ieaou"
# First and second formant of a man's vowels, in hertz, rounded from "Control methods used in a study of the vowels"
# (Peterson and Barney, 1952).
_FORMANTS = np.array([[280.0, 2250.0], [500.0, 1850.0], [730.0, 1250.0], [560.0, 880.0], [310.0, 880.0]])
# What a variety does to them, as a factor less 1 at strength 1: (variety, vowel, formant).
_SHIFTS = np.zeros((4, 5, 2))
_SHIFTS[1, 1], _SHIFTS[1, 3] = (-0.28, 0.10), (-0.28, -0.08)  # valley raises e and o
_SHIFTS[2, 2], _SHIFTS[2, 4] = (-0.12, 0.22), (0.0, 0.50)  # hill fronts a and u
_SHIFTS[3, 0], _SHIFTS[3, 1] = (0.30, -0.14), (0.22, -0.16)  # island lowers i and e
_STRESSED = np.array([1.0, 1.5, 1.0, 1.5])  # length of the stressed vowel
# Consonants: voice, hiss, first formant, second formant, seconds.
_CONSONANTS = {
    "p": (0.0, 0.10, 400.0, 900.0, 0.05),
    "t": (0.0, 0.25, 400.0, 1800.0, 0.05),
    "k": (0.0, 0.20, 400.0, 1400.0, 0.06),
    "s": (0.0, 0.50, 2500.0, 3400.0, 0.09),
    "n": (0.4, 0.02, 260.0, 1500.0, 0.06),
    "m": (0.4, 0.02, 260.0, 1000.0, 0.07),
    "l": (0.5, 0.02, 360.0, 1200.0, 0.05),
}


@DATASETS.register_module()
class SpokenVarieties(ArrayClips):
    """Words of three syllables: pulses and hiss through four resonances that move ("Acoustic theory of speech
    production", Fant, 1960).

    A speaker has a variety, a pitch, a length of the vocal tract, which scales all formants, a tempo, and a microphone
    with noise. Varieties differ in two or three of five vowels and in rhythm, so that size and voice of a speaker
    hide them; speakers of one split are never those of another, but for ``pretrain``, whose first half is ``train``.

    Args:
        split: ``pretrain`` 160 speakers without labels, ``train`` 80, ``val`` 24, ``test`` 80; each says eight words
            twice. With ``label='speaker'`` ``train`` has the first take of its speakers' words and ``val`` and
            ``test`` the second one.
        label: ``variety`` (4), ``word`` (8) or ``speaker``.
        sample_rate: in hertz, at least 8000.
        shift: how far varieties move vowels; 0 leaves rhythm only.
        noise: of the microphones, in decibels below speech: a range.
        speakers: another number of them, a multiple of four; the first of a larger set are those of a smaller one.
        world_seed: another one makes other speakers.
        crop_seconds: see ``AudioClips``.
        join_seconds: see ``AudioClips``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``; it does not change the clips.

    Attributes:
        order: positions of the varieties in which neighbours are close; None with another label.
    """

    SPLITS = tuple(SPEAKERS)

    def __init__(
        self,
        split: str = "pretrain",
        label: str = "variety",
        sample_rate: int = 16000,
        shift: float = 1.0,
        noise: Sequence[float] = (10.0, 30.0),
        speakers: int | None = None,
        world_seed: int = 0,
        crop_seconds: float | None = None,
        join_seconds: float | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments("SpokenVarieties", self._faults, locals())
        check_split(split, self.SPLITS)
        own = "train" if label == "speaker" and split != "pretrain" else split
        number = SPEAKERS[own] if speakers is None else speakers
        # Half of ``pretrain`` are the speakers of ``train``, the other half their own.
        first = 0 if own != "pretrain" else min(number, SPEAKERS["train"])
        world = World(sample_rate, float(shift), (float(noise[0]), float(noise[1])), world_seed)
        made = [make_clips("train", first, world)] if first else []
        made += [make_clips(own, number - first, world)] if number > first else []
        clips = [clip for part in made for clip in part]
        word = np.tile(np.repeat(np.arange(len(WORDS)), TAKES), number)
        take = np.tile(np.arange(TAKES), number * len(WORDS))
        speaker = np.repeat(np.arange(number), len(WORDS) * TAKES)
        chosen = np.arange(len(clips))
        if label == "speaker" and split != "pretrain":
            chosen = np.flatnonzero((take == 0) == (split == "train"))
        columns = {"variety": speaker % len(VARIETIES), "word": word, "speaker": speaker}
        names = [f"{own}-{i}" for i in range(number)]
        classes = {"variety": VARIETIES, "word": WORDS, "speaker": names}
        kept = [clips[i] for i in chosen]
        super().__init__(
            np.concatenate(kept),
            np.concatenate([[0], np.cumsum([len(clip) for clip in kept])]).astype(np.int64),
            sample_rate=sample_rate,
            labels=None if split == "pretrain" else columns[label][chosen],
            classes=classes[label],
            speakers=speaker[chosen],
            speaker_names=names,
            crop_seconds=crop_seconds,
            join_seconds=join_seconds,
            transforms=transforms,
            seed=seed,
        )
        self.split, self.label = split, label
        self.order = ORDER if label == "variety" else None

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.clip_faults(cfg)
        if cfg["label"] not in LABELS:
            yield "label", not_among(cfg["label"], LABELS)
        yield from at_least(cfg, 8000, "sample_rate")
        yield from at_least(cfg, 0, "shift", "world_seed")
        if cfg["shift"] > 1.5:
            yield "shift", "must be at most 1.5: formants would cross"
        if len(cfg["noise"]) != 2 or cfg["noise"][0] > cfg["noise"][1]:
            yield "noise", "must be a rising pair of decibels"
        if cfg["speakers"] is not None and (cfg["speakers"] < 4 or cfg["speakers"] % 4):
            yield "speakers", "must be a multiple of four, at least 4"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or label, numbers that cannot be."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)


@dataclass(frozen=True)
class World:
    """What clips sound like; see ``SpokenVarieties``."""

    sample_rate: int
    shift: float
    noise: tuple[float, float]
    seed: int


@lru_cache(maxsize=8)
def make_clips(split: str, speakers: int, world: World) -> tuple[np.ndarray, ...]:
    """Clips of the first ``speakers`` of a split, by speaker, word and take, made once in a process."""
    found: list[np.ndarray] = []
    for start in range(0, speakers, BLOCK):  # by blocks, so that a larger set starts as a smaller one does
        rng = np.random.default_rng([world.seed, list(SPEAKERS).index(split), start])
        found += _block(rng, world)
    return tuple(found[: speakers * len(WORDS) * TAKES])


def _block(rng: np.random.Generator, world: World) -> list[np.ndarray]:
    """Clips of ``BLOCK`` speakers, whose varieties take turns."""
    rate, each = world.sample_rate, len(WORDS) * TAKES
    total = BLOCK * each

    def personal(low: float, high: float) -> np.ndarray:
        return np.repeat(rng.uniform(low, high, BLOCK), each)

    variety = np.repeat(np.arange(BLOCK) % len(VARIETIES), each)
    word = np.tile(np.repeat(np.arange(len(WORDS)), TAKES), BLOCK)
    size = personal(0.0, 1.0)  # small speakers have short tracts and, most of them, high voices
    tract = 0.9 + 0.3 * size
    pitch = 95.0 * 2.0 ** (1.1 * size + personal(-0.25, 0.25)) * rng.uniform(0.93, 1.07, total)
    tempo = personal(0.85, 1.2) * rng.uniform(0.93, 1.07, total)
    tilt, hiss, snr = personal(-4.0, 4.0), personal(0.01, 0.06), personal(*world.noise)

    voice, noise, formants, length = _segments(rng, variety, word, world.shift)
    length *= tempo[:, None]
    edges = np.cumsum(length, axis=1) + 0.05
    frames = round(SECONDS / _FRAME) + 1
    time = np.arange(frames) * _FRAME
    segment = (time[None, :, None] >= edges[:, None, :]).sum(-1)
    silent = (time < 0.05) | (segment >= length.shape[1])
    segment = np.minimum(segment, length.shape[1] - 1)
    tracks = np.stack([voice, noise, formants[..., 0], formants[..., 1]], axis=2)
    tracks = np.take_along_axis(tracks, segment[..., None], axis=1)  # (n, T, 4)
    tracks[silent, :2] = 0
    control = _smooth(torch.from_numpy(tracks), 5)
    envelope = _envelope(control[..., 2:], torch.from_numpy(tract), rate)
    slope = torch.from_numpy(tilt)[:, None] * torch.linspace(0, 1, envelope.shape[-1], dtype=torch.float64)
    envelope = envelope * (10 ** (slope / 20))[:, None].float()

    samples = round(SECONDS * rate)
    # Intonation falls by a fifth, and the voice trembles a little.
    fall = np.linspace(1.1, 0.9, samples)
    tremble = 1 + 0.01 * np.sin(2 * np.pi * (5 * np.arange(samples) / rate + rng.uniform(size=(total, 1))))
    phase = np.cumsum(pitch[:, None] * fall * tremble / rate, axis=1) + rng.uniform(size=(total, 1))
    pulses = torch.from_numpy(np.diff(np.floor(phase), axis=1, prepend=np.floor(phase[:, :1])).astype(np.float32))
    pulses *= float(np.sqrt(rate / 150.0))
    breath = torch.from_numpy(rng.standard_normal((total, samples), dtype=np.float32))
    louder = torch.nn.functional.interpolate(control[..., :2].transpose(1, 2).float(), size=samples, mode="linear")
    source = pulses * louder[:, 0] + breath * (louder[:, 1] + louder[:, 0] * torch.from_numpy(hiss)[:, None].float())
    speech = _filtered(source, envelope, rate)

    ends = np.minimum(np.ceil((edges[:, -1] + 0.05) * rate).astype(np.int64), samples)
    power = speech.square().sum(1, keepdim=True) / torch.from_numpy(ends)[:, None]
    rest = torch.from_numpy(rng.standard_normal((total, samples), dtype=np.float32))
    speech = speech + rest * power.sqrt() * (10 ** (-torch.from_numpy(snr) / 20))[:, None].float()
    speech = speech * (0.5 / speech.abs().amax(1, keepdim=True))
    waves = (speech * torch.from_numpy(rng.uniform(0.4, 1.6, (total, 1))).float()).numpy()
    return [wave[:end] for wave, end in zip(waves, ends.tolist(), strict=True)]


def _segments(
    rng: np.random.Generator, variety: np.ndarray, word: np.ndarray, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loudness of voice and hiss (n, 6), first two formants (n, 6, 2) in hertz and seconds (n, 6) of the phones."""
    consonants = np.array([[_CONSONANTS[text[2 * i]] for i in range(3)] for text in WORDS])[word]  # (n, 3, 5)
    vowel = np.array([[_VOWELS.index(text[2 * i + 1]) for i in range(3)] for text in WORDS])[word]  # (n, 3)
    moved = _FORMANTS * (1 + shift * _SHIFTS)
    heard = moved[variety[:, None], vowel] * rng.normal(1.0, 0.04, (*vowel.shape, 2))
    stressed = np.arange(3) == (np.arange(len(WORDS)) % 3)[word][:, None]
    seconds = 0.10 * np.where(stressed, _STRESSED[variety][:, None], 1.0) * rng.uniform(0.85, 1.15, vowel.shape)
    formants = np.stack([consonants[..., 2:4], heard], axis=2).reshape(len(word), 6, 2)
    voice = np.stack([consonants[..., 0], np.where(stressed, 1.0, 0.8)], axis=2).reshape(len(word), 6)
    hiss = np.stack([consonants[..., 1], np.full(vowel.shape, 0.01)], axis=2).reshape(len(word), 6)
    length = np.stack([consonants[..., 4], seconds], axis=2).reshape(len(word), 6)
    return voice, hiss, formants, length


def _smooth(tracks: Tensor, width: int) -> Tensor:
    """Running mean over ``width`` frames of (n, T, C): tongues are slow."""
    padded = torch.nn.functional.pad(tracks.transpose(1, 2), (width // 2, width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, width, stride=1).transpose(1, 2)


def _window(rate: int) -> tuple[int, int]:
    """Samples of the filter's window and of a hop: a window of four hops."""
    hop = round(_FRAME * rate)
    return 4 * hop, hop


def _envelope(formants: Tensor, tract: Tensor, rate: int) -> Tensor:
    """Magnitudes (n, T, F) float32 of four resonances: the two given (n, T, 2), and 2500 and 3500 Hz."""
    window, _ = _window(rate)
    hertz = torch.linspace(0, rate / 2, window // 2 + 1)
    fixed = torch.tensor([2500.0, 3500.0]).expand(*formants.shape[:2], 2)
    centre = (torch.cat([formants.float(), fixed], dim=2) * tract.float()[:, None, None]).unbind(2)
    found = torch.ones(*formants.shape[:2], len(hertz))
    for place, width in zip(centre, (80.0, 110.0, 160.0, 220.0), strict=True):
        ratio = hertz / place[..., None]
        found *= (1 - ratio.square()).square().add_((ratio * (width / place)[..., None]).square()).rsqrt_()
    return found


def _filtered(source: Tensor, envelope: Tensor, rate: int) -> Tensor:
    """(n, S) through filters (n, T, F) that change from hop to hop."""
    window, hop = _window(rate)
    taper = torch.hann_window(window)
    spectra = torch.stft(source, window, hop, window=taper, return_complex=True).transpose(1, 2)
    frames = min(spectra.shape[1], envelope.shape[1])
    shaped = (spectra[:, :frames] * envelope[:, :frames]).transpose(1, 2)
    return torch.istft(shaped, window, hop, window=taper, length=source.shape[1])
