#!/usr/bin/env python
"""A trained driving model under corruptions, as a table with mRR and, beside a baseline, mCE; and under spoofing.

tools/robustness.py runs/driving/centerpoint_pillars_kitti-frames --figure detection/bev_ap50
tools/robustness.py runs/driving/finetune_fusion_scenes --corruptions camera-fog camera-dropout extrinsic-calibration
tools/robustness.py RUN --baseline SCRATCH_RUN --corruptions lidar-fog lidar-beams --severities 1 3 5 --spoof
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import PerceptionError


def main(argv: list[str]) -> int:
    """Measure one run, and its baseline if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a task model with a test set; of several seeds the first")
    parser.add_argument("--baseline", help="run folder of the model whose error is 100 %%")
    parser.add_argument("--figure", default="detection/map", help="figure of the first test metric")
    parser.add_argument("--corruptions", nargs="+", help="names (default: those of the sensors that it reads)")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="of 1 to 5")
    parser.add_argument("--forward", choices=("x", "y"), default="x", help="axis of the LiDAR's front: y for nuScenes")
    parser.add_argument("--intensity-scale", type=float, default=1.0, help="1 for KITTI, 255 for nuScenes")
    parser.add_argument("--beams", type=int, default=64, help="lines of the LiDAR: 64 for KITTI, 32 for nuScenes")
    parser.add_argument("--height", type=float, default=1.73, help="of the LiDAR in metres: 1.84 for nuScenes")
    parser.add_argument("--seed", type=int, default=0, help="of what corruptions and attacks draw")
    parser.add_argument("--spoof", action="store_true", help="also inject fake vehicles")
    parser.add_argument("--picture", type=Path, help="PNG of the table")
    args = parser.parse_args(argv)

    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import trained_runner
    from perception.evaluation.corruption_runs import corruption_table, corruptions_of, spoofing_rates
    from perception.evaluation.robustness import spoofing_table

    shared = {"forward": args.forward, "seed": args.seed}
    options = {**shared, "intensity_scale": args.intensity_scale, "beams": args.beams}
    table, rates = None, None
    for folder in filter(None, (args.baseline, args.run)):
        runner, _ = trained_runner(open_run(run_folders(folder)[0]))
        loop = runner.test_loop
        task = runner.bare_model, loop.dataloader.dataset, loop.evaluator.metrics[0]
        names = args.corruptions or corruptions_of(runner.bare_model.preprocess)
        table = corruption_table(*task, args.figure, names, args.severities, baseline=table, **options)
        before, rates = rates, spoofing_rates(*task[:2], height=args.height, **shared) if args.spoof else None
    print(table.table())
    print(f"\nmRR {table.mrr:.1f} %" + (f", mCE {table.mce:.1f} %" if args.baseline else ""))
    if rates is not None:
        print("\n" + spoofing_table(rates, before))
    if args.picture:
        table.picture(args.picture)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        print(f"robustness: {error}", file=sys.stderr)
        sys.exit(2)
