"""Albumentations' operations inside our reproducible transforms."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from perception.errors import ConfigError, DataError, Fault, nearest
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

_SEED_BITS = np.uint64(0xFFFFFFFF)


@TRANSFORMS.register_module()
class Albumentations(Transform):
    """Operations of the albumentations package, one after the other, seeded per sample.

    Args:
        operations: ``dict(name=<operation>, <its arguments>)`` each, such as ``dict(name='GaussianBlur', p=0.5)``.
        probability: share of samples that get them; the others stay as they are.
    """

    def __init__(self, operations: Sequence[dict[str, Any]], probability: float = 1.0) -> None:
        self.probability = probability
        library = _library()
        built = []
        for position, cfg in enumerate(operations):
            arguments = dict(cfg)
            operation = getattr(library, str(arguments.pop("name", "")), None)
            if operation is None:
                raise ConfigError([_unknown(f"operations.{position}.name", cfg.get("name"))])
            try:
                built.append(operation(**arguments))
            except (TypeError, ValueError) as error:
                raise ConfigError([Fault(f"operations.{position}", dict(cfg), str(error))]) from error
        self.pipeline = library.Compose(built)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch, stacked or a list, -> RAW batch; a list stays one unless all outcomes have one size."""
        seeds = (random.bits() & _SEED_BITS).tolist()
        chosen = random.uniform() < self.probability if self.probability < 1 else np.ones(len(seeds), dtype=bool)
        pairs = zip(batch["image"], seeds, chosen, strict=True)
        images = [self._one(image, seed) if change else image for image, seed, change in pairs]
        same = len({image.shape for image in images}) == 1
        return {**batch, "image": torch.stack(images) if same else images}

    def _one(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        self.pipeline.set_random_seed(seed)
        out = self.pipeline(image=np.ascontiguousarray(image.numpy().transpose(1, 2, 0)))["image"]
        if not isinstance(out, np.ndarray) or out.dtype != np.uint8:
            raise DataError(
                "Albumentations must give uint8 arrays: leave out operations such as Normalize and ToTensorV2, "
                "normalisation belongs to the Preprocess record"
            )
        out = out if out.ndim == 3 else out[:, :, None]
        return torch.from_numpy(np.ascontiguousarray(out.transpose(2, 0, 1)))

    @classmethod
    def image_sizes(cls, cfg: Mapping[str, Any]) -> None:
        """None: operations may cut and scale."""

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: operations that do not exist or refuse their arguments."""
        if not 0 <= cfg.get("probability", 1.0) <= 1:
            yield "probability", "must lie in [0, 1]"
        try:
            cls(cfg["operations"])
        except ConfigError as error:
            for fault in error.faults:
                hint = f"; did you mean {' or '.join(fault.nearest)}?" if fault.nearest else ""
                yield "operations", f"{fault.value!r}: {fault.message}{hint}"


def _library() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server for its newest version
    import albumentations

    return albumentations


def _unknown(path: str, name: object) -> Fault:
    library = _library()
    known = [n for n in dir(library) if isinstance(getattr(library, n), type) and n[0].isupper()]
    return Fault(path, name, "not an operation of albumentations", nearest(str(name), known))
