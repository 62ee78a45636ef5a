"""Encoders of the frozen-feature benchmark, by what a command line calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import torch

from perception.backbones.base import Backbone
from perception.backbones.random_features import MOSAIKS, RCF, ImageStatistics
from perception.config import list_configs, literal, load_config, plain, seed_folders
from perception.errors import ConfigError, Fault, nearest
from perception.exporting import build_backbone, load_backbone
from perception.registry import BACKBONES
from perception.transforms.image_preprocess import ImagePreprocess

FIXED: dict[str, type[Backbone]] = {"statistics": ImageStatistics, "rcf": RCF, "mosaiks": MOSAIKS}
RANDOM, PRETRAINED = "random:", "pretrained:"
KINDS = f"""{", ".join(FIXED)}; {RANDOM}NAME or {PRETRAINED}NAME of a timm network; a run folder, export or checkpoint;
the name of a config, whose backbone is then taken untrained; or a backbone's config, as in "dict(type='ViT', ...)"."""


@dataclass(frozen=True)
class Encoder:
    """One encoder of the grid.

    Attributes:
        name: what the table calls it.
        build: (record of the cell, seed, training data) -> the encoder, with that record.
        random: it is drawn by its seed, so several seeds give several encoders.
        seeds: those that exist, of a run with several; empty where any can be drawn.
        record: the Preprocess record of its weights; ``None`` if it has no weights that anything taught.
    """

    name: str
    build: Callable[[ImagePreprocess, int, Any], Backbone]
    random: bool = False
    seeds: tuple[int, ...] = ()
    record: ImagePreprocess | None = None

    @property
    def bands(self) -> tuple[str, ...] | None:
        """Bands that its weights know."""
        return None if self.record is None else self.record.bands


def find_encoder(text: str) -> Encoder:
    """The encoder that ``text`` names; see ``KINDS``.

    Raises:
        ConfigError: there is none such; the message has what there is, and the nearest names.
    """
    if text in FIXED:
        kind = {"type": FIXED[text].__name__}
        return Encoder(text, partial(_from_config, kind), random=text != "statistics")
    if text.startswith(RANDOM):
        kind = {"type": "TimmModel", "name": text.removeprefix(RANDOM)}
        return Encoder(f"random {kind['name']}", partial(_from_config, kind), random=True)
    if text.startswith(PRETRAINED):
        return _trained(text.removeprefix(PRETRAINED), partial(_pretrained, text.removeprefix(PRETRAINED)))
    if text.lstrip().startswith(("dict(", "{")):
        cfg = _written(text)
        if cfg.get("init_from"):
            return _trained(str(cfg["init_from"]), lambda seed: build_backbone(cfg, seed).eval())
        return Encoder(f"untrained {cfg.get('type')}", partial(_from_config, cfg), random=True)
    if Path(text).expanduser().exists():
        return _from_run(Path(text).expanduser())
    if text in list_configs():
        cfg = plain(load_config(text)["model"]["backbone"])
        return Encoder(f"untrained {text}", partial(_from_config, cfg), random=True)
    choices = [*FIXED, *list_configs()]
    raise ConfigError([Fault("encoders", text, f"no such encoder; give {KINDS}", nearest(text, choices))])


def _from_run(path: Path) -> Encoder:
    """Every seed of a run, or the only one."""
    folders = seed_folders(path) if path.is_dir() else []
    seeds = tuple(int(folder.name.removeprefix("seed_")) for folder in folders)
    if not seeds:
        return _trained(path.name, lambda seed: load_backbone(path))
    return replace(_trained(path.name, lambda seed: load_backbone(path, seed=seed), seeds[0]), seeds=seeds)


def _trained(name: str, load: Callable[[int], Backbone], seed: int = 0) -> Encoder:
    """An encoder with weights, which come with the record they were made for."""
    record = load(seed).preprocess
    if not isinstance(record, ImagePreprocess):
        raise ConfigError(f"{name} does not encode images: its Preprocess record is {type(record).__name__}")

    def build(cell: ImagePreprocess, seed: int, train: Any) -> Backbone:
        return _with_record(load(seed), cell)

    return Encoder(name, build, record=record)


def _pretrained(name: str, seed: int) -> Backbone:
    return build_backbone({"type": "TimmModel", "name": name, "pretrained": True}).eval()


def _from_config(cfg: Mapping[str, Any], cell: ImagePreprocess, seed: int, train: Any) -> Backbone:
    """A backbone of a config for the bands of a cell, drawn by ``seed``; filters are drawn from the training images."""
    cls: Any = cfg["type"] if isclass(cfg["type"]) else BACKBONES.get(str(cfg["type"]))
    rest = dict(cfg)
    if cls is not None and "in_channels" in signature(cls).parameters:
        rest["in_channels"] = len(cell.bands)
        # Positions are made for the size that the config says; other sizes are resampled later.
        size = rest.get("image_size") or (rest.get("preprocess") or {}).get("size") or cell.size
        rest["preprocess"] = replace(cell, size=size)
    torch.manual_seed(seed)
    backbone = _with_record(build_backbone(rest), cell)
    if isinstance(backbone, MOSAIKS):
        backbone.fit(train, seed)
    return backbone.eval()


def _with_record(backbone: Backbone, cell: ImagePreprocess) -> Backbone:
    backbone.preprocess = cell
    return backbone


def _written(text: str) -> dict[str, Any]:
    """A backbone's config out of a python dict."""
    try:
        cfg = literal(text)
    except (ValueError, SyntaxError) as error:
        raise ConfigError([Fault("encoders", text, f"not a python dict of plain values: {error}")]) from error
    if not isinstance(cfg, dict) or "type" not in cfg:
        raise ConfigError([Fault("encoders", text, "a backbone's config has the key 'type'")])
    return cfg


def find_encoders(texts: Sequence[str]) -> list[Encoder]:
    """``find_encoder`` of each.

    Raises:
        ConfigError: two have one name.
    """
    found = [find_encoder(text) for text in texts]
    names = [encoder.name for encoder in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two encoders are called {twice[0]}: give each once")
    return found
