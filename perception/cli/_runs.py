"""Finished runs as the subcommands see them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass(frozen=True)
class Run:
    """A run folder of one seed.

    Attributes:
        folder: the folder.
        seed: its seed.
        config: its resolved config, without ``init_from`` and ``load_from``: what it started from may be gone.
    """

    folder: Path
    seed: int
    config: Config


def run_folders(path: str | Path) -> list[Path]:
    """The run folders that ``path`` stands for: itself, or its ``seed_<s>`` children.

    Raises:
        ConfigError: it is no run folder and holds none.
    """
    from perception.config import seed_folders

    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return [folder]
    found = [child for child in seed_folders(folder) if (child / "config.json").is_file()] if folder.is_dir() else []
    if not found:
        what = "holds no config.json and no seed_<s> folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{str(folder)!r} is not a run folder: it {what}")
    return found


def open_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Read the config of a run folder, apply overrides and validate what is left of it."""
    from perception.config import load_config
    from perception.validation import require_valid

    seed = seed_of(folder)
    cfg = load_config(folder, overrides, seed)
    forget_sources(cfg)
    require_valid(cfg, source=str(folder), training=False)
    return Run(folder, seed, cfg)


def forget_sources(cfg: Any) -> None:
    """Take every ``init_from`` and ``load_from`` out of a config, in place."""
    if isinstance(cfg, dict):
        for key in ("init_from", "load_from"):
            cfg.pop(key, None)
        for value in cfg.values():
            forget_sources(value)
    elif hasattr(cfg, "_cfg_dict"):
        forget_sources(cfg._cfg_dict)


def seed_of(folder: Path) -> int:
    """Seed of a run folder: from its summary or environment, else from its name."""
    for name in ("summary.json", "environment.json"):
        file = folder / name
        if file.is_file():
            content = read_json(file)
            if isinstance(content.get("seed"), int):
                return int(content["seed"])
    text = folder.resolve().name.removeprefix("seed_")
    return int(text) if text.isdigit() else 0


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file of a run folder.

    Raises:
        PerceptionError: it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PerceptionError(f"{file} is not readable: {error}") from error
    if not isinstance(content, dict):
        raise PerceptionError(f"{file} holds a {type(content).__name__}, an object was expected")
    return content


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of an ``evaluation.json``.

    Raises:
        PerceptionError: it is damaged or something else.
    """
    rows = read_json(file).get("rows")
    needed = {"protocol", "variant", "source", "metric", "value", "seed", "n", "extras"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise PerceptionError(
            f"{file} is not the result of an evaluation: it lacks rows with {', '.join(sorted(needed))}"
        )
    return rows


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")


def pick_device(name: str | None) -> Any:
    """The device of ``--device``.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("tensors there hold no values")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device
