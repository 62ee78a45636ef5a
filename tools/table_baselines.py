#!/usr/bin/env python
"""Random forest and gradient boosting on a config's table, pixels and both, beside which an encoder has to stand.

python tools/table_baselines.py tabular_image/tip_convnet_fashion24 --inputs table pixels --models forest
"""

from __future__ import annotations

import argparse
import sys

from perception.cli._common import add_set_argument, print_table
from perception.config import load_config
from perception.evaluation.features import build_dataset
from perception.evaluation.forest import INPUTS, MODELS, tree_baselines
from perception.registry import PREPROCESSES


def main(argv: list[str] | None = None) -> int:
    """Fit to evaluation.train of the config, judge on evaluation.test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config with a tabular backbone and an evaluation section")
    parser.add_argument("--inputs", nargs="+", default=list(INPUTS), choices=INPUTS, help="default: all")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="default: both")
    parser.add_argument("--seed", type=int, default=0)
    add_set_argument(parser)
    args = parser.parse_args(argv)
    cfg = load_config(args.config, args.overrides, args.seed)
    if not {"train", "test"} <= set(cfg.get("evaluation") or {}):
        parser.error(f"{args.config} has no evaluation section with train and test: take the pre-training's config")
    record = PREPROCESSES.build(cfg.model.backbone.preprocess.to_dict())
    train, test = (build_dataset(cfg.evaluation[name].to_dict()) for name in ("train", "test"))
    rows = tree_baselines(train, test, record, args.inputs, args.models, seed=args.seed)
    told = [(r["model"], r["input"], r["metric"], f"{r['value']:.3f}", f"{r.get('macro_f1', 0):.3f}") for r in rows]
    print_table(f"{args.config}: {rows[0]['n']} test rows", ("model", "input", "metric", "value", "macro-F1"), told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
