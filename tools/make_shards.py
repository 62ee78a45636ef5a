#!/usr/bin/env python
"""Any caption data set, or any list of video files -> tar shards for ``PairShards``, ``VideoShards``, webdataset tools.

``tools/make_shards.py "RSICD(split='train', size=None)" --format copy --out DIR`` keeps the files' own bytes;
``--format png`` or ``jpg`` writes the images as the data set gives them. Videos are always copied:
``tools/make_shards.py "VideoManifest(path='train.csv', on_error='skip')" --out DIR``.
"""

import argparse
import sys

from perception.errors import DataError, PerceptionError


def main(argv: list[str]) -> int:
    """Pack one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a data set written as a call: LandCover(split='val')")
    parser.add_argument("--out", required=True, help="folder of the shards")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples in a shard")
    parser.add_argument("--format", help="png (of images by default), jpg or copy (of videos by default)")
    parser.add_argument("--quality", type=int, default=95, help="of jpg")
    args = parser.parse_args(argv)

    from perception.cli._datasets import build_dataset
    from perception.datasets.shard_writer import write_shards, write_video_shards
    from perception.datasets.video_files import VideoFiles

    dataset = build_dataset(args.dataset)
    if isinstance(dataset, VideoFiles):
        if args.format not in (None, "copy"):
            raise DataError(f"--format {args.format}: videos are copied as they are")
        shards = write_video_shards(dataset, args.out, args.per_shard)
    else:
        shards = write_shards(dataset, args.out, args.per_shard, args.format or "png", args.quality)
    size = sum(path.stat().st_size for path in shards) / 2**20
    count = len(dataset.records) if isinstance(dataset, VideoFiles) else len(dataset)
    print(f"{count} samples -> {len(shards)} shards, {size:.1f} MB in {args.out}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        sys.exit(f"make_shards: {error}")
