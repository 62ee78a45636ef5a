"""A dual encoder and captioned images small enough to follow by hand: images are colours, texts name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.datasets.base import Dataset
from perception.pretext.base import Pretext
from perception.registry import BACKBONES, DATASETS, PREPROCESSES, PRETEXTS
from perception.transforms.preprocess import Batch, Preprocess

COLOURS = {"DarkRed": (200, 0, 0), "green_field": (0, 200, 0), "sea/blue": (0, 0, 200), "Grey": (120, 120, 120)}
NAMES = {
    "en": ("dark red", "green field", "sea blue", "grey"),
    "de": ("dunkelrot", "grünes Feld", "meeresblau", "grau"),
    "xx": ("unknown",) * 4,
}
TEMPLATES = {"en": "a photo of {}.", "de": "ein Bild: {}.", "xx": "{}"}
_SAID = ("red dunkelrot", "green grünes", "blue meeresblau", "grey grau")
_WORDS = {
    word: np.array(colour, dtype=np.float32) / 255 - 0.3
    for colour, words in zip(COLOURS.values(), _SAID, strict=True)
    for word in words.split()
}


def meaning(text: str) -> np.ndarray:
    """``(3,)`` float32: the colour that a text names, else nearly nothing, which depends on its length."""
    words = text.lower().rstrip(".").split()
    named = [_WORDS[word.rstrip(".")] for word in words if word.rstrip(".") in _WORDS]
    return named[0] if named else np.full(3, 0.001 * (1 + len(text)), dtype=np.float32)


@PREPROCESSES.register_module(force=True)
@dataclass(frozen=True)
class ColourPreprocess(Preprocess):
    modality: ClassVar[str] = "image"
    shift: float = 0.3
    tokenizer: str = "words"

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "image": batch["image"].float() / 255 - self.shift}


@PREPROCESSES.register_module(force=True)
@dataclass(frozen=True)
class WordlessPreprocess(Preprocess):
    modality: ClassVar[str] = "image"

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "image": batch["image"].float() / 255 - 0.3}


@BACKBONES.register_module(force=True)
class ColourImages(Backbone):
    """An image tower alone."""

    modality = "image"

    def __init__(self, width: int = 3, preprocess: Any = None) -> None:
        super().__init__(preprocess or {"type": "ColourPreprocess"})
        self.embed_dims = width
        self.visual = nn.Linear(3, width, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.drop(self.visual(x.mean((2, 3)))),)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        return self(batch["image"])[-1]


@BACKBONES.register_module(force=True)
class ColourTowers(ColourImages):
    """Both towers are linear maps of a colour. ``learnt`` makes them equal: what names a colour lies where it does."""

    def __init__(self, width: int = 3, learnt: bool = False, preprocess: Any = None) -> None:
        super().__init__(width, preprocess)
        self.text = nn.Linear(3, width, bias=False)
        self.embedded: list[str] = []
        if learnt:
            self.learn()

    def learn(self) -> None:
        with torch.no_grad():
            for layer in (self.visual, self.text):
                layer.weight.copy_(torch.eye(self.embed_dims, 3))

    def encode_text(self, batch: Batch) -> Tensor:
        return self.drop(self.text(batch["text"]))

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        self.embedded += texts
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return self.encode_text({"text": torch.from_numpy(np.stack([meaning(text) for text in texts]))})
        finally:
            for module, mode in modes:
                module.training = mode


@DATASETS.register_module(force=True)
class Colours(Dataset):
    """Plain images in four colours with noise, and captions that name these, 0 to 3 an image and language."""

    modality = "image"
    captioned = True
    classes = tuple(COLOURS)

    def __init__(
        self,
        split: str = "test",
        size: int = 24,
        noise: int = 10,
        languages: Sequence[str] = ("en",),
        unlabelled: int = 0,
        silent: int = 0,
        sources: Sequence[str] = ("Colours of the World",),
    ) -> None:
        super().__init__()
        self.split, self.sources = split, tuple(sources)
        random = np.random.default_rng({"train": 1, "val": 2, "test": 3}[split])
        label = np.arange(size) % 4
        shift = random.integers(-noise, noise + 1, (size, 3, 4, 4))
        colour = np.array(list(COLOURS.values()))[label][:, :, None, None]
        self.images = np.clip(colour + shift, 0, 255).astype(np.uint8)
        self.captions = [
            [(lang, f"{TEMPLATES[lang].format(NAMES[lang][y])}") for lang in languages for _ in range(1 + i % 3)]
            if i >= silent
            else []
            for i, y in enumerate(label)
        ]
        self.label = np.where(np.arange(size) < unlabelled, -1, label)

    def __len__(self) -> int:
        return len(self.label)

    def fetch(self, indices: np.ndarray) -> Batch:
        return {
            "image": torch.from_numpy(self.images[indices]),
            "captions": [self.captions[i] for i in indices],
            "label": torch.from_numpy(self.label[indices]),
            "index": torch.from_numpy(indices),
        }


@DATASETS.register_module(force=True)
class ColoursAlone(Dataset):
    """Images with labels and without captions."""

    modality = "image"
    classes = tuple(COLOURS)

    def __init__(self, split: str = "test", size: int = 12) -> None:
        super().__init__()
        self.split = split
        self.inner = Colours(split, size)

    def __len__(self) -> int:
        return len(self.inner)

    def fetch(self, indices: np.ndarray) -> Batch:
        return {key: value for key, value in self.inner.fetch(indices).items() if key != "captions"}


@PRETEXTS.register_module(force=True)
class Agree(Pretext):
    """Pulls the towers' maps towards each other."""

    def forward(self, backbone: Any, batch: Batch) -> dict[str, Tensor]:
        noise = 0.1 * torch.randn(())
        return {"loss": (backbone.visual.weight - backbone.text.weight).square().sum() * (1 + noise)}
