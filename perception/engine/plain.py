"""Turning a state into what a checkpoint may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def plain_state(value: Any, path: str = "") -> Any:
    """Copy of nested containers with tensors detached on the CPU, arrays as tensors and numpy's scalars as python's.

    Raises:
        TypeError: something else is in there; the message names its place. Better now than at the load.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: plain_state(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_state(v, f"{path}.{i}") for i, v in enumerate(value))
    if isinstance(value, list):
        return [plain_state(v, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{path} of the checkpoint is a {type(value).__name__}, which a checkpoint cannot hold")
