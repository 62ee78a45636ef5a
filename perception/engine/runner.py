"""mmengine's runner with a quiet console, plain checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import perception
from perception.checkpoint import (
    FOLDER,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_state,
    model_state,
    save_checkpoint,
)
from perception.config import config_differences, config_hash, plain, save_config
from perception.engine.console import say
from perception.engine.data import build_dataloader
from perception.engine.distributed import gather, share
from perception.engine.plain import plain_state
from perception.engine.randomness import rng_state, seed_all, set_rng_state
from perception.engine.schedulers import RunSchedule
from perception.errors import CheckpointError
from perception.registry import PARAM_SCHEDULERS, RUNNERS

# Ranks draw different noise; a prime keeps the seeds of neighbouring runs apart.
_RANK_STRIDE = 1_000_003


# torch renames the argument; both names mean the same here.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)


class _NoVisualizer:
    """Takes what mmengine hands to a visualizer. Ours is the scalars hook; theirs would import matplotlib."""

    dataset_meta: Any = None

    def add_config(self, config: Any) -> None:
        """Configs are written into the run folder by whoever starts the run."""

    def close(self) -> None:
        """Nothing is open."""


@RUNNERS.register_module()
class PerceptionRunner(Runner):
    """Builds everything from the config, trains, saves and resumes.

    Against mmengine's runner: checkpoints hold plain values only (``perception.checkpoint``), with the state of every
    random generator and every hook that has a ``state_dict``; nothing but our own lines reaches the console; only
    hooks that the config names are registered; a model's weights are what its constructor made them.
    """

    resumed_step = 0
    _has_loaded: bool
    elapsed_before = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()
        self.metrics: dict[str, dict[str, float]] = {}
        super().__init__(*args, **kwargs)

    # -- mmengine's start, made quiet ---------------------------------------------------------------------------

    @property
    def _log_dir(self) -> str:
        return self.work_dir

    @_log_dir.setter
    def _log_dir(self, value: str) -> None:
        """The run folder itself; mmengine would make one named after the time in it."""

    def build_logger(self, log_level: int | str = "WARNING", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """A logger without a file, for the few warnings of mmengine's that remain."""
        return MMLogger.get_instance(name=self._experiment_name, logger_name="perception", log_level="WARNING")

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Make mmengine's visualizer only where a config asks for one."""
        return _NoVisualizer() if visualizer is None else super().build_visualizer(visualizer)

    def _log_env(self, env_cfg: dict) -> None:
        """``environment.json`` says it better and does not run compilers to find out."""

    def dump_config(self) -> None:
        """The caller has written ``config.json``."""

    def get_hooks_info(self) -> str:
        """Not shown."""
        return ""

    def _init_model_weights(self) -> None:
        """Constructors have set the weights; a second initialisation would undo ``init_from``."""

    # -- building ------------------------------------------------------------------------------------------------

    def build_dataloader(self, dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:  # type: ignore[override]
        """A loader that feeds anything but the train loop."""
        return build_dataloader(dataloader, seed=self.seed if seed is None else seed, training=False)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Register the hooks that the config names and no others."""
        for hook in (hooks or {}).values():
            if hook is not None:
                self.register_hook(hook)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call ``fn_name`` of every hook that has it, with errors as they are."""
        for hook in self._hooks:
            function = getattr(hook, fn_name, None)
            if function is not None:
                function(self, **kwargs)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to the device; with several ranks wrap it, with or without GPUs."""
        model = model.to(get_device())
        if not self.distributed:
            return revert_sync_batchnorm(model)
        return MMDistributedDataParallel(
            module=model,
            device_ids=[int(os.environ["LOCAL_RANK"])] if torch.cuda.is_available() else None,
            # Buffers are equal at the start and never sent again in a forward pass.
            **{_SYNC_BUFFERS: False},
            find_unused_parameters=bool(self.cfg.get("env_cfg", {}).get("find_unused_parameters", False)),
        )

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """As mmengine, with our wrapper as the default type."""
        if isinstance(optim_wrapper, dict):
            optim_wrapper.setdefault("type", "AutocastOptimWrapper")
        return super().build_optim_wrapper(optim_wrapper)

    def _build_param_scheduler(self, scheduler: Any, optim_wrapper: OptimWrapper) -> list[Any]:
        built = []
        for item in scheduler if isinstance(scheduler, (list, tuple)) else [scheduler]:
            cls = PARAM_SCHEDULERS.get(item["type"]) if isinstance(item, dict) else None
            if isinstance(cls, type) and issubclass(cls, RunSchedule):
                options = {k: v for k, v in item.items() if k != "type"}
                built.append(
                    cls(
                        optim_wrapper,
                        total_steps=self.train_loop.max_iters,
                        epoch_length=self.train_loop.epoch_length,
                        **options,
                    )
                )
            else:
                built += super()._build_param_scheduler(item, optim_wrapper)
        return built

    @property
    def bare_model(self) -> Any:
        """The model without its distributed wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    # -- running -------------------------------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train. Whatever happens, hooks get ``close``: bars end, files are flushed, signal handlers restored."""
        try:
            return super().train()
        finally:
            self.call_hook("close")

    @property
    def elapsed(self) -> float:
        """Seconds spent on training, earlier sessions of a resumed run included."""
        return self.elapsed_before + time.monotonic() - self.began

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, where a hook keeps them."""
        self.call_hook("use_average")
        try:
            yield
        finally:
            self.call_hook("use_live")

    def log_scalars(self, values: dict[str, float]) -> None:
        """Record named values at the current step (in ``scalars.jsonl``, and for whoever monitors them).

        With several ranks all of them call it, and the first one's values count: a hook that stops the run or saves
        because of a value must do so everywhere.
        """
        self.call_hook("on_scalars", values=share(values))

    # -- checkpoints ---------------------------------------------------------------------------------------------

    @property
    def checkpoint_folder(self) -> Path:
        """Where this run's checkpoints lie."""
        return Path(self.work_dir) / FOLDER

    def last_checkpoint(self) -> Path | None:
        """Path of the newest checkpoint, unverified; None if there is none."""
        return next(iter(list_checkpoints(self.checkpoint_folder)), None)

    def save(self, path: Path) -> None:
        """Write a checkpoint. All ranks call it, the first one writes.

        Raises:
            CheckpointError: the file could not be written; older ones are untouched.
        """
        rng = gather(rng_state())
        model = self.bare_model
        checkpoint: dict[str, Any] = {
            "meta": self._meta(model, len(rng)),
            "state_dict": dict(model.state_dict()),
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.param_schedulers or []],
            "message_hub": _pack_message_hub(self.message_hub),
            "rng": rng,
            "hooks": {name: hook.state_dict() for name, hook in self._stateful_hooks().items()},
        }
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        if self.rank == 0:
            save_checkpoint(plain_state(checkpoint), path)

    def _meta(self, model: nn.Module, world_size: int) -> dict[str, Any]:
        config = plain(self.cfg)
        preprocess = getattr(getattr(model, "backbone", None), "preprocess", None)
        return {
            "step": self.iter,
            "epoch": self.epoch,
            "seed": self.seed,
            "config": json.dumps(config),
            "config_hash": config_hash(config),
            "preprocess": preprocess.record() if preprocess is not None else None,
            "version": perception.__version__,
            "world_size": world_size,
            "elapsed": self.elapsed,
            "metrics": {stage: dict(values) for stage, values in self.metrics.items()},
        }

    def _stateful_hooks(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for hook in self._hooks:
            if hasattr(hook, "state_dict"):
                name = type(hook).__name__
                found[name if name not in found else f"{name}.{len(found)}"] = hook
        return found

    def load_or_resume(self) -> None:
        """Seed this rank's generators; then go on from the newest checkpoint, or start from ``load_from``'s weights."""
        if self._has_loaded:
            return
        self._has_loaded = True
        self.began = time.monotonic()  # building is not training
        seed_all(self.seed + _RANK_STRIDE * self.rank)
        if self._resume:
            if self.last_checkpoint() is None:
                say("nothing to resume yet: starting from the beginning")
            else:
                with warnings.catch_warnings(record=True) as said:
                    path = find_checkpoint(self.checkpoint_folder)
                for warning in said:
                    say(str(warning.message))
                self.resume(str(path))
            if self.rank == 0:  # only now is it certain that the run goes on with this config
                save_config(self.cfg, self.work_dir)
            if self.resumed_step:
                return
        if self._load_from:
            path = find_checkpoint(self._load_from)
            load_state(self.bare_model, model_state(load_checkpoint(path)), source=repr(str(path)))
            say(f"weights from {path}")

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Put model, optimiser, schedules, generators, hooks and the place in the data back to a checkpoint's."""
        checkpoint = load_checkpoint(filename)
        meta = checkpoint.get("meta", {})
        absent = {"step", "seed", "world_size"} - set(meta)
        if absent or "optimizer" not in checkpoint:
            raise CheckpointError(f"{filename!r} holds weights but not the state of a run, so it cannot be resumed")
        changed = self._tell_changes(meta)
        load_state(self.bare_model, checkpoint["state_dict"], source=repr(filename))
        self._resume_optimizer(checkpoint, filename, changed)
        _unpack_message_hub(self.message_hub, checkpoint["message_hub"])
        self.train_loop.go_to(meta["step"])
        self.resumed_step = meta["step"]
        self.elapsed_before = meta["elapsed"]
        self.metrics.update(meta.get("metrics", {}))
        for name, hook in self._stateful_hooks().items():
            if name in checkpoint["hooks"]:
                hook.load_state_dict(checkpoint["hooks"][name])
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if len(checkpoint["rng"]) == self.world_size:
            set_rng_state(checkpoint["rng"][self.rank])
        else:
            say(
                f"the checkpoint is of {len(checkpoint['rng'])} processes, this run has {self.world_size}: "
                "the random numbers start anew"
            )
            seed_all(self.seed + _RANK_STRIDE * self.rank + meta["step"])
        say(f"resumed from {Path(filename).name}: step {meta['step']} of {self.max_iters}")

    def _resume_optimizer(self, checkpoint: dict[str, Any], filename: str, changed: Iterable[str]) -> None:
        """Moments, schedules and loss scale of the checkpoint, but the settings that have ``changed`` in the config.

        An optimiser's state holds its settings too, and would silently undo a lower rate.
        """
        settings = {key.split(".")[2] for key in changed if key.startswith("optim_wrapper.optimizer.")}
        if "type" in settings:
            raise CheckpointError(
                f"{filename!r} is of another type of optimiser: start from its weights with load_from"
            )
        configured = [{k: v for k, v in group.items() if k != "params"} for group in self.optim_wrapper.param_groups]
        try:
            self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{filename!r} does not fit the optimiser of the config: {error}") from error
        if any(key.startswith("optim_wrapper.paramwise_cfg") for key in changed):
            settings |= {"lr", "lr_scale", "weight_decay"}
        settings |= {f"initial_{name}" for name in settings}
        for group, options in zip(self.optim_wrapper.param_groups, configured, strict=True):
            group.update({name: options[name] for name in settings if name in options})
        schedulers, states = self.param_schedulers or [], checkpoint["param_schedulers"]
        if len(schedulers) != len(states):
            raise CheckpointError(f"{filename!r} is of {len(states)} schedules, param_scheduler has {len(schedulers)}")
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict(state)

    def _tell_changes(self, meta: dict[str, Any]) -> dict[str, Any]:
        if meta["seed"] != self.seed:
            raise CheckpointError(f"the checkpoint is of seed {meta['seed']}, this run is of seed {self.seed}")
        changed = config_differences(json.loads(meta["config"]), self.cfg)
        if changed:
            lines = "".join(f"\n  {key}: {old!r} -> {new!r}" for key, (old, new) in changed.items())
            say(f"the config has changed since the checkpoint:{lines}")
        return changed


def _pack_message_hub(hub: Any, window: int = 100) -> dict[str, Any]:
    """The hub as plain tensors, the last ``window`` entries of each history: mmengine pickles all of every history."""
    return {
        "scalars": {
            name: {
                "log": torch.tensor(buffer.data[0][-window:], dtype=torch.float64),
                "count": torch.tensor(buffer.data[1][-window:], dtype=torch.float64),
            }
            for name, buffer in hub.log_scalars.items()
        },
        "info": {k: v for k, v in hub.runtime_info.items() if v is None or isinstance(v, (bool, int, float, str))},
    }


def _unpack_message_hub(hub: Any, state: dict[str, Any]) -> None:
    for name, data in state["scalars"].items():
        hub.log_scalars[name] = HistoryBuffer(data["log"].numpy(), data["count"].numpy())
    for name, value in state["info"].items():
        hub.update_info(name, value)
