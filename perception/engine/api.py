"""One call from a config to a trained, tested and evaluated run folder."""

from __future__ import annotations

import copy
import gc
import json
import os
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import barrier, get_dist_info, is_main_process
from rich.table import Table

from perception.checkpoint import load_checkpoint, load_state, model_state, write_text
from perception.config import config_hash, plain, save_config
from perception.engine.console import console, say
from perception.engine.distributed import init_distributed
from perception.engine.environment import describe_environment
from perception.engine.hooks.checkpoint import SafeCheckpointHook
from perception.engine.hooks.scalars import ScalarsHook
from perception.engine.runner import PerceptionRunner
from perception.errors import CheckpointError, ConfigError, Fault, TrainingError

# For configs without the runtime base; the same as configs/_base_/runtime.py.
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "pretext": {"type": "PretextHook"},
    "guard": {"type": "NonFiniteGuard"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "scalars": {"type": "ScalarsHook", "interval": 10},
    "progress": {"type": "ProgressHook", "seconds": 10.0},
    "pictures": {"type": "PicturesHook"},
    "checkpoint": {"type": "SafeCheckpointHook", "every_seconds": 120.0, "max_keep_ckpts": 1},
    "sigterm": {"type": "SigtermHook"},
}


def train(
    cfg: Config | Mapping[str, Any],
    run_dir: str | os.PathLike[str],
    seed: int,
    resume: bool = False,
    launcher: str = "none",
) -> dict[str, Any]:
    """Train a config, test it, evaluate its backbone, and leave everything in ``run_dir``.

    Args:
        cfg: a valid config.
        run_dir: the run folder of this seed.
        seed: seed of weights, order, augmentation and noise.
        resume: go on from the newest checkpoint of ``run_dir``, if there is one.
        launcher: ``none``, or ``pytorch`` under torchrun.

    Returns:
        What ``summary.json`` holds; empty on all ranks but the first.

    Raises:
        TrainingError: the numbers are no longer finite, or the run folder cannot be written.
        SystemExit: a signal ended the run after it was saved (code 143 after SIGTERM).
    """
    run_dir = Path(run_dir)
    if not init_distributed(launcher):
        return _train(cfg, run_dir, seed, resume, launcher)
    try:
        return _train(cfg, run_dir, seed, resume, launcher)
    except SystemExit as leaving:
        code = leaving.code
    finally:
        # The model goes before the group that it talks through: the other order has ended a rank with an abort.
        gc.collect()
        dist.destroy_process_group()
    raise SystemExit(code)  # anew: the first one's traceback would keep the model alive until the interpreter ends


def _train(cfg: Config | Mapping[str, Any], run_dir: Path, seed: int, resume: bool, launcher: str) -> dict[str, Any]:
    began = time.monotonic()
    rank, world_size = get_dist_info()
    if rank == 0:
        _require_writable(run_dir)
        if not (resume and (run_dir / "config.json").is_file()):  # else when the checkpoint has been found to fit
            save_config(cfg, run_dir)
        _write_json(run_dir / "environment.json", describe_environment(cfg, seed, world_size))
    runner = build_runner(cfg, run_dir, seed, resume, launcher)
    runner.train()
    summary = _summarise(runner, cfg, seed)
    if cfg.get("test_dataloader"):
        summary["metrics"]["test"] = _test(runner)
    if rank != 0:
        return {}
    if any(summary["metrics"].values()):
        _write_json(run_dir / "metrics.json", {"seed": seed, "checkpoint": summary["checkpoint"], **summary["metrics"]})
    if cfg.get("evaluation"):
        from perception.evaluation.overlap import all_sources
        from perception.evaluation.run import evaluate_run

        start = plain(cfg["model"]).get("backbone") or {}
        summary["sources"] = sources = all_sources(runner.train_dataloader.dataset, start, seed)
        with runner.averaged_weights():
            backbone = runner.bare_model.backbone
            summary["evaluation"] = evaluate_run(cfg, backbone, seed, run_dir, trained_on=sources)
    summary["session_seconds"] = round(time.monotonic() - began, 3)
    _write_json(run_dir / "summary.json", summary)
    _print(summary, run_dir)
    return summary


def build_runner(
    cfg: Config | Mapping[str, Any], run_dir: Path, seed: int, resume: bool = False, launcher: str = "none"
) -> PerceptionRunner:
    """The runner of a config. With ``launcher='pytorch'`` the process group exists already."""
    # The runner keeps the config as it was written: what is filled in below must not change its hash.
    original = Config(plain(cfg))
    options = copy.deepcopy(original.to_dict())
    options.setdefault("train_cfg", None)
    if options["train_cfg"]:
        options["train_cfg"].setdefault("type", "TrainLoop")
    for stage in ("val", "test"):
        if options.get(f"{stage}_dataloader"):
            options[f"{stage}_cfg"] = {"type": f"{stage.title()}Loop", **(options.get(f"{stage}_cfg") or {})}
            if not options.get(f"{stage}_evaluator"):
                raise ConfigError([Fault(f"{stage}_evaluator", None, f"{stage}_dataloader needs a metric beside it")])
    randomness = {**options.get("randomness", {}), "seed": seed}
    randomness.pop("diff_rank_seed", None)  # every rank has noise of its own anyway, and the data order is shared
    env_cfg = {"cudnn_benchmark": False, "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}}
    stages = {
        f"{s}_{part}": options.get(f"{s}_{part}")
        for s in ("val", "test")
        for part in ("dataloader", "cfg", "evaluator")
    }
    return PerceptionRunner(
        model=options["model"],
        work_dir=str(run_dir),
        train_dataloader=options.get("train_dataloader"),
        train_cfg=options["train_cfg"],
        optim_wrapper=options.get("optim_wrapper"),
        param_scheduler=options.get("param_scheduler"),
        **stages,
        default_hooks=options.get("default_hooks", copy.deepcopy(DEFAULT_HOOKS)),
        custom_hooks=options.get("custom_hooks"),
        load_from=options.get("load_from"),
        resume=resume,
        launcher=launcher,
        env_cfg={**env_cfg, **(options.get("env_cfg") or {})},
        visualizer=options.get("visualizer"),
        default_scope="perception",
        randomness=randomness,
        # Loggers, hubs and scopes of mmengine live as long as the process, by name: runs must not share them.
        experiment_name=f"{options.get('experiment_name') or run_dir.name}_{uuid.uuid4().hex[:8]}",
        cfg=original,
    )


def _require_writable(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(run_dir / ".writable", "")
        (run_dir / ".writable").unlink()
    except (OSError, CheckpointError) as error:
        raise TrainingError(
            f"the run folder {str(run_dir)!r} cannot be written: {error}. Choose another one with --out."
        ) from error


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _test(runner: PerceptionRunner) -> dict[str, float]:
    """Test metrics: of the best checkpoint where one is kept, else of the last weights (averaged if they are)."""
    best = runner.checkpoint_folder / "best.pth"
    keeps_best = any(isinstance(hook, SafeCheckpointHook) and hook.save_best for hook in runner.hooks)
    barrier()  # the first rank may still be writing it
    if keeps_best and best.is_file():
        last = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
        load_state(runner.bare_model, model_state(load_checkpoint(best)), source=repr(str(best)))
        metrics = runner.test_loop.run()
        load_state(runner.bare_model, last, source="the last weights")
        return metrics
    with runner.averaged_weights():
        return runner.test_loop.run()


def _summarise(runner: PerceptionRunner, cfg: Any, seed: int) -> dict[str, Any]:
    scalars = [hook for hook in runner.hooks if isinstance(hook, ScalarsHook)]
    last = runner.last_checkpoint()
    model = runner.bare_model
    return {
        "name": cfg.get("experiment_name") or Path(runner.work_dir).parent.name,
        "seed": seed,
        "config_hash": config_hash(cfg),
        "steps": runner.iter,
        "epochs": runner.epoch,
        "stopped_early": runner.iter < runner.max_iters,
        "train_seconds": round(runner.elapsed, 3),
        "resumed_at": runner.resumed_step,
        "world_size": runner.world_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "losses": scalars[0].last_losses if scalars else {},
        "metrics": {"val": runner.metrics.get("val", {})} if runner.metrics else {},
        "checkpoint": str(last.relative_to(runner.work_dir)) if last else None,
    }


def _print(summary: Mapping[str, Any], run_dir: Path) -> None:
    if not is_main_process():
        return
    table = Table(title=f"{summary['name']}, seed {summary['seed']}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut short is of no use
    table.add_row(
        "steps",
        f"{summary['steps']} ({summary['epochs']} epochs)" + (", stopped early" if summary["stopped_early"] else ""),
    )
    seconds = timedelta(seconds=round(summary["train_seconds"]))
    table.add_row("training time", f"{seconds} ({summary['steps'] / max(summary['train_seconds'], 1e-9):.3g} steps/s)")
    table.add_row("parameters", f"{summary['parameters']:,}")
    for name, value in summary["losses"].items():
        table.add_row(name, f"{value:.4g}")
    for stage, metrics in summary["metrics"].items():
        for name, value in metrics.items():
            table.add_row(f"{stage} {name}", f"{value:.4f}" if isinstance(value, float) else str(value))
    table.add_row("run folder", str(run_dir))
    if summary["checkpoint"]:
        table.add_row("checkpoint", summary["checkpoint"])
    console.print(table)
    say("")
