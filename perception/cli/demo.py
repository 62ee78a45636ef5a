"""``perception demo``: the main job on embedded data, one backbone a modality.

Every shipped config with a top-level ``demo = dict(title=..., protocol=...)`` of its own is run: its backbone is
pre-trained, then judged by ``protocol`` beside the untrained encoder and the raw features.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.cli._common import (
    add_threads_argument,
    claim_run_folder,
    positive,
    print_table,
    seed_number,
    use_threads,
    valid_config,
)
from perception.errors import ConfigError, nearest

HELP = "Pre-train and judge one backbone a modality on embedded data, in minutes and without a download."
SOURCES = ("trained", "untrained", "raw")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("names", nargs="*", metavar="CONFIG", help="only these demo configs (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder (default: runs/demo)"
    )
    parser.add_argument("--seed", type=seed_number, default=0, metavar="S", help="seed (default: 0)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="a shorter or longer training than the config's")
    add_threads_argument(parser)


def demo_configs() -> list[str]:
    """Short names of the configs that state ``demo`` themselves, not through a base.

    The source is searched instead of loading every config: a demo has to start at once.
    """
    from perception.config import find_config, list_configs

    states = re.compile(r"^demo\s*=", re.MULTILINE)
    return [name for name in list_configs() if states.search(find_config(name).read_text(encoding="utf-8"))]


def run(args: argparse.Namespace) -> int:
    """Train, judge and draw; the exit code is 0 if every run ended."""
    started = time.perf_counter()
    use_threads(args.threads)
    names = _chosen(args.names)
    overrides = [] if args.epochs is None else [f"train_cfg.max_epochs={args.epochs}"]
    configs = {name: valid_config(name, overrides, args.seed) for name in names}
    folders = {name: args.out / name.replace("/", "_") / f"seed_{args.seed}" for name in names}
    for folder in folders.values():
        claim_run_folder(folder, resume=False, overwrite=True)
    from perception.engine.api import train

    rows = []
    for number, (name, cfg) in enumerate(configs.items(), start=1):
        told = cfg.demo
        print(f"\n[{number}/{len(names)}] {told['title']}: {name}", flush=True)
        began = time.perf_counter()
        train(cfg, folders[name], args.seed)
        row = comparison(folders[name], told["protocol"])
        rows.append((told["title"], told["protocol"], *row, f"{time.perf_counter() - began:.0f} s"))
    columns = ("modality", "probe", *SOURCES, "time")
    print()
    print_table("test accuracy of a probe on frozen features", columns, rows)
    curves = draw_curves({configs[n].demo["title"]: f for n, f in folders.items()}, args.out / "loss_curves.png")
    print(f"loss curves:     {curves}")
    for folder in folders.values():
        for picture in latest_pictures(folder):
            print(f"picture:         {picture}")
        print(f"run folder:      {folder}")
    first = folders[names[0]]
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Next: perception export {first} --out my_backbone")
    return 0


def _chosen(wanted: Sequence[str]) -> list[str]:
    known = demo_configs()
    wrong = [name for name in wanted if name not in known]
    if wrong:
        hint = nearest(wrong[0], known)
        tail = f" Did you mean {' or '.join(map(repr, hint))}?" if hint else ""
        raise ConfigError(f"{wrong[0]!r} is no demo config; there are {', '.join(known)}.{tail}")
    if not known:
        raise ConfigError("no shipped config has a demo section: the installation is incomplete")
    return list(dict.fromkeys(wanted)) or known


def comparison(run_dir: Path, protocol: str) -> list[str]:
    """Percentages of the three sources from the run's ``evaluation.json``; ``-`` where one has none."""
    rows = evaluation_rows(run_dir)
    # The first row of a source is the headline of the protocol.
    found = {row["source"]: row for row in reversed(rows) if row["protocol"] == protocol}
    return [f"{100 * found[s]['value']:.1f} %" if s in found else "-" for s in SOURCES]


def evaluation_rows(run_dir: Path) -> list[Mapping[str, Any]]:
    """Rows of a run's evaluation."""
    content = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
    rows: list[Mapping[str, Any]] = content["rows"] if isinstance(content, dict) else content
    return rows


def latest_pictures(run_dir: Path) -> list[Path]:
    """The last picture of every kind; the names are ``<kind>_<step>.png``."""
    newest: dict[str, Path] = {}
    for path in sorted((run_dir / "pictures").glob("*.png")):
        newest[re.sub(r"[_-]?\d+$", "", path.stem)] = path
    return list(newest.values())


def draw_curves(folders: Mapping[str, Path], path: Path) -> Path:
    """One panel a run: the pre-training loss by step, from ``scalars.jsonl``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(folders), figsize=(5 * len(folders), 3.5), squeeze=False, layout="constrained"
    )
    for axis, (title, folder) in zip(axes[0], folders.items(), strict=True):
        lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text(encoding="utf-8").splitlines()]
        points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        axis.plot([step for step, _ in points], [loss for _, loss in points], linewidth=1.2)
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
