"""``perception validate``: every fault of a config at once, and on request what it will cost."""

from __future__ import annotations

import argparse

from perception.cli._common import (
    add_config_arguments,
    add_threads_argument,
    positive,
    print_table,
    seed_number,
    use_threads,
    valid_config,
)

HELP = "Report every fault of a config at once. --dry-run also prints its sizes and runs one real batch."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="S", help="seed that {seed} and init_from are read for"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--no-data", action="store_true", help="do not look for the files of the data sets")
    extent.add_argument("--dry-run", action="store_true", help="size the model, then run one batch forward and back")
    parser.add_argument(
        "--samples",
        type=positive,
        default=16,
        metavar="N",
        help="samples of the one batch of --dry-run; memory is scaled up to the config's batch size (default: 16)",
    )
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Validate, and size and try the model if asked to."""
    use_threads(args.threads)
    cfg = valid_config(args.config, args.overrides, args.seed, data_sets=not args.no_data)
    from perception.config import config_hash

    print(f"{args.config}: no faults (hash {config_hash(cfg)})")
    if not args.dry_run:
        return 0
    from perception.cli._dry_run import sizes, trial

    print_table("Sizes (nothing allocated)", ("what", "value"), sizes(cfg))
    print_table("One real batch", ("what", "value"), trial(cfg, args.seed, args.samples))
    return 0
