"""The other kind of protocol: it judges an image tower and a text tower that share an embedding space.

What it gets is the embedding of every image of one data set, a function that embeds texts, and what the data set says
of its images. It does not see the weights, so it cannot change them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perception.backbones.base import Backbone
from perception.evaluation.features import batches, device_of
from perception.evaluation.overlap import sources_of
from perception.evaluation.protocol import AnyProtocol, EvaluationError, Outcome
from perception.tasks.base import to_device

Caption = tuple[str, str]  # (language, text)


@dataclass(frozen=True)
class Scenes:
    """What a data set says of its images.

    Attributes:
        name: the data set and its split, such as ``RSICDMini test``.
        captions: per image its (language, text) pairs, maybe none.
        label: ``(N,)`` int64 class ids, -1 where there is none.
        classes: class names in label order. They come from the data set, never from a list elsewhere: a wrong order
            would go unnoticed.
        class_names: names of the classes by language, each in label order, where the data set has any.
        class_templates: texts with ``{}`` in place of a class name by language, where the data set has any.
        sources: public corpora that the images come from.
    """

    name: str
    captions: Sequence[Sequence[Caption]]
    label: Tensor
    classes: tuple[str, ...] = ()
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    class_templates: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Towers:
    """A dual encoder on one data set.

    Attributes:
        scenes: what the data set says.
        images: ``(N, E)`` float32 image embeddings, not normalised, on the device that the protocols compute on.
        embed_text: texts -> ``(n, E)`` embeddings, not normalised.
        pixels: positions -> that many uint8 pictures ``(H, W, 3)``, for sheets of results.
    """

    scenes: Scenes
    images: Tensor
    embed_text: Callable[[Sequence[str]], Tensor]
    pixels: Callable[[Sequence[int]], list[np.ndarray]] | None = None

    def texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of texts, equal ones once, so that they are equal to the last bit.

        Returns:
            ``(u, E)`` float32 embeddings beside those of the images, and for each text its row, ``(n,)`` int64.
        """
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        features = self.embed_text(list(distinct)).detach().float().to(self.images.device)
        if features.ndim != 2 or len(features) != len(distinct) or features.shape[1] != self.images.shape[1]:
            shape = tuple(self.images.shape[1:])
            raise EvaluationError(f"texts embed to {tuple(features.shape)}, images to {shape}: no common space")
        if not torch.isfinite(features).all():
            row = int((~torch.isfinite(features)).any(1).nonzero()[0])
            raise EvaluationError(f"the embedding of the text {list(distinct)[row]!r} is not finite")
        rows = torch.tensor([distinct[text] for text in texts], dtype=torch.int64)
        return features, rows.to(features.device)


class TowerProtocol(AnyProtocol):
    """Base of the protocols that judge two towers.

    Args:
        dataset: config or instance of the data set to judge on; ``None`` takes ``evaluation.test``.

    Attributes:
        reads_captions: whether the data set must have captions.
    """

    judges: ClassVar[str] = "towers"
    needs: ClassVar[tuple[str, ...]] = ("test",)
    reads_captions: ClassVar[bool] = False

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset

    @abstractmethod
    def run(self, towers: Towers, seed: int) -> list[Outcome]:
        """Figures of a dual encoder, the headline first. A pure function of its arguments."""

    def references(self, scenes: Scenes) -> dict[str, list[Outcome]]:
        """The same figures without a model: by ``chance``, and where there is one the ``ceiling`` set by the data."""
        return {}

    def label(self, scenes: Scenes) -> str:
        """What the tables call the data: every figure names its set."""
        return scenes.name

    def draw(self, towers: Towers, folder: Path, name: str) -> list[Path]:
        """Draw what the figures mean into ``folder``, files beginning with ``name``; the files written."""
        return []


@torch.no_grad()
def look(
    backbone: Backbone,
    dataset: Any,
    batch_size: int = 500,
    num_workers: int = 0,
    device: torch.device | str | None = None,
) -> Towers:
    """A dual encoder on a data set: every image embedded once, in eval mode, with or without label and captions.

    Args:
        backbone: embeds RAW batches and texts on the device that it lies on.
        dataset: gives whole batches.
        batch_size: images at a time.
        num_workers: processes that read.
        device: where the protocols compute, by default the CPU.

    Raises:
        EvaluationError: the backbone has no text tower, or an embedding is not finite.
    """
    require_text_tower(backbone)
    place = device_of(backbone)
    features: list[Tensor] = []
    captions: list[Sequence[Caption]] = []
    labels: list[Tensor] = []
    for batch in batches(dataset, batch_size, num_workers):
        seen = {key: value for key, value in batch.items() if key != "captions"}
        part = backbone.embed(to_device(seen, place)).float().cpu()
        features.append(part)
        captions += batch.get("captions") or [()] * len(part)
        label = torch.as_tensor(batch.get("label", torch.full((len(part),), -1)))
        if label.ndim == 2 and label.shape[1] > 1:
            label = torch.full((len(part),), -1)  # several labels an image: no single class to name
        labels.append(label.reshape(-1).long().cpu())
    images, label = torch.cat(features), torch.cat(labels)
    if not torch.isfinite(images).all():
        row = int((~torch.isfinite(images)).any(1).nonzero()[0])
        raise EvaluationError(f"the embedding of image {row} is not finite")
    scenes = Scenes(
        data_name(dataset),
        captions,
        label,
        tuple(getattr(dataset, "classes", ())),
        getattr(dataset, "class_names", None) or {},
        getattr(dataset, "class_templates", None) or {},
        sources_of(dataset),
    )
    embed_text: Any = getattr(backbone, "embed_text")  # noqa: B009 - not part of the Backbone contract
    return Towers(scenes, images.to(device or "cpu"), embed_text, lambda positions: pictures_of(dataset, positions))


def require_text_tower(backbone: Backbone) -> None:
    """Raise an ``EvaluationError`` for a backbone that cannot embed texts."""
    if not callable(getattr(backbone, "embed_text", None)):
        raise EvaluationError(
            f"{type(backbone).__name__} has no text tower, so retrieval and zero-shot classification cannot judge it"
        )


def data_name(dataset: Any) -> str:
    """A data set for people: its type and split."""
    inner = getattr(dataset, "dataset", dataset)
    split = getattr(inner, "split", "")
    return f"{type(inner).__name__} {split if isinstance(split, str) else ' + '.join(split)}".strip()


def pictures_of(dataset: Any, positions: Sequence[int]) -> list[np.ndarray]:
    """Images of a data set as uint8 ``(H, W, 3)``: the first three bands, or one as grey; deeper values stretched."""
    found = []
    for position in positions:
        image = torch.as_tensor(dataset[int(position)]["image"][0])
        if image.dtype != torch.uint8:
            image = image.float()
            low, high = image.amin(), image.amax()
            image = ((image - low) / (high - low).clamp_min(1e-12) * 255).byte()
        image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
        found.append(image.permute(1, 2, 0).numpy())
    return found
