#!/usr/bin/env python
"""Frozen features of any encoders under several image sizes and normalisations, as one table and one picture.

python tools/resize_benchmark.py --data EuroSATMini --sizes native 128
python tools/resize_benchmark.py --data "EuroSAT(root='...', bands='msi')" --bands B04 B03 B02 --encoders mosaiks runs/x
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.cli._common import add_threads_argument, positive, use_threads
from perception.cli._datasets import build_dataset, dataset_config
from perception.errors import PerceptionError
from perception.evaluation import frozen_features as benchmark
from perception.evaluation.frozen_encoders import KINDS, find_encoders
from perception.evaluation.frozen_report import print_table, write_report
from perception.transforms.image_resize import INTERPOLATIONS


def main(argv: list[str] | None = None) -> int:
    """Run the grid, print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="data set with train and test splits: Name or Name(key=value, ...)")
    add("--splits", nargs=2, default=["train", "test"], metavar=("TRAIN", "TEST"), help="(default: train test)")
    add("--encoders", nargs="+", default=["statistics", "rcf", "mosaiks", "random:resnet18"], help=KINDS)
    add("--sizes", nargs="+", default=["native", "224"], help="pixels, or native (default: native 224)")
    add("--normalisations", nargs="+", default=["divide", "standardization"], choices=benchmark.NORMALISATIONS)
    add("--protocols", nargs="+", default=["knn", "knn_scaled", "linear"], choices=list(benchmark.JUDGES))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of random encoders (default: 0 1 2)")
    add("--bands", nargs="+", help="names of the bands to use, in this order (default: all)")
    add("--divisor", type=float, help="of divide, for values that are not uint8: 10000 for Sentinel-2's")
    add("--interpolation", default="bilinear-corners", choices=INTERPOLATIONS)
    add("--batch-size", type=positive, default=200)
    add("--out", type=Path, default=Path("runs/resize_benchmark"), help="folder of the report")
    add_threads_argument(parser)
    args = parser.parse_args(argv)
    use_threads(args.threads)
    try:
        train, test = (build_dataset(args.data, split=split) for split in args.splits)
        options = ("sizes", "normalisations", "seeds", "bands", "divisor", "interpolation", "batch_size")
        settings = {name: getattr(args, name) for name in options}
        grid = benchmark.Grid(find_encoders(args.encoders), judges=args.protocols, **settings)
        statistics = benchmark.band_statistics(train, args.batch_size)
        rows = benchmark.run_grid(grid, train, test, statistics, tell=lambda line: print(line, flush=True))
        name = str(dataset_config(args.data)["type"])
        print_table(rows, name)
        print(*write_report(args.out, rows, name, statistics, vars(args) | {"out": str(args.out)}), sep="\n")
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
