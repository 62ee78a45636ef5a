#!/usr/bin/env python
"""``perception train`` as OpenMMLab words it: ``tools/train.py CONFIG --work-dir DIR --cfg-options k=v``."""

import argparse
import sys

from perception.cli import main


def translated(argv: list[str]) -> list[str]:
    """The arguments of ``perception train`` that say the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file or short name")
    parser.add_argument("--work-dir", help="folder of the seed_<s> run folders")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the work dir")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--launcher", default="none", choices=("none", "pytorch"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    overrides = list(args.cfg_options)
    if args.amp:
        overrides += ["optim_wrapper.type=AutocastOptimWrapper", "optim_wrapper.dtype=bfloat16"]
    words = ["train", args.config, "--seed", str(args.seed), "--launcher", args.launcher]
    words += ["--out", args.work_dir] if args.work_dir else []
    words += ["--resume"] if args.resume else []
    return [*words, "--set", *overrides] if overrides else words


if __name__ == "__main__":
    sys.exit(main(translated(sys.argv[1:])))
