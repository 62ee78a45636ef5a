#!/usr/bin/env python
"""Speed and peak memory beside a peer, in one process and turn by turn.

python tools/benchmark.py graphmae --threads 1
python tools/benchmark.py mae --rounds 30 --out runs/benchmark/mae.json
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import benchmarks
import torch
from benchmarks import harness

CASES = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name != "harness"]


def main(argv: list[str] | None = None) -> int:
    """Run one case; the exit code is 1 if a target is missed and ``--strict`` is set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="case", required=True)
    modules = {}
    for name in CASES:
        module = modules[name] = import_module(f"benchmarks.{name}")
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--rounds", type=int, default=20, help="turns that count (default 20)")
        command.add_argument("--warmup", type=int, default=3, help="turns before (default 3)")
        command.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
        command.add_argument("--device", default="cpu", help="cpu or cuda")
        command.add_argument("--out", type=Path, help="JSON file for the figures")
        command.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
        module.add_arguments(command)
    args = parser.parse_args(argv)
    result = modules[args.case].run(args)
    harness.report(args.case, result, args.out)
    return int(args.strict and any(r["ratio"] > r["limit"] for r in result["ratios"]))


if __name__ == "__main__":
    sys.exit(main())
