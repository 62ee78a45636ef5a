"""``perception export``: make a stand-alone backbone out of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli._common import seed_number

HELP = """Write the backbone of a run to a folder of model.safetensors and backbone.json (config, Preprocess record,
hashes, figures), which perception.load_backbone reads. Heads and decoders stay behind."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="run folder, parent of one seed, or checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument("--seed", type=seed_number, metavar="S", help="which seed of a parent")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export")


def run(args: argparse.Namespace) -> int:
    """Export and say what was written."""
    from perception.exporting import export_backbone

    record = export_backbone(args.run, args.out, args.seed, args.overwrite)
    size = sum(file.stat().st_size for file in args.out.iterdir()) / 2**20
    print(f"{args.out}: {record['type']}, {record['embed_dims']} wide, step {record['step']}, {size:.1f} MiB")
    print(f"use it: import perception; backbone = perception.load_backbone({str(args.out)!r})")
    return 0
