"""``perception probe``: judge a frozen backbone with the protocols of its config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from perception.cli._common import add_set_argument, add_threads_argument, seed_number, use_threads, valid_config
from perception.cli._runs import add_device_argument, forget_sources, open_run, pick_device, run_folders
from perception.errors import ConfigError

HELP = """Judge the frozen backbone of a run with the protocols of its evaluation section, beside its untrained twin and
the training-free features. RUN is a run folder, or the parent of seed_<s> folders, whose figures are aggregated.
An export folder is judged with --config NAME, and a config without any training with --untrained.
Results go to evaluation.json in RUN, or to probe.json where --protocols or --set change what is asked."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="run folder, parent of seeds, export, or with --untrained a config")
    parser.add_argument("--protocols", nargs="+", metavar="P", help="some of the config's protocols, or types by name")
    parser.add_argument("--untrained", action="store_true", help="judge the untrained backbone of a config")
    parser.add_argument("--config", metavar="NAME", help="take the evaluation section from this config (for exports)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="S", help="seed with --untrained or an export")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON result here")
    parser.add_argument("--no-cache", action="store_true", help="do not keep the features in the run folder")
    add_set_argument(parser)
    add_device_argument(parser)
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Judge, print, write."""
    use_threads(args.threads)
    from perception.exporting import is_export

    if args.untrained:
        rows, cfg = _untrained(args)
        return _finish(args, args.out, rows, cfg, f"{args.run}, untrained")
    if is_export(args.run):
        rows, cfg = _export(args)
        return _finish(args, args.out, rows, cfg, args.run)
    return _runs(args)


def _finish(args: argparse.Namespace, out: Path | None, rows: list[dict[str, Any]], cfg: Any, title: str) -> int:
    from perception.config import config_hash
    from perception.evaluation.results import print_rows, write_result

    print_rows(rows, title)
    if out is not None:
        write_result(out, rows, config_hash(cfg), cfg["evaluation"])
        print(f"written: {out}")
    return 0


def _section(args: argparse.Namespace, cfg: Any) -> dict[str, Any]:
    """The evaluation section, narrowed to ``--protocols``."""
    from perception.config import plain
    from perception.evaluation.run import pick_protocols

    if not cfg.get("evaluation"):
        raise ConfigError(f"{args.config or args.run}: the config has no evaluation section; name one with --config")
    section = plain(cfg["evaluation"])
    return pick_protocols(section, args.protocols) if args.protocols else section


def _untrained(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Any]:
    from perception.evaluation.run import evaluate, untrained_backbone

    cfg = valid_config(args.run, args.overrides, args.seed, training=False)
    forget_sources(cfg)
    cfg["evaluation"] = _section(args, cfg)
    backbone = untrained_backbone(cfg["model"], args.seed).to(pick_device(args.device))
    return evaluate(backbone, cfg["evaluation"], args.seed, source="untrained"), cfg


def _export(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Any]:
    from perception.evaluation.run import evaluate
    from perception.exporting import load_backbone

    if args.config is None:
        raise ConfigError(f"{args.run} is an export: name the config whose evaluation section applies with --config")
    cfg = valid_config(args.config, args.overrides, args.seed, training=False)
    cfg["evaluation"] = _section(args, cfg)
    backbone = load_backbone(args.run, pick_device(args.device))
    return evaluate(backbone, cfg["evaluation"], args.seed), cfg


def _runs(args: argparse.Namespace) -> int:
    from perception.config import load_config
    from perception.evaluation.overlap import recorded_sources
    from perception.evaluation.results import RESULT_FILE, aggregate_rows
    from perception.evaluation.run import evaluate, untrained_backbone
    from perception.exporting import load_backbone

    folders = run_folders(args.run)
    device = pick_device(args.device)
    name = "probe.json" if args.protocols or args.overrides or args.config else RESULT_FILE
    found: list[list[dict[str, Any]]] = []
    for folder in folders:
        opened = open_run(folder, () if args.config else args.overrides)
        cfg = opened.config
        if args.config:
            cfg["evaluation"] = load_config(args.config, args.overrides, opened.seed).get("evaluation")
        cfg["evaluation"] = _section(args, cfg)
        backbone = load_backbone(folder, device, opened.seed)
        twin = untrained_backbone(cfg["model"], opened.seed).to(device)
        cache = None if args.no_cache else folder / "features"
        sources = recorded_sources(folder)
        found.append(evaluate(backbone, cfg["evaluation"], opened.seed, twin, cache=cache, trained_on=sources))
        out = args.out if args.out and len(folders) == 1 else folder / name
        _finish(args, out, found[-1], cfg, str(folder))
    if len(folders) > 1:
        parent = Path(args.run)
        _finish(args, args.out or parent / name, aggregate_rows(found), cfg, f"{parent}, {len(folders)} seeds")
    return 0
