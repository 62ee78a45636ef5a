#!/usr/bin/env python
"""How well a pre-trained TIP tells hidden cells of held-out rows, column by column, beside the column's usual value.

python tools/hidden_cells.py runs/tabular_image/tip_convnet_fashion24 --picture cells.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Measure every seed on evaluation.test of its config, print, draw the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a pre-training, or parent of seed_<s> folders")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="rows of the evaluation section")
    parser.add_argument("--passes", type=int, default=10, help="how often every row is taken (default 10)")
    parser.add_argument("--picture", type=Path, help="PNG of the bars of the first seed")
    args = parser.parse_args(argv)

    from perception.checkpoint import find_checkpoint
    from perception.cli._common import print_table
    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import load_all
    from perception.config import plain
    from perception.evaluation.features import build_dataset
    from perception.evaluation.hidden_cells import hidden_cell_figures, hidden_cell_picture
    from perception.registry import MODELS

    for number, folder in enumerate(run_folders(args.run)):
        opened = open_run(folder)
        cfg = plain(opened.config)
        model = MODELS.build(cfg["model"])
        load_all(model, find_checkpoint(folder))
        train, held_out = (build_dataset(cfg["evaluation"][name]) for name in ("train", args.split))
        figures = hidden_cell_figures(model, train, held_out, args.passes)
        rows = [tuple(row) for row in figures.rows()]
        print_table(f"{folder}: hidden cells of {args.split}", ("column", "figure", "told", "usual", "cells"), rows)
        if args.picture and number == 0:
            hidden_cell_picture(figures, args.picture)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        print(f"hidden_cells: {error}", file=sys.stderr)
        sys.exit(2)
