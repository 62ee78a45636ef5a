"""Contrastive pre-training of a dual encoder on images and their captions.

CLIP ("Learning Transferable Visual Models From Natural Language Supervision", Radford et al., 2021) or SigLIP
("Sigmoid Loss for Language Image Pre-Training", Zhai et al., 2023), with the settings that RS-M-CLIP ("Multilingual
Vision-Language Pre-training for the Remote Sensing Domain", Silva et al., 2024) adds: several views of an image
against one text, and texts that repeat in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, DataError, check_arguments, not_among
from perception.losses.contrastive import clip_loss, siglip_loss
from perception.pretext.base import Pretext
from perception.pretext.pictures import colour, three_band, tile
from perception.pretext.shared import encode_views
from perception.registry import PRETEXTS
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.preprocess import Batch

_CHOICES = {"loss": ("clip", "siglip"), "targets": ("plain", "multi_positive"), "views": ("image", "globals")}
_SIGLIP_BIAS = -10.0  # most pairs of a batch do not belong together, so the loss starts from "no"


@PRETEXTS.register_module()
class ImageText(Pretext):
    """Pulls the embeddings of an image and of its text together, against the other texts and images of the batch.

    The backbone is a dual encoder: ``encode``, ``encode_text``, a parameter ``logit_scale`` (the logarithm of the
    multiplier) and, for SigLIP, ``logit_bias``; without one the bias lives here and starts at -10.

    Args:
        loss: ``clip``, a softmax over the batch in both directions, or ``siglip``, a sigmoid for every pair.
        targets: ``plain``: an image belongs to its own text. ``multi_positive``: it belongs to every text of the batch
            (of all ranks) that reads the same, in equal parts; see ``clip_loss`` for when that makes a difference.
        views: ``image``, or ``globals``: the mean of the losses of every global view with the text, as in SILC (Naeem
            et al., 2023), where one view of several would let the objectives drift apart.
        chunk_size: rows of logits that exist at a time; ``None`` chooses. It changes memory and speed only.
        gather: contrast with the texts of all ranks.

    ``forward`` gives ``loss`` and, for the log, ``logit_scale``, the multiplier of the cosines.
    """

    def __init__(
        self,
        loss: Literal["clip", "siglip"] = "clip",
        targets: Literal["plain", "multi_positive"] = "plain",
        views: Literal["image", "globals"] = "image",
        chunk_size: int | None = None,
        gather: bool = True,
    ) -> None:
        check_arguments("model.pretexts.image_text", self.check_config, locals())
        super().__init__()
        self.loss = loss
        self.targets = targets
        self.views = views
        self.chunk_size = chunk_size
        self.gather = gather
        self.logit_bias: nn.Parameter | None = None

    def attach(self, backbone: Backbone) -> None:
        """Check that ``backbone`` has two towers; own a bias if the loss needs one that it lacks.

        Raises:
            ConfigError: the backbone encodes no texts.
        """
        if not hasattr(backbone, "encode_text") or getattr(backbone, "logit_scale", None) is None:
            raise ConfigError(
                f"ImageText needs a dual encoder with a text tower, such as CLIP, not {type(backbone).__name__}"
            )
        if self.loss == "siglip" and getattr(backbone, "logit_bias", None) is None:
            self.logit_bias = nn.Parameter(torch.tensor(_SIGLIP_BIAS))

    def forward(self, backbone: Any, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``logit_scale`` of a preprocessed batch with ``image`` or ``views``, ``text`` and its mask."""
        images = _unit(encode_views(backbone, batch, which=self.views))  # type: ignore[arg-type]
        texts = _unit(backbone.encode_text(batch))
        scale = backbone.logit_scale.float().exp()
        losses = [self.pair_loss(backbone, view, texts, scale, self._groups(batch)) for view in images]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        return {"loss": loss, "logit_scale": scale.detach()}

    def pair_loss(
        self, backbone: Any, images: Tensor, texts: Tensor, scale: Tensor, groups: Tensor | None = None
    ) -> Tensor:
        """The loss of embeddings (B, E) of length 1 that belong together pair by pair."""
        if self.loss == "clip":
            return clip_loss(images, texts, scale, groups, self.chunk_size, self.gather)
        bias = backbone.logit_bias if self.logit_bias is None else self.logit_bias
        return siglip_loss(images, texts, scale, bias, groups, self.chunk_size, self.gather)

    def _groups(self, batch: Batch) -> Tensor | None:
        if self.targets == "plain":
            return None
        if "text_hash" not in batch:
            raise DataError(
                "targets='multi_positive' needs 'text_hash', which an ImageTextPreprocess record makes of 'text'"
            )
        return batch["text_hash"]

    def after_step(self, backbone: Any) -> None:
        """Keep the logarithm of the multiplier in [0, ln 100], as CLIP does."""
        backbone.clamp_logit_scale()

    @torch.no_grad()
    def pictures(self, backbone: Any, batch: Batch) -> dict[str, np.ndarray]:
        """``image_text_similarity``: one row an image, one column a text, yellow where the cosine is highest.

        The colours span the cosines of the picture; pairs lie on the diagonal, marked by a white corner.
        """
        record = backbone.preprocess
        if "text" not in batch or not isinstance(record, ImagePreprocess):
            return {}
        images = _unit(encode_views(backbone, batch))[0]
        cosine = (images @ _unit(backbone.encode_text(batch)).T).cpu().numpy()
        cells = colour(cosine).transpose(2, 0, 1)  # (3, B, B)
        shown = three_band(record.denormalize(batch["image"]).cpu().numpy())
        count, _, height, width = shown.shape
        rows = np.broadcast_to(cells.transpose(1, 2, 0)[..., None, None], (count, count, 3, height, width)).copy()
        corner = max(1, height // 8)
        for i in range(count):
            rows[i, i, :, :corner, :corner] = 255
        return {"image_text_similarity": tile(np.concatenate([shown[:, None], rows], axis=1))}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        for key, choices in _CHOICES.items():
            if cfg[key] not in choices:
                yield key, not_among(cfg[key], choices)
        size = cfg["chunk_size"]
        if size is not None and (not isinstance(size, int) or size < 1):
            yield "chunk_size", "must be a whole number of at least 1, or None"


def _unit(embeddings: Tensor) -> Tensor:
    """(..., E) of length 1, in float32: at a multiplier of 100 the rounding of bfloat16 is a third of a logit."""
    return F.normalize(embeddings.float(), dim=-1)
