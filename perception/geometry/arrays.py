"""One implementation for numpy arrays and tensors: arrays become tensors without a copy, results go back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensors(*given: Any) -> tuple[list[Tensor], Callable[[Tensor], Any]]:
    """Tensors of ``given``, and the function that gives a result the kind of the first of them.

    Integers become float64. Matrices keep their own precision: what is computed with them is cast by the caller.
    """
    plain = not isinstance(given[0], Tensor)
    found = [_tensor(value, given[0]) for value in given]
    return found, (lambda result: result.numpy()) if plain else (lambda result: result)


def _tensor(value: Any, first: Any) -> Tensor:
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
            array = array.copy()  # torch takes neither
        value = torch.from_numpy(array)
        if isinstance(first, Tensor):
            value = value.to(first.device)
    return value if value.is_floating_point() else value.to(torch.float64)
