"""How well the middle of held-out clips is filled in, class by class, beside fading between the ends.

The check of "Self-supervised learning of video representations from a child's perspective" (2024) with a figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from perception.errors import ConfigError
from perception.evaluation.features import batches, device_of
from perception.pretext.masked_video import MaskedVideo, interpolation_errors
from perception.tasks.base import to_device


@dataclass(frozen=True)
class Interpolation:
    """Mean squared errors of the hidden middle of the clips of one class, of pixels in [0, 1].

    Attributes:
        name: the class, or ``all``.
        clips: how many.
        model: mean error of the model.
        blend: mean error of fading from the last visible frame before to the first one after.
        better: share of clips in which the model has the smaller error.
    """

    name: str
    clips: int
    model: float
    blend: float
    better: float

    def row(self) -> tuple[str, ...]:
        """A line of a table; errors in thousandths."""
        errors = [f"{1e3 * value:.3f}" for value in (self.model, self.blend)]
        ratio = f"{self.model / self.blend:.2f}" if self.blend else "-"
        return (self.name, str(self.clips), *errors, ratio, f"{100 * self.better:.0f} %")


def interpolation_figures(model: Any, dataset: Any, batch_size: int = 50) -> list[Interpolation]:
    """Errors of every class of ``dataset`` and of all clips.

    Args:
        model: a Pretrainer with one pretext that masks videos.
        dataset: of clips; without labels all are of one class.
        batch_size: clips at a time.

    Raises:
        ConfigError: no pretext of the model, or several, mask videos; its targets are normalised.
    """
    pretexts = [p for p in getattr(model, "pretexts", {}).values() if isinstance(p, MaskedVideo)]
    if len(pretexts) != 1:
        raise ConfigError(
            f"interpolation needs a model with one pretext that masks videos, such as VideoMAE; this one has "
            f"{len(pretexts)}"
        )
    found, labels = [], []
    for batch in batches(dataset, batch_size, 0):
        clips = model.backbone.preprocess(to_device(batch, device_of(model)))["video"]
        found.append(torch.stack(interpolation_errors(pretexts[0], model.backbone, clips)).double().cpu())
        labels.append(torch.as_tensor(batch["label"]).cpu() if "label" in batch else torch.full((len(clips),), -1))
    errors, label = torch.cat(found, dim=1), torch.cat(labels)
    names = getattr(dataset, "classes", ())
    chosen = [(names[k], label == k) for k in range(len(names)) if bool((label == k).any())]
    return [_of(name, errors[:, rows]) for name, rows in [*chosen, ("all", torch.ones_like(label, dtype=torch.bool))]]


def _of(name: str, errors: torch.Tensor) -> Interpolation:
    model, blend = errors.mean(dim=1).tolist()
    return Interpolation(name, errors.shape[1], model, blend, float((errors[0] < errors[1]).double().mean()))
