"""Checkpoints that survive a kill, load without running code, and say what is wrong with them.

A checkpoint is a dict of tensors and plain containers, written by ``torch.save`` and read with ``weights_only=True``
and no allow-list. Writing goes to a temporary name in the same folder, is flushed to the disk and then renamed, so
that a reader finds the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import CheckpointError

POINTER = "last_checkpoint"
FOLDER = "checkpoints"
_STEP = re.compile(r"step_(\d+)\.pth$")
_SHOWN = 20


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # systems that cannot open folders have nothing to flush here
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _replacing(path: Path, what: str) -> Any:
    """Give a file handle of a temporary name; on success it becomes ``path``, on failure ``path`` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer turns a failed write into a RuntimeError
        free = shutil.disk_usage(path.parent).free / 2**20
        raise CheckpointError(
            f"{what} {str(path)!r} could not be written: {error} ({free:,.0f} MiB free there). "
            "Files written before are untouched."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(obj: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint atomically.

    Args:
        obj: tensors and plain containers.
        path: where to; the folder is made if needed.

    Returns:
        The path written.

    Raises:
        CheckpointError: the file could not be written (full disk, read-only folder). An older file of that name is
            untouched.
    """
    path = Path(path)
    try:
        with _replacing(path, "checkpoint") as handle:
            torch.save(dict(obj), handle)
    except OSError as error:  # the folder itself could not be made
        raise CheckpointError(f"checkpoint {str(path)!r} could not be written: {error}") from error
    return path


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file atomically."""
    with _replacing(Path(path), "file") as handle:
        handle.write(content)


def load_checkpoint(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code that it may hold.

    Args:
        path: the file.
        trust: also read files that need code to run. Only for files whose origin you know: loading one can do
            anything that you can do.

    Raises:
        CheckpointError: the file is missing, damaged, or needs code and ``trust`` is not set; the message names the
            file, and the globals that it asks for.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r} does not exist")
    _require_whole(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _globals_in(path)
        if not found:
            raise CheckpointError(f"{str(path)!r} is damaged or no checkpoint: its content does not parse") from error
        if not trust:
            raise CheckpointError(
                f"{str(path)!r} does not only hold tensors: it asks to run {', '.join(found)}. "
                "Such a file can do anything on this machine, so it was not loaded. If you know where it comes from, "
                "load it with trust=True and save its tensors again."
            ) from error
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as failure:
            raise CheckpointError(
                f"{str(path)!r} was trusted, but its code does not run here: {_first_line(failure)}"
            ) from failure
    except Exception as error:  # EOFError, RuntimeError, KeyError, ...: whatever the reader trips over means damage
        raise CheckpointError(f"{str(path)!r} is damaged or no checkpoint: {_first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{str(path)!r} holds a {type(loaded).__name__}, not the dict of a checkpoint")
    return loaded


def _require_whole(path: Path) -> None:
    """Raise if a zip file is cut short or a bit of it has changed (torch does not check the checksums)."""
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if not magic:
        raise CheckpointError(f"{str(path)!r} is damaged: the file is empty")
    if magic[:2] != b"PK":  # torch's format before 1.6, judged by the loader itself
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}; it may have been cut short") from error
    if broken is not None:
        raise CheckpointError(f"{str(path)!r} is damaged: the checksum of {broken!r} does not fit")
    if program:
        raise CheckpointError(
            f"{str(path)!r} is a TorchScript archive, which holds a program beside its weights (OpenAI publishes CLIP "
            "so). If you trust it, torch.save(torch.jit.load(file).state_dict(), other_file) gives a file to load here"
        )


def _globals_in(path: Path) -> list[str]:
    """Names of the functions and classes that a checkpoint would import, without importing them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # not a zip: scan the bare pickle stream
        pass
    found: list[str] = []
    strings: list[str] = []
    try:
        with open(path, "rb") as handle:
            while handle.peek(1):  # torch's old format is several pickles in a row
                for operation, argument, _ in pickletools.genops(handle):
                    if operation.name == "GLOBAL":
                        found.append(str(argument).replace(" ", "."))
                    elif operation.name == "STACK_GLOBAL" and len(strings) > 1:
                        found.append(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
    except Exception:  # the stream ends or breaks: what was found until there is the answer
        pass
    harmless = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2")
    return sorted({name for name in found if name not in harmless})


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Checkpoints ``step_<n>.pth`` of a folder, the latest step first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("step_*.pth") if (match := _STEP.search(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def find_checkpoint(run: str | os.PathLike[str]) -> Path:
    """The newest checkpoint of a run that opens.

    Args:
        run: a checkpoint file, a run folder, its ``checkpoints`` folder, or the folder above exactly one
            ``seed_<n>`` run.

    Raises:
        CheckpointError: there is none, none opens, or there are several seeds to choose from.
    """
    run = Path(run)
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{str(run)!r} does not exist: give a run folder or a .pth file")
    folder = run / FOLDER if (run / FOLDER).is_dir() else run
    candidates = list_checkpoints(folder)
    if not candidates:
        seeds = sorted(child for child in run.glob("seed_*") if child.is_dir())
        if len(seeds) == 1:
            return find_checkpoint(seeds[0])
        if seeds:
            raise CheckpointError(f"{str(run)!r} holds {len(seeds)} runs: name one, such as {str(seeds[0])!r}")
        raise CheckpointError(f"{str(run)!r} is no run or export folder: it holds no checkpoint step_<n>.pth")
    reasons = []
    for path in candidates:
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if reasons:
            warnings.warn(f"went back to {path.name}: {'; '.join(reasons)}", stacklevel=2)
        return path
    raise CheckpointError("no checkpoint opens:\n" + "\n".join(f"  - {reason}" for reason in reasons))


def model_state(checkpoint: Mapping[str, Any], averaged: bool = True) -> dict[str, Tensor]:
    """The model's tensors in a checkpoint of ours, or in a bare state dict.

    Args:
        checkpoint: what ``load_checkpoint`` gave.
        averaged: take the exponential moving average of the weights where the run kept one; it is what the run's
            own evaluation used.
    """
    if "state_dict" not in checkpoint:
        return {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    state = dict(checkpoint["state_dict"])
    if averaged and checkpoint.get("ema"):
        state.update(checkpoint["ema"])
    return state


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from a module.

    Attributes:
        missing: keys of the module that the state lacks.
        unexpected: keys of the state that the module lacks.
        shapes: key -> (shape in the state, shape in the module).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        parts = [
            _listing("missing from the file", self.missing),
            _listing("unknown to the model", self.unexpected),
            _listing(
                "of another shape", [f"{k}: {a} in the file, {b} in the model" for k, (a, b) in self.shapes.items()]
            ),
        ]
        return "\n".join(part for part in parts if part)


def _listing(title: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ""
    lines = [f"  {len(names)} {title}:"] + [f"    {name}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"    ... and {len(names) - _SHOWN} more")
    return "\n".join(lines)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str, strict: bool = True) -> Mismatch:
    """Copy a state dict into a module, or say all that does not fit at once.

    A module with a method ``adapt_state(state) -> state`` (see ``Backbone``) may first convert what it knows how to.

    Args:
        module: takes the tensors.
        state: tensors by key.
        source: where they come from, for the message.
        strict: raise on any difference; else copy what fits and report the rest.

    Returns:
        The differences, empty if everything fitted.

    Raises:
        CheckpointError: something differs and ``strict`` is set; nothing was copied then.
    """
    adapt = getattr(module, "adapt_state", None)
    if adapt is not None:
        state = adapt(state)
    own = module.state_dict()
    shapes = {
        key: (tuple(state[key].shape), tuple(own[key].shape))
        for key in own
        if isinstance(own[key], Tensor) and key in state and state[key].shape != own[key].shape
    }
    mismatch = Mismatch(
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in state if key not in own),
        shapes=shapes,
    )
    if mismatch and strict:
        raise CheckpointError(f"{source} was made for another model:\n{mismatch}")
    module.load_state_dict({k: v for k, v in state.items() if k in own and k not in shapes}, strict=False)
    return mismatch
