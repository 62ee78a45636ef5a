"""Weights of classes in the cross-entropy, for training on labels of which some are rare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.datasets.balance import labels_of
from perception.errors import ConfigError, DataError, check_arguments

BALANCED = "balanced"


class ClassWeights(nn.Module):
    """Weights as they are given, or from the labels of the training set.

    They are no part of checkpoints: given ones stand in the config, balanced ones are those of the set that is trained
    on, also where training starts from a run on another one.

    Args:
        class_weights: ``None`` for none; C positive numbers in label order; or ``'balanced'``, ``n / (C n_c)`` with
            n labelled training samples, n_c of them of class c: every class has the same sum of weights.
        num_classes: number of classes C.

    Attributes:
        values: (C,) float32, ``None`` without weights.
        known: False as long as balanced ones are to be counted.
    """

    values: Tensor | None

    def __init__(self, class_weights: str | Sequence[float] | None, num_classes: int) -> None:
        check_arguments("model", weight_faults, locals())
        super().__init__()
        self.num_classes, self.balanced = num_classes, class_weights == BALANCED
        self.known = not self.balanced
        given = [math.nan] * num_classes if self.balanced else class_weights
        values = None if given is None else torch.tensor(given, dtype=torch.float32)
        self.register_buffer("values", values, persistent=False)

    def fit_to(self, dataset: Any) -> None:
        """Count the classes of the training set, if the weights are balanced.

        Raises:
            DataError: it does not tell its labels without being read, or a class has no sample.
        """
        if not self.balanced:
            return
        assert self.values is not None
        try:
            labels = labels_of(dataset)
        except DataError as error:
            raise DataError(
                f"class_weights='balanced' counts training labels: {error}; give numbers instead"
            ) from error
        counts = np.bincount(labels[labels >= 0], minlength=self.num_classes)
        if len(counts) > self.num_classes:
            raise DataError(f"class_weights='balanced': there is a label {len(counts) - 1}, {self.num_classes} classes")
        if not counts.all():
            absent = np.flatnonzero(counts == 0)
            names = getattr(dataset, "classes", ())
            which = ", ".join(str(names[i]) if i < len(names) else str(i) for i in absent[:3].tolist())
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise DataError(f"class_weights='balanced': no training sample is of class {which}{more}")
        self.values.copy_(torch.from_numpy(counts.sum() / (self.num_classes * counts)))  # on the device of the model
        self.known = True

    def forward(self) -> Tensor | None:
        """The weights (C,), or ``None`` without any.

        Raises:
            ConfigError: they are balanced, and ``fit_to`` has not been called.
        """
        if not self.known:
            raise ConfigError("class_weights='balanced' needs fit_to(dataset) first: a run calls it before training")
        return self.values


def weight_faults(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults (key, message) of ``class_weights``, for a ``check_config``."""
    given, count = cfg["class_weights"], cfg["num_classes"]
    if given is None or (isinstance(given, str) and given == BALANCED):
        return
    if isinstance(given, str) or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in given):
        yield "class_weights", f"must be {BALANCED!r}, or one positive number a class, or None"
    elif len(given) != count:
        yield "class_weights", f"has {len(given)} numbers, num_classes is {count}"
    elif not all(0 < value < math.inf for value in given):
        yield "class_weights", "must be positive: a class that is not to be learnt needs labels below 0 instead"
