#!/usr/bin/env python
"""Public weights (timm, MAE, open_clip, a plain state dict) -> an export for ``perception.load_backbone``; and back.

``tools/convert_weights.py WEIGHTS CONFIG --out DIR``: CONFIG tells the backbone and its Preprocess record, or is a
model of open_clip, such as ``open_clip:ViT-B-32 --quick-gelu`` for RemoteCLIP. Heads, decoders and whatever else the
backbone lacks are left out and listed; a missing weight is an error.
``--whole --out FILE.pth`` keeps the decoder of masked video models: a checkpoint for ``load_from``.
``tools/convert_weights.py RUN --to-open-clip --out DIR``: a CLIP of ours as a folder that open_clip reads.
"""

import argparse
import sys
from pathlib import Path

from perception.errors import ConfigError, PerceptionError


def main(argv: list[str]) -> int:
    """Convert one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help=".pth, .pt, .bin or .safetensors file; or a run or export of ours")
    parser.add_argument("config", nargs="?", help="config whose model.backbone it is, or open_clip:<model>")
    parser.add_argument("--out", type=Path, required=True, help="folder to create, with --whole a file")
    parser.add_argument("--prefix", default="", help="keep only keys below this prefix, such as 'encoder.'")
    parser.add_argument("--quick-gelu", action=argparse.BooleanOptionalAction, help="activation of open_clip:<model>")
    parser.add_argument("--to-open-clip", action="store_true", help="write a folder for open_clip instead")
    parser.add_argument("--whole", action="store_true", help="a checkpoint of the whole Pretrainer, for load_from")
    args = parser.parse_args(argv)

    from perception.backbones.clip_folder import write_open_clip
    from perception.config import load_config, plain
    from perception.exporting import export_public, load_backbone

    if args.to_open_clip:
        print(f"open_clip.create_model('local-dir:{write_open_clip(load_backbone(args.weights), args.out)}')")
        return 0
    if args.config is None:
        raise ConfigError("CONFIG is missing: which backbone do the weights belong to?")
    if args.config.startswith("open_clip:"):
        clip = {"type": "CLIP", "model": args.config.removeprefix("open_clip:"), "quick_gelu": args.quick_gelu}
        config = {"model": {"type": "Pretrainer", "backbone": clip}}
    else:
        config = plain(load_config(args.config))
    if args.whole:
        from perception.engine.public_weights import whole_checkpoint

        count, left_out = whole_checkpoint(args.weights, config, args.out)
    else:
        count, left_out = export_public(args.weights, config, args.out, args.prefix)
    print(f"{count} tensors -> {args.out}; left out: {', '.join(left_out) or 'nothing'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PerceptionError as error:
        sys.exit(f"convert_weights: {error}")
