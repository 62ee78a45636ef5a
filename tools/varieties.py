#!/usr/bin/env python
"""Analyse a classifier of related classes over unseen groups: F1 by class, confusion in order, likeness, maps.

python tools/varieties.py runs/speech/joint_tiny_fsdd --out figures --order north,centre,south
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.errors import PerceptionError


def main(argv: list[str] | None = None) -> int:
    """Test every seed of a run, write varieties.json and pictures, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a fine-tuning, or parent of seed_<s> folders")
    parser.add_argument("--group", default="speaker", help="key of the groups in a batch (default speaker)")
    parser.add_argument("--order", help="classes side by side, divided by commas (default: by neighbours, where given)")
    parser.add_argument("--neighbours", type=int, default=5, help="k of kNN across groups (default 5)")
    parser.add_argument("--out", type=Path, help="folder of the results (default varieties/ in every run folder)")
    args = parser.parse_args(argv)

    import json

    from perception.checkpoint import write_text
    from perception.cli._common import print_table
    from perception.cli._runs import open_run, run_folders
    from perception.cli.eval import trained_runner
    from perception.evaluation.varieties import class_figures, class_pictures, look_at_classes, order_of

    for folder in run_folders(args.run):
        runner, _ = trained_runner(open_run(folder))
        model, dataset = runner.bare_model, runner.test_loop.dataloader.dataset
        names = dataset.classes
        order = order_of(dataset, args.order.split(",") if args.order else None)
        seen = look_at_classes(model, dataset, args.group)
        figures = class_figures(seen, names, args.neighbours)
        out = args.out / folder.name if args.out else folder / "varieties"
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "varieties.json", json.dumps(figures, indent=2) + "\n")
        class_pictures(seen, figures, names, out, order, str(folder))
        rows = [(f"F1 of {name}", "-" if v is None else f"{v:.4f}") for name, v in figures["f1"].items()]
        for key in ("macro_f1", "accuracy"):
            rows.append((f"{key} over {figures['groups']} groups", "{:.4f} [{:.4f}, {:.4f}]".format(*figures[key])))
        rows += [(key, str(figures[key])) for key in ("knn_across_groups", "can_be_right", "silhouette")]
        print_table(f"{folder}: written to {out}", ("figure", "value"), rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        print(f"varieties: {error}", file=sys.stderr)
        sys.exit(2)
