#!/usr/bin/env python
"""What a trained detector or map segmenter tells of single scenes, drawn beside the truth.

Green is true, orange predicted; in layers of a map white is both, grey unknown. One page a sample holds everything.

tools/scenes.py runs/driving/finetune_fusion_scenes --samples 0 1 2 --threshold 0.3
tools/scenes.py runs/driving/centerpoint_pillars_kitti-frames --set test_dataloader.dataset.cameras=True
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import ConfigError, PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Write PNGs (map, cameras, layers) and a page for every sample, and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a BEVDetector or BEVSegmenter; of several seeds the first")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="whose data (default test)")
    parser.add_argument("--samples", nargs="+", type=int, help="places in it (default: the first three)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of a box or cell (default 0.3)")
    parser.add_argument("--forward", choices=("x", "y"), default="x", help="axis of the LiDAR's front: y for nuScenes")
    parser.add_argument("--out", type=Path, help="folder of the files (default: scenes_<split> in the run folder)")
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="override config values, KEY=VALUE")
    args = parser.parse_args(argv)

    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import load_all, trained_weights
    from perception.config import plain
    from perception.evaluation.predicted_scenes import write_scenes
    from perception.registry import DATASETS, MODELS

    folder = run_folders(args.run)[0]
    cfg = plain(open_run(folder, args.overrides).config)
    if (kind := cfg["model"]["type"]) not in ("BEVDetector", "BEVSegmenter"):
        raise ConfigError(f"{folder}: pictures are drawn for BEVDetector and BEVSegmenter, not for {kind}")
    loaders = {name: cfg.get(f"{name}_dataloader") for name in ("train", "val", "test")}
    if not loaders[args.split]:
        there = [name for name in loaders if loaders[name]]
        raise ConfigError(f"{folder}: the config has no {args.split}_dataloader; --split can be {', '.join(there)}")
    model = MODELS.build(cfg["model"])
    load_all(model, trained_weights(folder))
    dataset, out = DATASETS.build(loaders[args.split]["dataset"]), args.out or folder / f"scenes_{args.split}"
    places = args.samples or range(min(3, len(dataset)))
    for scene in write_scenes(model, dataset, places, out, args.threshold, args.forward, folder.name):
        print(f"{args.split} {scene.sample}: {scene.told}", *scene.files, sep="\n  ")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        print(f"scenes: {error}", file=sys.stderr)
        sys.exit(2)
