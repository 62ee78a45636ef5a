#!/usr/bin/env python
"""How well a masked video model fills in the middle of held-out clips, beside fading between their ends.

python tools/interpolation.py runs/video/videomae_vit-tiny_moving-digits
"""

from __future__ import annotations

import argparse
import sys

from perception.errors import PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Measure every seed on a split of its config's evaluation section, and print a table by class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a pre-training, or parent of seed_<s> folders")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="clips (default test)")
    args = parser.parse_args(argv)

    from perception.checkpoint import find_checkpoint
    from perception.cli._common import print_table
    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import load_all
    from perception.config import plain
    from perception.errors import ConfigError
    from perception.evaluation.features import build_dataset
    from perception.evaluation.video_interpolation import interpolation_figures
    from perception.registry import MODELS

    columns = ("class", "clips", "model, MSE x 1000", "blend", "ratio", "model is better")
    for folder in run_folders(args.run):
        cfg = plain(open_run(folder).config)
        section = cfg.get("evaluation") or {}
        if section.get(args.split) is None:
            raise ConfigError(f"the config of {str(folder)!r} has no evaluation.{args.split}")
        model = MODELS.build(cfg["model"])
        load_all(model, find_checkpoint(folder))
        figures = interpolation_figures(model, build_dataset(section[args.split]))
        print_table(f"{folder}: the middle of clips of {args.split}", columns, [f.row() for f in figures])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        print(f"interpolation: {error}", file=sys.stderr)
        sys.exit(2)
