#!/usr/bin/env python
"""Guess the kinds of a table's columns and print them, to be pasted into a config and corrected.

python tools/table_schema.py products.csv --leave-out product photo kind split
"""

from __future__ import annotations

import argparse
import sys

from perception.datasets.table_files import infer_kinds, read_table, schema_text
from perception.errors import PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Read, guess, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help=".csv, .tsv, .parquet or .npz")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="COLUMN", help="id, image, label, split")
    parser.add_argument("--separator", default=",", help="between the cells of a .csv (default: a comma)")
    args = parser.parse_args(argv)
    try:
        table = read_table(args.file, args.separator)
        for name in args.leave_out:
            table.column(name, "--leave-out")
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    print(schema_text(table, infer_kinds(table, args.leave_out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
