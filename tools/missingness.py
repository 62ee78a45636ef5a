#!/usr/bin/env python
"""Task models under missing cells: one figure by strategy and rate as a table and a picture, the same masks for all.

python tools/missingness.py tip=RUN concat=OTHER_RUN --strategies RVM RFM --rates 0 0.3 0.5 0.7 --picture missing.png

Runs are tested as they are, whatever they were trained on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Measure every run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="run folders, or parents of seed_<s> folders")
    parser.add_argument("--strategies", nargs="+", default=["RVM"], help="names of Masker (default: RVM)")
    parser.add_argument("--rates", nargs="+", type=float, default=[0, 0.1, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--figure", default="accuracy/top1", help="figure of the first test metric")
    parser.add_argument("--seed", type=int, help="of the masks (default: the reference's)")
    parser.add_argument("--picture", type=Path, help="PNG of the curves")
    args = parser.parse_args(argv)

    from perception.cli._common import print_table
    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import trained_runner
    from perception.config import plain
    from perception.evaluation.missing_runs import NO_IMAGE, NO_TABLE, MissingFigures, missing_figures, missing_picture

    found = {}
    for text in args.runs:
        name, _, folder = text.rpartition("=")
        parts = []
        for path in run_folders(folder):
            opened = open_run(path)
            runner, _ = trained_runner(opened)
            data = plain(opened.config)["test_dataloader"]["dataset"]
            metric = runner.test_loop.evaluator.metrics[0]
            options = (args.figure, args.strategies, args.rates, args.seed)
            parts.append(missing_figures(runner.bare_model, data, metric, *options))
        found[name or Path(folder).name] = MissingFigures.join(parts)
    columns = ("model", "strategy", *(f"{rate:g}" for rate in args.rates), NO_TABLE, NO_IMAGE)
    rows = [tuple(row) for name, figures in found.items() for row in figures.rows(name)]
    print_table(f"{args.figure} in percent by share of cells taken away", columns, rows)
    if args.picture:
        missing_picture(found, args.picture)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        print(f"missingness: {error}", file=sys.stderr)
        sys.exit(2)
