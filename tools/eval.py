#!/usr/bin/env python
"""``perception eval`` with the argument names of OpenMMLab: ``tools/eval.py RUN [CHECKPOINT] --cfg-options k=v``."""

import argparse
import sys

from perception.cli import main


def translated(argv: list[str]) -> list[str]:
    """The arguments of ``perception eval`` that say the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run folder, or parent of seed_<s> folders")
    parser.add_argument("checkpoint", nargs="?", help="other weights than the run's own")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    words = ["eval", args.run]
    words += ["--checkpoint", args.checkpoint] if args.checkpoint else []
    return [*words, "--set", *args.cfg_options] if args.cfg_options else words


if __name__ == "__main__":
    sys.exit(main(translated(sys.argv[1:])))
