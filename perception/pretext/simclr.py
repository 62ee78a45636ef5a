"""SimCLR on views of any size.

"A Simple Framework for Contrastive Learning of Visual Representations", Chen et al., ICML 2020: views of one image
are drawn together and those of different images apart, behind a small projection that is thrown away afterwards.
``perception.losses.view_contrast`` has the formula. Against the paper there may be more than two views, and smaller
ones among them (multi-crop: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", Caron et
al., 2020), and gradients flow through the embeddings of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import DataError, check_arguments
from perception.layers.projection import projection_head
from perception.losses.view_contrast import view_contrast_loss
from perception.pretext.base import Pretext
from perception.pretext.pictures import three_band, tile
from perception.pretext.shared import encode_views, views_of
from perception.registry import PRETEXTS
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.preprocess import Batch


@PRETEXTS.register_module()
class SimCLR(Pretext):
    """Contrast of the views of a batch (``MultiCrop``).

    Args:
        hidden_dim: width of the projection's hidden layers.
        projection_dim: width E in which views are compared.
        layers: linear maps of the projection; a batch norm and a ReLU follow all but the last.
        temperature: of the softmax. 0.1 is the paper's for ImageNet.
        feature: pooled feature of the backbone that is projected; ``None`` takes its default.
        gather: contrast with the views of all ranks.
        picture_count: rows of the picture.

    ``forward`` gives ``loss`` and, for the log, ``agreement``: the mean cosine of two views of one image.
    """

    head: nn.Sequential

    def __init__(
        self,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        layers: int = 2,
        temperature: float = 0.1,
        feature: str | None = None,
        gather: bool = True,
        picture_count: int = 8,
    ) -> None:
        check_arguments("model.pretexts.simclr", self.check_config, locals())
        super().__init__()
        self.hidden_dim, self.projection_dim, self.layers = hidden_dim, projection_dim, layers
        self.temperature = temperature
        self.feature = feature
        self.gather = gather
        self.picture_count = picture_count

    def attach(self, backbone: Backbone) -> None:
        """Build the projection for the width of the feature."""
        width = backbone.feature_dims(self.feature)
        self.head = projection_head(width, self.hidden_dim, self.projection_dim, self.layers)

    def project(self, features: Tensor) -> Tensor:
        """(V, B, D) -> unit embeddings (V, B, E), float32. A batch norm sees all views together."""
        projected = self.head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return F.normalize(projected.float(), dim=-1)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``agreement`` of ``batch['views']``, a list of normalised (B, C, H, W).

        Raises:
            DataError: the batch has fewer than two views.
        """
        if len(views_of(batch, "all")) < 2:
            raise DataError("SimCLR compares views: give MultiCrop at least two")
        views = self.project(encode_views(backbone, batch, self.feature, "all"))
        with torch.no_grad():
            count = len(views)
            agreement = (views.sum(0).square().sum(1).mean() - count) / (count * (count - 1))
        return {"loss": view_contrast_loss(views, self.temperature, self.gather), "agreement": agreement}

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``simclr_neighbours``: in every row an image and the five of the batch whose features are most like its own.

        Likeness is the cosine of the backbone's features of ``batch['image']``, with the mean over the batch removed.
        """
        record, images = backbone.preprocess, batch["image"]
        if not isinstance(record, ImagePreprocess) or len(images) < 2:
            return {}
        features = backbone.encode({backbone.modality: images}, self.feature).float()
        unit = F.normalize(features - features.mean(0), dim=1)
        alike = unit @ unit.T
        alike.fill_diagonal_(float("inf"))  # the image itself comes first
        rows = alike.topk(min(6, len(images)), dim=1).indices[: self.picture_count].cpu()
        shown = torch.from_numpy(three_band(record.denormalize(images).cpu().numpy()))
        return {"simclr_neighbours": tile(shown[rows].numpy())}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        for key in ("hidden_dim", "projection_dim", "layers", "picture_count"):
            if not isinstance(cfg[key], int) or cfg[key] < 1:
                yield key, "must be a whole number of at least 1"
        if not cfg["temperature"] > 0:
            yield "temperature", "must be positive"
