#!/usr/bin/env python
"""Public weights (timm, MAE, a plain state dict) -> an export that ``perception.load_backbone`` and ``init_from`` read.

``tools/convert_weights.py WEIGHTS CONFIG --out DIR``: CONFIG tells the backbone and its Preprocess record. Heads,
decoders and whatever else the backbone lacks are left out and listed; a missing weight is an error.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from perception.errors import CheckpointError, PerceptionError


def main(argv: list[str]) -> int:
    """Convert one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help=".pth, .pt or .safetensors file")
    parser.add_argument("config", help="config whose model.backbone the weights belong to")
    parser.add_argument("--out", type=Path, required=True, help="export folder to create")
    parser.add_argument("--prefix", default="", help="keep only keys below this prefix, such as 'encoder.'")
    args = parser.parse_args(argv)

    from safetensors.torch import load_file

    from perception.checkpoint import load_checkpoint, load_state, save_checkpoint
    from perception.config import load_config, plain
    from perception.exporting import build_backbone, export_backbone

    config = plain(load_config(args.config))
    backbone = build_backbone({k: v for k, v in config["model"]["backbone"].items() if k != "init_from"})
    loaded = load_file(args.weights) if args.weights.suffix == ".safetensors" else load_checkpoint(args.weights)
    tensors = loaded.get("state_dict", loaded.get("model", loaded))
    state = {k.removeprefix(args.prefix): v for k, v in tensors.items() if k.startswith(args.prefix)}
    if not state:
        raise CheckpointError(f"{args.weights} has no keys below {args.prefix!r}; it begins with {sorted(tensors)[:5]}")
    own = set(backbone.state_dict())
    left_out = sorted(set(state) - own)
    load_state(backbone, {k: v for k, v in state.items() if k in own}, str(args.weights))
    meta = {"config": json.dumps(config), "preprocess": backbone.preprocess.record()}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / args.weights.with_suffix(".pth").name
        save_checkpoint(
            {"meta": meta, "state_dict": {f"backbone.{k}": v for k, v in backbone.state_dict().items()}}, file
        )
        export_backbone(file, args.out)
    print(f"{len(own)} tensors -> {args.out}; left out: {', '.join(left_out) or 'nothing'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        sys.exit(f"convert_weights: {error}")
