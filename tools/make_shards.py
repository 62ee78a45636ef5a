#!/usr/bin/env python
"""Any caption data set -> tar shards for ``PairShards`` and the webdataset tools.

``tools/make_shards.py "RSICD(split='train', size=None)" --format copy --out DIR`` keeps the files' own bytes;
``--format png`` or ``jpg`` writes the images as the data set gives them.
"""

import argparse
import sys

from perception.errors import PerceptionError


def main(argv: list[str]) -> int:
    """Pack one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a caption data set written as a call: LandCover(split='val')")
    parser.add_argument("--out", required=True, help="folder of the shards")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples in a shard")
    parser.add_argument("--format", default="png", help="png, jpg or copy")
    parser.add_argument("--quality", type=int, default=95, help="of jpg")
    args = parser.parse_args(argv)

    from perception.cli._datasets import build_dataset
    from perception.datasets.shard_writer import write_shards

    dataset = build_dataset(args.dataset)
    shards = write_shards(dataset, args.out, args.per_shard, args.format, args.quality)
    size = sum(path.stat().st_size for path in shards) / 2**20
    print(f"{len(dataset)} samples -> {len(shards)} shards, {size:.1f} MB in {args.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        sys.exit(f"make_shards: {error}")
