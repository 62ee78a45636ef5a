"""The Backbone contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.errors import ConfigError, Fault, nearest
from perception.layers.eval_mode import eval_mode
from perception.registry import PREPROCESSES
from perception.transforms.preprocess import Batch, Preprocess


class Backbone(nn.Module):
    """An encoder that pretexts train, probes judge and users take away.

    Three ways in, from raw to cooked:

    * ``embed(batch)``: RAW batch -> pooled embedding ``(B, D)``; applies the Preprocess record. Probes, users call it.
    * ``encode(batch)``: preprocessed batch -> pooled embedding ``(B, D)``, with gradients. Tasks call it.
    * ``forward(x)``: the modality's own preprocessed tensor -> tuple of feature maps at ``out_indices``.

    State-dict keys follow the public home of the architecture (timm for ViT, open_clip for CLIP, ...).

    Attributes:
        modality: name of the modality, such as ``image``.
        embed_dims: width D of the embedding.
        strides: down-sampling of each map of ``forward`` relative to the input, empty where there is no grid.
        preprocess: the Preprocess record.
        derived_features: features that ``derive`` computes from another one at next to no cost, such as a projection:
            name -> name of the other. Where both are wanted, the encoder runs once.
        unused_by_encode: names of own modules and parameters that ``encode`` never reads, such as the text tower of a
            dual encoder. A teacher does without them.
    """

    modality: ClassVar[str]
    embed_dims: int
    strides: tuple[int, ...] = ()
    derived_features: ClassVar[Mapping[str, str]] = {}
    unused_by_encode: ClassVar[tuple[str, ...]] = ()

    def __init__(self, preprocess: Preprocess | dict[str, Any]) -> None:
        super().__init__()
        self.preprocess: Preprocess = (
            preprocess if isinstance(preprocess, Preprocess) else PREPROCESSES.build(dict(preprocess))
        )

    @abstractmethod
    def forward(self, x: Any) -> tuple[Tensor, ...]:
        """Feature maps at ``out_indices``, shallowest first."""

    @abstractmethod
    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled embedding ``(B, D)`` of a preprocessed batch.

        Args:
            batch: output of ``self.preprocess``.
            feature: one of ``feature_choices()``; ``None`` takes the first.
        """

    def encode_features(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Several pooled features of a preprocessed batch by name. What they share need be computed only once."""
        return {feature: self.encode(batch, feature) for feature in features}

    def token_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What a fusion with other modalities reads: local tokens (B, T, ``token_dims``), and their pooled feature.

        Tokens are the places of the deepest map of ``forward``, and the pooled feature (B, ``token_dims``) is their
        mean, unless the encoder has a token that stands for the whole.
        """
        tokens = self.forward(batch[self.modality])[-1].flatten(2).transpose(1, 2)
        return tokens, tokens.mean(dim=1)

    @property
    def token_dims(self) -> int:
        """Width of ``token_features``."""
        return self.embed_dims

    def require_feature(self, name: str | None) -> str:
        """``name``, or the default feature for ``None``.

        Raises:
            ConfigError: the encoder has no such feature.
        """
        if name is None:
            return self.feature_choices()[0]
        if not self.has_feature(name):
            known = self.feature_choices()
            text = f"{type(self).__name__} has {', '.join(known)}"
            raise ConfigError([Fault("feature", name, text, nearest(name, known))])
        return name

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Names of the pooled features that ``encode`` can give, the default first."""
        return ("pooled",)

    @classmethod
    def has_feature(cls, name: str) -> bool:
        """Whether ``encode`` gives the feature ``name``. A choice ``block-k`` stands for block-0, block-1, ..."""
        choices = cls.feature_choices()
        families = tuple(choice[:-1] for choice in choices if choice.endswith("-k"))
        return name in choices or bool(families and name.startswith(families) and name.rsplit("-", 1)[-1].isdigit())

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of the pooled feature ``feature``."""
        return self.embed_dims

    def derive(self, feature: str, source: Tensor) -> Tensor:
        """The feature ``feature`` (B, D) from ``source``, the one that ``derived_features`` names for it."""
        raise NotImplementedError(f"{type(self).__name__} derives no features")

    def teacher_copy(self) -> Backbone:
        """An independent copy that ``encode`` works on, with the weights as they are and the names as they are."""
        memo: dict[int, Any] = {id(self.preprocess): self.preprocess}  # frozen, and its tokenizer may be large
        memo.update((id(part), None) for part in self.unused_parts())
        return deepcopy(self, memo)

    def unused_parts(self, feature: str | None = None) -> list[nn.Module | nn.Parameter]:
        """Modules and parameters that ``encode`` never reads for ``feature``: what ``unused_by_encode`` names here."""
        found = (getattr(self, name, None) for name in self.unused_by_encode)
        return [part for part in found if part is not None]

    def raw_features(self, batch: Batch) -> Tensor:
        """Flattened input ``(B, F)`` of a preprocessed batch: the baseline that every probe prints beside ours."""
        return batch[self.modality].flatten(1)

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Features that need no training, by name, of a preprocessed batch: what a probe has to beat.

        A modality with a stronger free baseline (such as propagated node features) adds it here.
        """
        return {"raw": self.raw_features(batch)}

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of another input size converted to this one's, such as positions resampled to another grid."""
        return state

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config of this type as it is built before recorded weights go in: without downloads of others."""
        return dict(config)

    def require_compatible(self, record: Mapping[str, Any], source: str) -> None:
        """Raise a ``CheckpointError`` where weights were made under choices that no tensor's shape shows.

        Args:
            record: what is known of the weights: ``preprocess``, and ``config``, the backbone's config they were made
                with. Either may be absent, as in public files.
            source: where they come from, for the message.
        """
        if record.get("preprocess"):
            self.preprocess.require_same(record["preprocess"], source)

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of the patches that images are cut into, by a config with defaults: sides are multiples."""
        return 1, 1

    def log_values(self) -> dict[str, Tensor]:
        """Scalars for the log about what was encoded since the last call, such as a share of the input left out.

        No name may contain ``loss``.
        """
        return {}

    def layer_count(self) -> int:
        """Number of layer-decay groups between input (0) and head (``layer_count() - 1``)."""
        return 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of the parameter ``name`` (relative to the backbone)."""
        return 0

    @torch.no_grad()
    def embed(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled float32 embedding ``(B, D)`` of a RAW batch, in eval mode, without gradients.

        The training flags of all modules are left as they were found.
        """
        with eval_mode(self):
            return self.encode(self.preprocess(batch), feature).float()
