"""``perception list``: what there is to choose from."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

HELP = "Show the shipped configs, or everything of one kind that a config can name by its type."

_KINDS = {
    "configs": "",
    "backbones": "BACKBONES",
    "pretexts": "PRETEXTS",
    "models": "MODELS",
    "datasets": "DATASETS",
    "transforms": "TRANSFORMS",
    "preprocesses": "PREPROCESSES",
    "tokenizers": "TOKENIZERS",
    "text_encoders": "TEXT_ENCODERS",
    "protocols": "PROTOCOLS",
    "metrics": "METRICS",
    "balancers": "BALANCERS",
    "hooks": "HOOKS",
    "loops": "LOOPS",
    "schedulers": "PARAM_SCHEDULERS",
    "optimizers": "OPTIMIZERS",
    "wrappers": "OPTIM_WRAPPERS",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("kind", nargs="?", default="configs", help=f"one of {', '.join(_KINDS)} (default: configs)")
    parser.add_argument("words", nargs="*", metavar="WORD", help="show only lines that contain every word")
    parser.add_argument("--all", action="store_true", help="also what comes with mmengine and torch")


def run(args: argparse.Namespace) -> int:
    """Print one line each: name and first line of the documentation."""
    from perception.errors import ConfigError, Fault, nearest

    kind = args.kind if args.kind in _KINDS else f"{args.kind}s"
    words = list(args.words)
    if kind not in _KINDS:
        hint = nearest(args.kind, _KINDS)
        if hint:
            raise ConfigError([Fault("kind", args.kind, "there is nothing of that kind to list", hint)])
        kind, words = "configs", [args.kind, *words]  # `perception list graphmae` means the configs
    lines = _configs() if kind == "configs" else _registered(_KINDS[kind], args.all)
    shown = [(n, d) for n, d in lines if all(w.lower() in f"{n} {d}".lower() for w in words)]
    if not shown:
        raise ConfigError(f"none of the {len(lines)} {kind} contains {' and '.join(map(repr, words))}")
    width = max(len(name) for name, _ in shown)
    for name, text in shown:
        print(f"{name:<{width}}  {text}".rstrip())
    return 0


def _configs() -> list[tuple[str, str]]:
    from perception.config import config_summary, list_configs

    return [(name, config_summary(name)) for name in list_configs()]


def _registered(registry_name: str, everything: bool) -> list[tuple[str, str]]:
    from perception import registry as reg

    registry = getattr(reg, registry_name)
    names = registry.names()
    found = [(name, registry.get(name)) for name in names if everything or name in registry.module_dict]
    return [(name, _first_line(target)) for name, target in found]


def _first_line(target: Any) -> str:
    doc = inspect.getdoc(target) or ""
    return doc.strip().splitlines()[0] if doc.strip() else ""
