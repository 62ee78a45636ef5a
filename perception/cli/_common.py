"""What several subcommands share: config arguments, run folders, tables."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from mmengine.config import Config


# Of what a protocol tells beside its figure, the accuracies; the rest are settings and counts.
_FURTHER_FIGURES = ("early_stopping",)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``CONFIG`` and ``--set``."""
    parser.add_argument("config", metavar="CONFIG", help="short name, path of a config, or run folder")
    add_set_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """``--set KEY=VALUE ...``, any number of times."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="override config values, such as optim_wrapper.optimizer.lr=1e-3; {seed} becomes the seed",
    )


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """``--threads N``."""
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of torch (default: all cores)")


def use_threads(count: int | None) -> None:
    """Limit the CPU threads; before torch is imported this also holds for its libraries."""
    if count is None:
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    return _whole(text, 1, "")


def seed_number(text: str) -> int:
    """Argument type: a whole number that every random generator takes as a seed."""
    return _whole(text, 0, " and below 2^32")


def _whole(text: str, least: int, further: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 2**32:
        raise argparse.ArgumentTypeError(f"a whole number of at least {least}{further}, not {text!r}")
    return value


def valid_config(
    name: str, overrides: Sequence[str], seed: int | None = None, training: bool = True, data_sets: bool = True
) -> Config:
    """Load a config and raise all of its faults at once, those of the overrides included."""
    from perception.config import load_config
    from perception.validation import require_valid, validate_config

    try:
        cfg = load_config(name, overrides, seed)
    except ConfigError as error:
        told = {text for fault in error.faults for text in (fault.path, str(fault.value))}
        sound = [o for o in overrides if o not in told and o.partition("=")[0].strip() not in told]
        if len(sound) == len(overrides):  # not about single overrides
            raise
        try:
            others = validate_config(load_config(name, sound, seed), training, data_sets)
        except ConfigError as further:
            others = further.faults
        raise ConfigError([*error.faults, *others], str(name)) from error
    require_valid(cfg, source=str(name), training=training, data_sets=data_sets)
    return cfg


def claim_run_folder(run_dir: Path, resume: bool, overwrite: bool) -> None:
    """Make ``run_dir`` ready to be written: new, empty, resumed, or emptied.

    Raises:
        ConfigError: it holds something and neither flag says what to do with that.
        PerceptionError: it cannot be written.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run folder {str(run_dir)!r} is a file: choose another with --out")
    if run_dir.is_dir() and any(run_dir.iterdir()) and not resume:
        if not overwrite:
            raise ConfigError(
                f"run folder {str(run_dir)!r} is not empty: --resume goes on with it, --overwrite starts again, "
                "--out DIR goes elsewhere"
            )
        if not any((run_dir / name).exists() for name in ("config.json", "checkpoints", "scalars.jsonl")):
            raise ConfigError(f"{str(run_dir)!r} does not look like a run folder: not emptied; choose another --out")
        shutil.rmtree(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=".write-test-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise PerceptionError(f"run folder {str(run_dir)!r} cannot be written: {error.strerror or error}") from error


def figures(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a summary by dotted name; rows of an evaluation are named by protocol, variant, source and metric."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            found[name] = float(value)
        elif isinstance(value, Mapping):
            found.update(figures(value, f"{name}."))
        elif isinstance(value, list):
            for row in value:
                if isinstance(row, Mapping) and isinstance(row.get("value"), (int, float)):
                    words = " ".join(str(row[k]) for k in ("protocol", "variant", "source", "metric") if row.get(k))
                    found[words] = float(row["value"])
                    extras = row.get("extras") or {}
                    found.update({f"{words} {k}": float(extras[k]) for k in _FURTHER_FIGURES if k in extras})
    return found


def aggregate(values: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation and 95 % t-interval of every figure that all seeds have.

    Args:
        values: seed -> figures by name.
    """
    from perception.evaluation.stats import mean_std, t_interval

    runs = list(values.values())
    shared = [name for name in runs[0] if all(name in run for run in runs)] if runs else []
    table = {}
    for name in shared:
        column = [run[name] for run in runs]
        mean, std = mean_std(column)
        interval = t_interval(column)
        table[name] = {
            "mean": mean,
            "std": std,
            "ci95": list(interval) if interval is not None else None,
            "values": {str(seed): run[name] for seed, run in values.items()},
        }
    return table


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A rich table, first column left, the others right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
