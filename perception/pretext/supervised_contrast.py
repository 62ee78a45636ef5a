"""Contrast of classes instead of samples, for any modality.

"Supervised Contrastive Learning", Khosla et al., NeurIPS 2020, and its relatives ("Unbiased Supervised Contrastive
Learning", Barbano et al., ICLR 2023; multi-similarity; triplets): samples of one class are drawn together behind a
small projection that is thrown away afterwards. ``perception.losses.supervised_contrast`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from perception.backbones.base import Backbone
from perception.errors import DataError, check_arguments
from perception.layers.contrast_head import ContrastHead, contrast_faults
from perception.pretext.base import Pretext
from perception.pretext.shared import encode_views
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch


@PRETEXTS.register_module()
class SupervisedContrast(Pretext):
    """Contrast of the classes of a batch: of its samples, or where it has ``views``, of all of them.

    Batches should hold several samples of every class: see ``PKSampler``. Against the paper's public code, embeddings
    are compared across ranks, anchors without a positive are left out of the mean, and the loss is not multiplied by
    T / 0.07; ``options`` (``without_positives='reference'``, ``base_temperature=0.07``) bring the last two back.

    Args:
        loss: ``supcon``, ``eps-supcon``, ``eps-supinfonce``, ``multi-similarity``, ``triplet``, ``contrastive`` or
            ``fairkl``.
        options: arguments of the loss by name, such as ``dict(temperature=0.1)``.
        supervised: with the labels of the batch; else positives are the other views of a sample, as in SimCLR.
        hidden_dim: width of the projection's hidden layer; None takes that of the feature.
        projection_dim: width in which embeddings are compared.
        anchors: ``all`` views are anchors, or the first ``one``.
        group_key: key of the batch with a bias that should not be learnt, such as ``speaker``.
        across_groups: positives are of another group than the anchor, such as another speaker.
        fairkl: weight of FairKL beside the loss.
        feature: pooled feature of the backbone that is projected; ``None`` takes its default.
        gather: compare with the embeddings of all ranks.

    ``forward`` gives ``loss``, with FairKL ``fairkl_loss``, and for the log ``class_gap``: the mean cosine of positives
    less that of negatives.
    """

    head: ContrastHead

    def __init__(
        self,
        loss: str = "supcon",
        options: Mapping[str, Any] | None = None,
        supervised: bool = True,
        hidden_dim: int | None = None,
        projection_dim: int = 128,
        anchors: str = "all",
        group_key: str | None = None,
        across_groups: bool = False,
        fairkl: float = 0.0,
        feature: str | None = None,
        gather: bool = True,
    ) -> None:
        given = check_arguments("model.pretexts.supervised_contrast", self.check_config, locals())
        super().__init__()
        self.supervised = supervised
        self.feature = feature
        self.settings = {key: value for key, value in given.items() if key not in ("supervised", "feature")}

    def attach(self, backbone: Backbone) -> None:
        """Build the projection for the width of the feature."""
        self.head = ContrastHead(backbone.feature_dims(self.feature), **self.settings)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Losses of a preprocessed batch with ``label`` (B,).

        Raises:
            DataError: labels, views or groups are missing.
        """
        if self.supervised and "label" not in batch:
            raise DataError(
                f"SupervisedContrast learns from labels, but the batch holds only {', '.join(sorted(batch))}; "
                "supervised=False contrasts the views of samples"
            )
        labels = batch["label"] if self.supervised else None
        if "views" in batch:
            features = encode_views(backbone, batch, self.feature, "all")
        else:
            features = backbone.encode(batch, self.feature)[None]
        if "mask" in batch:  # nodes of a graph
            features, labels = features[:, batch["mask"]], None if labels is None else labels[batch["mask"]]
        return self.head(features, labels, batch)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from contrast_faults(cfg)
