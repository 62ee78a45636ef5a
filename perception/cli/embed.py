"""``perception embed``: write the embeddings of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from perception.cli._common import add_threads_argument, positive, seed_number, use_threads
from perception.cli._runs import add_device_argument, pick_device
from perception.errors import ConfigError, nearest

HELP = """Write the embeddings of a data set to an .npz of plain arrays: features (n, D) float32, labels (n,) int64 (-1
where unknown) and index (n,) int64. --data is the name of a data set, a config of one as a python dict such as
"dict(type='CIFARSmall', split='test')", or train, val, test or all for that part of the run's evaluation section."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN_OR_EXPORT", help="run folder, parent of one seed, export, or checkpoint")
    parser.add_argument(
        "--data", required=True, metavar="DATA", help="data set: name, python dict, or part of the run's"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz to write")
    parser.add_argument("--feature", metavar="F", help="which pooled feature (default: the backbone's first)")
    parser.add_argument("--batch-size", type=positive, default=500, metavar="N", help="samples at a time")
    parser.add_argument("--seed", type=seed_number, metavar="S", help="which seed of a parent")
    add_device_argument(parser)
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Embed and write."""
    use_threads(args.threads)
    if args.out.suffix != ".npz":
        raise ConfigError(f"--out {args.out}: embeddings are written as .npz")
    from perception.evaluation.features import build_dataset, embed_dataset, write_arrays
    from perception.exporting import load_backbone

    backbone = load_backbone(args.run, pick_device(args.device), args.seed)
    dataset = build_dataset(data_config(args.data, args.run))
    arrays = embed_dataset(backbone, dataset, args.feature, args.batch_size)
    write_arrays(args.out, arrays)
    shape = " x ".join(map(str, arrays["features"].shape))
    known = int((arrays["labels"] >= 0).sum())
    print(f"{args.out}: features {shape}, {known} labelled")
    return 0


def data_config(text: str, run: str) -> dict[str, Any]:
    """The data set config that ``--data`` stands for, checked.

    Raises:
        ConfigError: not a data set, with the nearest names, or with all faults of its config.
    """
    from perception.config import literal, load_config, plain
    from perception.evaluation.run import SPLITS
    from perception.registry import DATASETS
    from perception.validation import require_valid

    folder = Path(run)
    if text in SPLITS:
        is_run = (folder / "config.json").is_file() or any(folder.glob("seed_*/config.json"))
        section = plain(load_config(folder).get("evaluation") or {}) if is_run else {}
        if not section.get(text):
            raise ConfigError(f"--data {text}: {run} has no evaluation section with {text!r}; name a data set")
        cfg = section[text]
    elif text.isidentifier():
        if text not in DATASETS.names():
            close = nearest(text, DATASETS.names())
            hint = (
                f" Did you mean {' or '.join(map(repr, close))}?"
                if close
                else f" There are {', '.join(DATASETS.names())}."
            )
            raise ConfigError(f"--data {text}: no data set of that name.{hint}")
        cfg = {"type": text}
    else:
        try:
            cfg = literal(text)
        except ValueError as error:
            raise ConfigError(f"--data {text}: {error}") from error
        if not isinstance(cfg, dict) or "type" not in cfg:
            raise ConfigError(f"--data {text}: a data set config is a dict with the key 'type'")
    require_valid({"evaluation": {"all": cfg}}, source="--data", training=False)
    return cfg
