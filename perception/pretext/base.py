"""The Pretext contract."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.transforms.preprocess import Batch


class Pretext(nn.Module):
    """A self-supervised objective: named losses of a backbone on a batch, plus the modules that only it needs.

    It never builds the backbone. Sizes that depend on the backbone (widths, token counts) are arguments or are
    taken in ``attach``, which runs once, before the optimiser is built.
    """

    def attach(self, backbone: Backbone) -> None:
        """Build what depends on the backbone (decoder widths, a teacher copy). Called once by the Pretrainer."""

    @abstractmethod
    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Losses of a preprocessed batch.

        Returns:
            Scalars by name. Names that contain ``loss`` are balanced and minimised, the others are logged only.
        """

    def before_training(self, epoch_length: int, total_steps: int) -> None:
        """Learn how long the run is, in steps, for schedules that are stated in epochs. Called before the first."""

    def before_step(self, step: int, total_steps: int) -> None:
        """Set whatever follows a schedule (momentum, temperature). A pure function of ``step``: resume relies on it."""

    def after_step(self, backbone: Backbone) -> None:
        """Update what follows the backbone after the optimiser's step, such as an EMA teacher."""

    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """Pictures of what the method does on a preprocessed batch, by name. May be empty.

        uint8 ``(H, W, 3)`` is a picture, ``(F, H, W, 3)`` a film of F frames.
        """
        return {}
