"""The third kind of protocol: it asks the backbone itself, for what neither pooled features nor two towers show."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from perception.backbones.base import Backbone
from perception.evaluation.protocol import AnyProtocol, Outcome


class BackboneProtocol(AnyProtocol):
    """Base of the protocols that judge a whole backbone on one data set, such as its maps at certain places.

    The evaluation compares hashes before and after: a protocol that changes a weight or a buffer is an error.

    Args:
        dataset: config or instance of the data set to judge on; ``None`` takes ``evaluation.test``.
    """

    judges: ClassVar[str] = "backbone"
    needs: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset

    @classmethod
    def misfit(cls, kind: type) -> str | None:
        """Why backbones of class ``kind`` cannot be judged, for the validation of configs; ``None`` where they can."""
        return None

    @abstractmethod
    def run(self, backbone: Backbone, dataset: Any, seed: int, **options: Any) -> list[Outcome]:
        """Figures of a frozen backbone, the headline first. Global random states are left as they were found.

        Args:
            backbone: in whatever mode it is in; it has to be left so.
            dataset: gives whole RAW batches.
            seed: of what is drawn.
            **options: ``batch_size`` and ``num_workers`` of the evaluation section, as far as it states them.
        """
