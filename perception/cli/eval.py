"""``perception eval``: test a trained task model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.cli._common import add_set_argument, add_threads_argument, aggregate, print_table, use_threads
from perception.cli._runs import Run, open_run, run_folders
from perception.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from perception.engine.runner import PerceptionRunner

HELP = """Run the test loop of a fine-tuned run and write metrics.json into it. RUN is a run folder, or the parent of
seed_<s> folders, whose figures are aggregated. The best checkpoint is used where the run kept one, else the last.
A pre-training run has no head to test: its backbone is judged by 'perception probe'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="run folder or parent of seed_<s> folders")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="test these weights instead of the run's own")
    add_set_argument(parser)
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Test every seed, print, write."""
    use_threads(args.threads)
    folders = run_folders(args.run)
    if args.checkpoint and len(folders) > 1:
        raise ConfigError("--checkpoint with several seeds: name one run folder")
    values = {}
    for folder in folders:
        opened = open_run(folder, args.overrides)
        metrics, weights = test(opened, args.checkpoint)
        values[opened.seed] = metrics
        if args.checkpoint is None and not args.overrides:
            _write(opened, metrics, weights)
        print_table(
            f"{folder}: test of {weights.name}", ("metric", "value"), [(k, f"{v:.4f}") for k, v in metrics.items()]
        )
    if len(values) > 1:
        table = aggregate(values)
        rows = [(name, f"{row['mean']:.4f} ± {row['std']:.4f}") for name, row in table.items()]
        print_table(f"{args.run}: {len(values)} seeds", ("metric", "mean ± std"), rows)
    return 0


def test(opened: Run, checkpoint: Path | None = None) -> tuple[dict[str, float], Path]:
    """Metrics of a run's test loop, and the checkpoint that they belong to; raises as ``trained_runner`` does."""
    runner, weights = trained_runner(opened, checkpoint)
    return {name: float(value) for name, value in runner.test_loop.run().items()}, weights


def trained_runner(opened: Run, checkpoint: Path | None = None) -> tuple[PerceptionRunner, Path]:
    """A runner that has the test loop of a run alone and its trained weights, and the checkpoint they came from.

    Raises:
        ConfigError: the config has no test loop.
        CheckpointError: there are no weights for some part of the model. Testing a head that was never trained would
            give a random figure, another one each time.
    """
    from perception.engine.api import build_runner

    cfg = opened.config
    if not cfg.get("test_dataloader"):
        hint = f"; 'perception probe {opened.folder}' judges its backbone" if cfg.get("evaluation") else ""
        raise ConfigError(f"{opened.folder}: the config has no test_dataloader, so there is nothing to test{hint}")
    weights = checkpoint or trained_weights(opened.folder)
    testing: dict[str, Any] = {
        key: value
        for key, value in cfg.items()
        if key.startswith("test_") or key in ("model", "env_cfg", "randomness", "experiment_name")
    }
    runner = build_runner({**testing, "default_hooks": {}}, opened.folder, opened.seed)
    load_all(runner.bare_model, weights)
    return runner, weights


def trained_weights(folder: Path) -> Path:
    """The best checkpoint of a run folder where it kept one, else the last."""
    from perception.checkpoint import FOLDER, find_checkpoint

    best = folder / FOLDER / "best.pth"
    return best if best.is_file() else find_checkpoint(folder)


def load_all(model: nn.Module, weights: Path) -> None:
    """Load a checkpoint that must have every part of ``model``."""
    from perception.checkpoint import load_checkpoint, load_state, model_state

    state = model_state(load_checkpoint(weights))
    untrained = sorted({key.split(".")[0] for key in model.state_dict()} - {key.split(".")[0] for key in state})
    if untrained:
        raise CheckpointError(
            f"{weights} has no weights for {', '.join(untrained)}: testing would judge a randomly initialised head. "
            "Fine-tune first, with model.backbone.init_from set to this run."
        )
    load_state(model, state, repr(str(weights)))


def _write(opened: Run, metrics: dict[str, float], weights: Path) -> None:
    import json

    from perception.checkpoint import write_text
    from perception.cli._runs import read_json

    file = opened.folder / "metrics.json"
    before = read_json(file) if file.is_file() else {}
    content = {**before, "seed": opened.seed, "checkpoint": str(weights.relative_to(opened.folder)), "test": metrics}
    write_text(file, json.dumps(content, indent=2) + "\n")
    print(f"written: {file}")
