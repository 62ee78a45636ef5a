"""The record of a run: ``scalars.jsonl``, and TensorBoard and Weights & Biases beside it if asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from mmengine.hooks import Hook

from perception.checkpoint import write_text
from perception.engine.meter import Window
from perception.errors import PerceptionError
from perception.registry import HOOKS
from perception.signatures import at_least

_FLUSH_SECONDS = 5.0


@HOOKS.register_module()
class ScalarsHook(Hook):
    """Writes one JSON object per logged step: ``step``, ``epoch``, ``lr``, every loss, ``time``, ``data_wait``.

    Losses are means over the steps since the line before; ``time`` is seconds per step, ``data_wait`` the share of it
    spent waiting for data. Validation metrics and what other hooks log get lines of their own with ``step`` and
    ``epoch``. Non-finite numbers are written as null. After a resume, lines beyond the resumed step are dropped,
    because the run will write them again.

    Args:
        interval: steps between lines; the last step is always logged.
        tensorboard: write event files into ``tensorboard/`` too.
        wandb: arguments of ``wandb.init`` (may be empty) to log there too.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 10, tensorboard: bool = False, wandb: dict[str, Any] | None = None) -> None:
        self.interval = interval
        self.tensorboard = tensorboard
        self.wandb = wandb
        self.window = Window()
        self.last_losses: dict[str, float] = {}
        self._file: IO[str] | None = None
        self._flushed_at = 0.0
        self._board: Any = None
        self._run: Any = None

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive interval."""
        return at_least(cfg, 1, "interval")

    def before_train(self, runner: Any) -> None:
        """Open the file, without what the run is about to do again."""
        if runner.rank != 0:
            return
        path = Path(runner.work_dir) / "scalars.jsonl"
        drop_lines_beyond(path, runner.resumed_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
        if self.tensorboard:
            self._board = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(
                str(Path(runner.work_dir) / "tensorboard"), purge_step=runner.resumed_step + 1
            )
        if self.wandb is not None:
            options = {"dir": runner.work_dir, "name": Path(runner.work_dir).name, **self.wandb}
            self._run = _import("wandb", "wandb").init(**options)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the step up; write a line when it is time."""
        loop = runner.train_loop
        self.window.add(outputs or {}, loop.data_seconds, loop.step_seconds)
        step = runner.iter + 1
        if step % self.interval and step != runner.max_iters:
            return
        self.last_losses = self.window.means()
        values: dict[str, Any] = {"lr": max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)}
        values.update(self.last_losses)
        norm = getattr(runner.optim_wrapper, "grad_norm", None)
        if norm is not None:
            values["grad_norm"] = float(norm)
        values["time"] = self.window.step_seconds / self.window.steps
        values["data_wait"] = self.window.data_wait()
        self.window.reset()
        self._write(step, step / loop.epoch_length, values)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Validation metrics, with ``val/`` before their names."""
        self._write(
            runner.iter,
            runner.iter / runner.train_loop.epoch_length,
            {f"val/{k}": v for k, v in (metrics or {}).items()},
        )

    def on_scalars(self, runner: Any, values: dict[str, float]) -> None:
        """What other hooks log, under the names that they give."""
        self._write(runner.iter, runner.iter / runner.train_loop.epoch_length, values)

    def _write(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        line = {"step": step, "epoch": round(epoch, 4), **{name: _number(value) for name, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        now = time.monotonic()
        if now - self._flushed_at > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed_at = now
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(line, step=step)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """The record must reach at least as far as the checkpoint."""
        if self._file is not None:
            self._file.flush()

    def close(self, runner: Any) -> None:
        """Lose nothing, however the run ends."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish()

    def state_dict(self) -> dict[str, Any]:
        """The open window, and the last line's losses for the summary of a run that is resumed at its end."""
        return {"window": self.window.state_dict(), "last_losses": dict(self.last_losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.window.load_state_dict(state.get("window", state))  # older checkpoints hold the bare window
        self.last_losses = dict(state.get("last_losses", {}))


def drop_lines_beyond(path: Path, step: int) -> None:
    """Rewrite a record without lines of later steps, and without a last line that a kill has cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # only the last line can be cut
            break
        if entry["step"] <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


def _number(value: Any) -> Any:
    """JSON has no NaN; a curve shows a gap there."""
    if isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if abs(number) < float("inf") else None


def _import(module: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise PerceptionError(f"logging to {package} needs it installed: pip install 'perception-lab[vis]'") from error
