#!/usr/bin/env python
"""What pre-training saves in labels: fine-tuned from a run against from scratch, at 5, 25 and 50 labels a class.

python tools/low_label.py runs/image/mae_vit-tiny_cifar-small --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from perception.cli import main as perception
from perception.cli._common import print_table
from perception.evaluation.stats import mean_std

CONFIG = "image/finetune_vit-tiny_cifar-small"


def main(argv: list[str] | None = None) -> int:
    """Train every cell that is not there yet, then print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="pre-training run, or the parent of its seed_<s> folders")
    parser.add_argument("--per-class", type=int, nargs="+", default=[5, 25, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/low_label"))
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], help="further overrides for every cell")
    args = parser.parse_args(argv)
    cells: dict[str, dict[int, list[float]]] = {}
    # From scratch all layers learn at the full rate: slowing lower ones down only protects what they already know.
    starts = {"from scratch": ["optim_wrapper.paramwise_cfg.decay=1.0"]}
    starts["pre-trained"] = [f"model.backbone.init_from={args.run}"]
    for start, source in starts.items():
        for count in args.per_class:
            values = cells.setdefault(start, {}).setdefault(count, [])
            draw = [f"train_dataloader.dataset.per_class={count}", "train_dataloader.dataset.split_seed={seed}"]
            for seed in args.seeds:
                out = args.out / start.replace(" ", "_") / str(count)
                run = ["train", CONFIG, "--seed", str(seed), "--out", str(out), "--resume", "--set"]
                if code := perception([*run, *draw, *source, *args.overrides]):
                    return code
                summary = json.loads((out / f"seed_{seed}" / "summary.json").read_text())
                values.append(summary["metrics"]["test"]["accuracy/top1"])
    (args.out / "low_label.json").write_text(json.dumps({"seeds": args.seeds, "accuracy": cells}, indent=2) + "\n")
    rows = [(start, *(_spread(values) for values in row.values())) for start, row in cells.items()]
    pairs = zip(*(row.values() for row in cells.values()), strict=True)
    gains = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairs]
    rows.append(("gain (points)", *(_spread(gain) for gain in gains)))
    title = f"test accuracy in %, mean ± std over {len(args.seeds)} seeds"
    print_table(title, ("start", *(f"{count} labels a class" for count in args.per_class)), rows)
    return 0


def _spread(values: list[float]) -> str:
    mean, std = mean_std(values)
    return f"{100 * mean:.1f} ± {100 * std:.1f}" if len(values) > 1 else f"{100 * mean:.1f}"


if __name__ == "__main__":
    sys.exit(main())
