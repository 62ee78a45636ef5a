#!/usr/bin/env python
"""Are images of one set in another? By perceptual hash and by file name, with a report.

``tools/leak_check.py TRAIN TEST``: each is a folder, a text file of image paths, or a data set written as a call, such
as ``"RSICDMini(split='train')"``. Without TEST, duplicates within TRAIN. Exit code 0: none, 1: some, 2: an error.
"""

import argparse
import sys
from pathlib import Path

from perception.errors import PerceptionError


def main(argv: list[str]) -> int:
    """Compare two sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="the set to clean")
    parser.add_argument("test", nargs="?", help="the set to keep apart")
    parser.add_argument("--threshold", type=int, default=2, help="bits of 64 in which two hashes may differ")
    parser.add_argument("--turns", action="store_true", help="compare flips and right-angle turns too")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--exclude", type=Path, help="write the names to leave out, for exclude= of a data set")
    args = parser.parse_args(argv)

    from perception.cli._datasets import build_dataset
    from perception.evaluation.leaks import find_leaks, look_at_dataset, look_at_folder, look_at_list

    def look(text: str):
        if Path(text).is_dir():
            return look_at_folder(text)
        return look_at_list(text) if Path(text).is_file() else look_at_dataset(build_dataset(text), text)

    leaks = find_leaks(look(args.train), None if args.test is None else look(args.test), args.threshold, args.turns)
    print(leaks.report())
    if args.json:
        leaks.save(args.json)
    if args.exclude:
        leaks.save_exclusions(args.exclude)
    return 1 if leaks.pairs else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        print(f"leak_check: {error}", file=sys.stderr)
        sys.exit(2)
