"""The embedded default of video: digits that cross a moving texture; the label is what they do, not what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from perception.datasets.base import Dataset
from perception.datasets.digits import SPLIT_SEED, load_digits_uint8
from perception.datasets.images import check_split, stratified_split
from perception.errors import check_arguments, not_among
from perception.registry import DATASETS
from perception.signatures import at_least
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch

TASKS: dict[str, tuple[str, ...]] = {
    "direction": ("right", "down", "left", "up"),
    "relative": ("along", "right of it", "against", "left of it"),
    "turn": ("right", "left"),
    "speed": ("slow", "medium", "fast"),
}
SPLITS = ("pretrain", "train", "val", "test")
COUNTS = {"pretrain": 4000, "train": 2000, "val": 400, "test": 800}
MEAN, STD = (0.521, 0.521, 0.521), (0.238, 0.238, 0.238)  # of the train split, in units of 255
BLOCK = 200  # clips drawn together


@DATASETS.register_module()
class MovingDigits(Dataset):
    """Grey clips in which one or two digits of scikit-learn's cross a drifting random texture.

    The world is a torus: what leaves on one side enters on the other, so that every single frame has the same
    distribution whatever the label is, and so has every pixel's mean over time. Start, direction of the texture and
    digits are random; the digits of one split are never those of another, but for ``pretrain``, which has those of
    ``train``. Labels are equally frequent.

    - ``direction``: where the digit goes, over a texture that goes anywhere.
    - ``relative``: where the dark digit goes as seen from the bright one, which goes in any of eight directions.
    - ``turn``: whether the digit turns right or left by 90 degrees half way. Backwards in time one is the other.
    - ``speed``: half, once or twice ``speed``, in any of eight directions.

    Args:
        split: ``pretrain`` 4,000 clips without labels, ``train`` 2,000, ``val`` 400 or ``test`` 800.
        task: what the label is.
        frames: T.
        size: height and width in pixels; digits are three eighths of it.
        speed: of digits, in 32nds of the size per frame.
        texture: standard deviation of the texture in grey levels; the more, the harder to read without training.
        texture_speed: as ``speed``.
        roughness: cycles across the image at which the texture fades out; the more, the harder to fill in.
        noise: grey levels that every pixel is off by at most, to both sides.
        count: another number of clips; the first of a longer set are those of a shorter one.
        per_class: take the first so many clips of every class, for training on few labels.
        world_seed: another one makes other clips.
        transforms: see ``Dataset``.
        seed: see ``Dataset``; it does not change the clips.

    Attributes:
        clips: (n, T, size, size) uint8.
        labels: (n,) int64.
    """

    modality: ClassVar[str] = "video"

    def __init__(
        self,
        split: str = "pretrain",
        task: str = "direction",
        frames: int = 8,
        size: int = 32,
        speed: float = 3.0,
        texture: float = 60.0,
        texture_speed: float = 3.0,
        roughness: float = 1.5,
        noise: int = 7,
        count: int | None = None,
        per_class: int | None = None,
        world_seed: int = 0,
        transforms: Sequence[Transform | dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_arguments("MovingDigits", self.check_config, locals())
        super().__init__(transforms, seed)
        number = COUNTS[split] if count is None else count
        if per_class is not None:
            number = min(number, per_class * len(TASKS[task]))
        world = World(frames, size, speed, texture, texture_speed, roughness, noise, world_seed)
        self.clips = draw_clips(split, task, number, world)
        self.labels = np.arange(number, dtype=np.int64) % len(TASKS[task])
        self.split, self.task, self.classes = split, task, TASKS[task]

    def __len__(self) -> int:
        return len(self.clips)

    def fetch(self, indices: np.ndarray) -> Batch:
        """``video`` (n, 3, T, size, size) uint8 of three equal channels, ``index``; ``label`` but for pre-training."""
        grey = torch.from_numpy(self.clips[indices])
        batch: Batch = {"video": grey[:, None].repeat(1, 3, 1, 1, 1), "index": torch.from_numpy(indices)}
        if self.split != "pretrain":
            batch["label"] = torch.from_numpy(self.labels[indices])
        return batch

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown split or task, sizes that cannot be."""
        check_split(cfg["split"], SPLITS)
        if cfg["task"] not in TASKS:
            yield "task", not_among(cfg["task"], TASKS)
        yield from at_least(cfg, 2, "frames")
        yield from at_least(cfg, 16, "size")
        yield from at_least(cfg, 0, "speed", "texture", "texture_speed", "noise", "world_seed")
        if not cfg["roughness"] > 0:
            yield "roughness", "must be positive"
        if cfg["noise"] > 127:
            yield "noise", "must be at most 127 grey levels"
        yield from at_least(cfg, 1, "count", "per_class")


@dataclass(frozen=True)
class World:
    """What clips look like; see ``MovingDigits``."""

    frames: int
    size: int
    speed: float
    texture: float
    texture_speed: float
    roughness: float
    noise: int
    seed: int


@lru_cache(maxsize=8)
def draw_clips(split: str, task: str, number: int, world: World) -> np.ndarray:
    """The first ``number`` clips of a split, (number, frames, size, size) uint8, drawn once in a process."""
    frames, size = world.frames, world.size
    digits = _digits("train" if split == "pretrain" else split, size)
    clips = np.empty((number, frames, size, size), dtype=np.uint8)
    step = size / 32
    for start in range(0, number, BLOCK):  # by blocks, so that a longer set starts as a shorter one does
        rng = np.random.default_rng([world.seed, SPLITS.index(split), list(TASKS).index(task), start])
        label = (start + np.arange(BLOCK)) % len(TASKS[task])
        drift = _steps(rng.random(BLOCK) * 2 * np.pi, world.texture_speed * step, frames)
        drawn = _roll(_texture(rng, BLOCK, size, world.roughness), _places(rng, drift, size)) * world.texture + 128
        for tone, moves in zip((255.0, 0.0), _moves(task, label, frames, world.speed * step, rng), strict=False):
            canvas = np.zeros((BLOCK, size, size), dtype=np.float32)
            canvas[:, : digits.shape[1], : digits.shape[2]] = digits[rng.integers(len(digits), size=BLOCK)]
            ink = _roll(canvas, _places(rng, moves, size))
            drawn += ink * (tone - drawn)
        drawn += rng.integers(0, 2 * world.noise + 1, drawn.shape, dtype=np.uint8)
        drawn -= world.noise
        clips[start : start + BLOCK] = np.clip(drawn, 0, 255)[: number - start]
    clips.setflags(write=False)
    return clips


@lru_cache(maxsize=8)
def _digits(split: str, size: int) -> np.ndarray:
    """Digits of a split in [0, 1]: (n, 3/8 size, 3/8 size) float32."""
    import cv2

    images, labels = load_digits_uint8()
    parts = dict(zip(("train", "val", "test"), stratified_split(labels, (0.6, 0.15), SPLIT_SEED), strict=True))
    edge = 3 * size // 8
    pixels = images[parts[split], 0].astype(np.float32) / 255
    return np.stack([cv2.resize(image, (edge, edge), interpolation=cv2.INTER_LINEAR) for image in pixels])


def _moves(task: str, label: np.ndarray, frames: int, speed: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Steps (n, T, 2) of every digit as labels say; angles are clockwise from the right, since y grows downwards."""
    quarter, any_way = np.pi / 2, rng.integers(8, size=len(label)) * np.pi / 4
    if task == "direction":
        return [_steps(label * quarter, speed, frames)]
    if task == "relative":
        return [_steps(any_way, speed, frames), _steps(any_way + label * quarter, speed, frames)]
    if task == "speed":
        return [_steps(any_way, speed * 2.0 ** (label[:, None, None] - 1), frames)]
    steps = _steps(any_way, speed, frames)
    after = _steps(any_way + np.where(label == 0, quarter, -quarter), speed, frames)
    steps[:, (frames + 1) // 2 :] = after[:, (frames + 1) // 2 :]
    return [steps]


def _steps(angle: np.ndarray, speed: float | np.ndarray, frames: int) -> np.ndarray:
    """Equal steps (n, T, 2) in y and x of objects that go straight on; the first is none."""
    steps = np.repeat(np.stack([np.sin(angle), np.cos(angle)], axis=1)[:, None], frames, axis=1) * speed
    steps[:, 0] = 0
    return steps


def _places(rng: np.random.Generator, steps: np.ndarray, size: int) -> np.ndarray:
    """Whole pixels (n, T, 2) from a random start: objects at fractions would be blurred by their speed."""
    start = rng.random((len(steps), 1, 2)) * size
    return np.floor(start + np.cumsum(steps, axis=1)).astype(np.int64) % size


def _texture(rng: np.random.Generator, number: int, size: int, roughness: float) -> np.ndarray:
    """Smooth noise (n, S, S) float32 that continues across the edges, of mean 0 and standard deviation 1."""
    cycles = np.fft.fftfreq(size) * size
    strength = np.exp(-(cycles[:, None] ** 2 + cycles[None, : size // 2 + 1] ** 2) / (2 * roughness**2))
    strength[0, 0] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((number, size, size), dtype=np.float32)) * strength
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return (noise / noise.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def _roll(canvas: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Canvases (n, S, S), each moved cyclically to the T places (n, T, 2): (n, T, S, S)."""
    size = canvas.shape[-1]
    windows = sliding_window_view(np.tile(canvas, (1, 2, 2)), (size, size), axis=(1, 2))
    back = -places % size
    return windows[np.arange(len(canvas))[:, None], back[..., 0], back[..., 1]]
