"""Spoken digits of six speakers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from perception.datasets.audio_clips import ArrayClips, resample
from perception.datasets.audio_files import AudioRecord, read_audio
from perception.datasets.base import data_root, load_arrays
from perception.datasets.images import check_split
from perception.errors import DataError, check_arguments, not_among
from perception.registry import DATASETS
from perception.transforms.base import Transform

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
ACCENTS = ("USA", "German", "Belgian-French", "Greek")
ACCENT_OF = (3, 0, 1, 2, 0, 1)
LABELS = ("digit", "speaker", "accent")
RATE = 8000
TEST_TAKES = 5
HINT = (
    "It must hold fsdd1500.npz, or recordings/ of the Free Spoken Digit Dataset: "
    "git clone https://github.com/Jakobovski/free-spoken-digit-dataset"
)


@DATASETS.register_module()
class FSDD(ArrayClips):
    """The Free Spoken Digit Dataset (Jackson et al., 2016): six men, ten digits, 8 kHz, 0.14 to 2.3 s.

    ``fsdd1500.npz`` has takes 0 to 24 of every digit and speaker, 1,500 clips; ``recordings/`` of the official
    repository has takes 0 to 49. Official split: takes 0 to 4 are the test. Log-mel features (``SpeechPreprocess``)
    reach 0.94 to 0.96 on digits and 0.99 on speakers there: print them beside every figure.

    Args:
        split: ``train``, ``test``, ``all``, or ``pretrain``: ``train`` without labels.
        label: ``digit`` (10), ``speaker`` (6) or ``accent`` (those of the speakers taken). Two accents have a single
            speaker, the others two: accents of unseen speakers are a diagnostic, no benchmark.
        held_out_speaker: name or names: ``test`` is then all clips of theirs, and ``train`` all clips of the others.
        speakers: take these only; None takes all six.
        sample_rate: to which clips are resampled, once, in hertz.
        crop_seconds: see ``AudioClips``.
        join_seconds: see ``AudioClips``.
        root: folder; None is ``$PERCEPTION_DATA/speech/fsdd``.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.

    Attributes:
        takes: (n,) int64.
    """

    cut_by = ("held_out_speaker",)
    SPLITS = ("pretrain", "train", "test", "all")

    def __init__(
        self,
        split: str = "train",
        label: str = "digit",
        held_out_speaker: str | Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        sample_rate: int = 16000,
        crop_seconds: float | None = None,
        join_seconds: float | None = None,
        root: str | None = None,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments("FSDD", self._faults, locals())
        check_split(split, self.SPLITS)
        folder = data_root(root, "speech/fsdd", HINT)
        wave, offsets, digit, speaker, take = load_clips(str(folder), sample_rate)
        chosen = np.ones(len(digit), dtype=bool)
        if speakers is not None:
            chosen &= np.isin(speaker, [SPEAKERS.index(name) for name in speakers])
        tested = take < TEST_TAKES
        if held_out_speaker is not None:
            tested = np.isin(speaker, [SPEAKERS.index(name) for name in _names(held_out_speaker)])
        if split != "all":
            chosen &= tested == (split == "test")
        rows = np.flatnonzero(chosen)
        classes: Sequence[str] = tuple(str(d) for d in range(10)) if label == "digit" else SPEAKERS
        labels = digit if label == "digit" else speaker
        if label == "accent":
            present = sorted({ACCENT_OF[SPEAKERS.index(name)] for name in speakers or SPEAKERS})
            classes = [ACCENTS[i] for i in present]
            labels = np.searchsorted(present, np.asarray(ACCENT_OF)[speaker])
        elif label == "speaker" and speakers is not None:
            present = sorted(SPEAKERS.index(name) for name in set(speakers))
            classes, labels = [SPEAKERS[i] for i in present], np.searchsorted(present, speaker)
        kept = [wave[offsets[i] : offsets[i + 1]] for i in rows]
        super().__init__(
            np.concatenate(kept),
            np.concatenate([[0], np.cumsum([len(clip) for clip in kept])]),
            sample_rate=sample_rate,
            labels=None if split == "pretrain" else labels[rows].astype(np.int64),
            classes=classes,
            speakers=speaker[rows],
            speaker_names=SPEAKERS,
            crop_seconds=crop_seconds,
            join_seconds=join_seconds,
            transforms=transforms,
            seed=seed,
        )
        self.takes, self.split = take[rows], split

    @classmethod
    def _faults(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        yield from cls.clip_faults(cfg)
        if cfg["label"] not in LABELS:
            yield "label", not_among(cfg["label"], LABELS)
        taken = SPEAKERS if cfg["speakers"] is None else cfg["speakers"]
        for name in taken:
            if name not in SPEAKERS:
                yield "speakers", f"{name!r} is {not_among(name, SPEAKERS)}"
        if not taken:
            yield "speakers", "leaves no clip"
        held = _names(cfg["held_out_speaker"]) if cfg["held_out_speaker"] is not None else ()
        for name in held:
            if name not in taken:
                yield "held_out_speaker", f"{name!r} is {not_among(name, taken)}"
        if held and set(held) >= set(taken):
            yield "held_out_speaker", "leaves no speaker for training"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split, label or speaker, missing data."""
        check_split(cfg["split"], cls.SPLITS)
        yield from cls._faults(cfg)
        folder = data_root(cfg["root"], "speech/fsdd", HINT)
        if not (folder / "fsdd1500.npz").is_file() and not (folder / "recordings").is_dir():
            yield "root", f"{str(folder)!r} has no FSDD. {HINT}"


def _names(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


@lru_cache(maxsize=2)
def load_clips(folder: str, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All clips of a folder: wave (samples,) float32, offsets (n + 1,), digit, speaker and take (n,) int64.

    Raises:
        DataError: the folder has neither form, or a damaged one.
    """
    packed = Path(folder) / "fsdd1500.npz"
    if packed.is_file():
        arrays = load_arrays(packed, ("wav", "offset", "digit", "speaker", "take"))
        offset = arrays["offset"]
        if offset[0] != 0 or offset[-1] != len(arrays["wav"]) or (np.diff(offset) < 1).any():
            raise DataError(f"{str(packed)!r}: offsets do not rise from 0 to the {len(arrays['wav'])} samples")
        wave = arrays["wav"].astype(np.float32) / 32768
        clips = [resample(wave[a:b], RATE, sample_rate) for a, b in pairwise(offset)]
        columns = [arrays[name].astype(np.int64) for name in ("digit", "speaker", "take")]
    else:
        files = sorted((Path(folder) / "recordings").glob("*_*_*.wav"))
        parts = [file.stem.split("_") for file in files]
        wrong = [
            file.name
            for file, (d, s, t) in zip(files, parts, strict=True)
            if s not in SPEAKERS or not d.isdigit() or not t.isdigit()
        ]
        if wrong or not files:
            raise DataError(f"{folder!r}: no <digit>_<speaker>_<take>.wav: {', '.join(wrong[:3]) or 'no file'}. {HINT}")
        clips = [read_audio(AudioRecord(file), sample_rate) for file in files]
        table = [(int(d), SPEAKERS.index(s), int(t)) for d, s, t in parts]
        columns = list(np.array(table, dtype=np.int64).T)
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64)
    whole = np.concatenate(clips)
    whole.setflags(write=False)
    return whole, offsets, columns[0], columns[1], columns[2]
