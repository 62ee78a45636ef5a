"""Means of what steps report, without waiting for the device at every step."""

from __future__ import annotations

from typing import Any

import torch


class Window:
    """Running sums over the steps since the last ``reset``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.data_seconds = 0.0
        self.step_seconds = 0.0

    def add(self, outputs: dict[str, Any], data_seconds: float, step_seconds: float) -> None:
        """Add a step: scalars by name (tensors stay where they are) and its times."""
        for name, value in outputs.items():
            value = value.float() if torch.is_tensor(value) else value
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        self.data_seconds += data_seconds
        self.step_seconds += step_seconds

    def means(self) -> dict[str, float]:
        """Mean of every name; waits for the device."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}

    def data_wait(self) -> float:
        """Share of the time that went into waiting for data, in [0, 1]."""
        return self.data_seconds / self.step_seconds if self.step_seconds > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Sums so far, so that a resumed window goes on where it was cut."""
        return {
            "sums": {name: float(total) for name, total in self.sums.items()},
            "counts": dict(self.counts),
            "steps": self.steps,
            "data_seconds": self.data_seconds,
            "step_seconds": self.step_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.__dict__.update(state)
