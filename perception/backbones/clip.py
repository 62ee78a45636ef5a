"""CLIP: an image and a text tower with one embedding space, on open_clip's towers.

"Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021). Every model that
open_clip describes can be built by its name, tiny ones from a dict, text towers of transformers (XLM-R) included. Keys
of the state dict are open_clip's, so RemoteCLIP, GeoRSCLIP, SkyCLIP and RS-M-CLIP weights load; see
``tools/convert_weights.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from perception.backbones import clip_config, clip_state, clip_towers
from perception.backbones.base import Backbone
from perception.backbones.clip_blocks import block_index
from perception.backbones.inflation import as_if_inflated
from perception.backbones.timm_tools import layer_groups, pooled_dims, strides_of
from perception.errors import CheckpointError, ConfigError, DataError, Fault, nearest
from perception.layers.eval_mode import eval_mode
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess

MAX_LOGIT_SCALE = math.log(100)
TEXT_BLOCKS = ("resblocks", "layer", "block", "layers")  # open_clip's, BERT's, T5's, BART's


@BACKBONES.register_module()
class CLIP(Backbone):
    """Dual encoder.

    Args:
        model: open_clip's name (``ViT-B-32``, ``xlm-roberta-base-ViT-B-32``), ``local-dir:<folder>``, or a dict
            ``embed_dim``, ``vision_cfg``, ``text_cfg`` with open_clip's keys. A dict's ``text_cfg`` may leave
            ``vocab_size`` and ``context_length`` to the tokenizer, and describe a tower of transformers by
            ``hf_config=dict(model_type='xlm-roberta', ...)``, which needs no network.
        quick_gelu: whether the towers compute ``x sigmoid(1.702 x)`` in place of GELU. The state dict cannot tell:
            OpenAI's weights and what was tuned from them (RemoteCLIP, GeoRSCLIP ViT-B/32 and L/14, SkyCLIP L/14) need
            True, LAION's False. ``None`` takes the model config's word; weights without a record then are refused.
        image_size: height and width, or one number; ``None`` is the Preprocess record's, else the model's own. Other
            sizes work at any time: positions are interpolated.
        in_channels: bands. Weights of RGB are inflated to them, by the names of the record's bands.
        preprocess: an ``ImageTextPreprocess`` record, or an ``ImagePreprocess`` for images alone; ``None`` is CLIP's
            statistics and the model's own tokenizer.
        out_indices: blocks (stages of a ResNet) whose maps ``forward`` returns.
        gradient_checkpointing: compute blocks again in the backward pass instead of keeping their activations.

    Features of ``encode``: ``projected`` (B, E) in the space shared with texts, not normalised; ``pooled`` (B, D), what
    is projected; ``gap`` (B, D) mean of the patch tokens after the final norm.

    Attributes:
        logit_scale: log of the scale of similarities, a scalar parameter; ``logit_bias`` is SigLIP's or None.
    """

    modality: ClassVar[str] = "image"
    derived_features: ClassVar[Mapping[str, str]] = {"projected": "pooled"}
    unused_by_encode: ClassVar[tuple[str, ...]] = (
        *("text", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"),
        *("logit_scale", "logit_bias"),
    )
    visual: Any
    logit_scale: Tensor
    logit_bias: Tensor | None

    def __init__(
        self,
        model: str | dict[str, Any],
        quick_gelu: bool | None = None,
        image_size: int | Sequence[int] | None = None,
        in_channels: int = 3,
        preprocess: Preprocess | dict[str, Any] | None = None,
        out_indices: Sequence[int] = (-1,),
        gradient_checkpointing: bool = False,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        faults = [
            Fault(f"model.backbone.{k}", clip_config.value_at(arguments, k), text)
            for k, text in self.check_config(arguments)
        ]
        if faults:
            raise ConfigError(faults)
        cfg = clip_config.resolve(model, quick_gelu, clip_config.size_of(image_size, preprocess))
        super().__init__(clip_config.default_record(cfg) if preprocess is None else preprocess)
        clip_config.fit_to_tokenizer(cfg["text_cfg"], self.tokenizer)
        self.model_config = cfg
        self.embed_dims = cfg["embed_dim"]
        self._take(clip_towers.build_towers(cfg, in_channels, gradient_checkpointing))
        self._groups: tuple[dict[str, int], int] | None = None
        self.image_kind = clip_towers.kind_of(self.visual)
        self.depth = len(self.image_strides())
        self.out_indices = tuple(sorted(i % self.depth for i in out_indices))
        self.strides = tuple(self.image_strides()[i] for i in self.out_indices)

    def _take(self, built: nn.Module) -> None:
        """Make the parts of open_clip's model ours, under the same names."""
        for name, child in built.named_children():
            self.add_module(name, child)
        for name, parameter in built._parameters.items():
            self.register_parameter(name, parameter)
        if not hasattr(self, "text"):
            self.text_projection = built.text_projection
            self.context_length = built.context_length
            self.text_pool_type, self.text_eos_id = built.text_pool_type, built.text_eos_id
            self.register_buffer("attn_mask", built.attn_mask, persistent=False)  # type: ignore[arg-type]
        if "logit_bias" not in self._parameters:
            self.logit_bias = None

    @property
    def tokenizer(self) -> Any:
        """The record's tokenizer; None where it is for images alone."""
        return getattr(self.preprocess, "tokenizer", None)

    @property
    def text_tower(self) -> nn.Module:
        """The module that holds the text tower's parts: ``text``, or this model itself as in open_clip's ``CLIP``."""
        return self.text if "text" in self._modules else self  # type: ignore[return-value]

    # Images.

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features of images."""
        return ("projected", "pooled", "gap")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of a feature."""
        if feature in (None, "projected"):
            return self.embed_dims
        visual = self.visual
        if self.image_kind == "timm":
            return pooled_dims(visual.trunk) if feature == "pooled" else int(visual.trunk.num_features)
        if self.image_kind == "resnet":
            return int(visual.attnpool.k_proj.in_features)
        return int(visual.ln_post.normalized_shape[0] if feature == "pooled" else visual.conv1.out_channels)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Embedding of ``batch['image']`` (B, C, H, W); see the class for the features."""
        feature = feature or self.feature_choices()[0]
        if feature not in self.feature_choices():
            known = self.feature_choices()
            text = f"a CLIP has {', '.join(known)}"
            raise ConfigError([Fault("feature", feature, text, nearest(feature, known))])
        if feature == "projected":
            return self.derive(feature, clip_towers.image_feature(self.visual, batch[self.modality], "pooled"))
        return clip_towers.image_feature(self.visual, batch[self.modality], feature)

    def derive(self, feature: str, source: Tensor) -> Tensor:
        """``projected`` (B, E) from ``pooled`` (B, D)."""
        return clip_towers.project(self.visual, source)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, D, H / s, W / s) at ``out_indices``."""
        if self.image_kind == "vit":
            return clip_towers.vit_maps(self.visual, x, self.out_indices)
        if self.image_kind == "resnet":
            maps = clip_towers.resnet_maps(self.visual, x)
            return tuple(maps[i] for i in self.out_indices)
        return tuple(
            self.visual.trunk.forward_intermediates(x, indices=list(self.out_indices), intermediates_only=True)
        )

    def image_strides(self) -> tuple[int, ...]:
        """Down-sampling of every map that ``forward`` could give."""
        visual = self.visual
        if self.image_kind == "vit":
            return (visual.patch_size[0],) * len(visual.transformer.resblocks)
        if self.image_kind == "resnet":
            return (4, 8, 16, 32)
        return strides_of(visual.trunk)

    # Texts.

    def encode_text(self, batch: Batch) -> Tensor:
        """Embedding (B, E) of ``text`` and ``text_mask`` of a preprocessed batch, not normalised, with gradients.

        It depends neither on the padding nor on the other texts of the batch.
        """
        ids = batch.get("text")
        if not isinstance(ids, Tensor):
            raise DataError("encode_text needs the tensors 'text' and 'text_mask' of a preprocessed batch")
        pad_id = self.tokenizer.pad_id if self.tokenizer is not None else 0
        return clip_towers.text_feature(self.text_tower, ids, batch["text_mask"], pad_id)

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embeddings (n, E) float32 of texts, not normalised, in eval mode, on the device of the weights.

        Raises:
            ConfigError: the Preprocess record holds no tokenizer.
        """
        if self.tokenizer is None:
            raise ConfigError("this CLIP's Preprocess record is for images alone: it holds no tokenizer for texts")
        device = self.logit_scale.device
        with eval_mode(self):
            # Equal texts once, so that they tie to the last bit, and texts of one length together, so that nothing is
            # padded that need not be.
            order = sorted(dict.fromkeys(texts), key=lambda text: len(self.tokenizer.row(text)))
            found = torch.empty(len(order), self.embed_dims, device=device)
            for start in range(0, len(order), batch_size):
                ids, mask = self.tokenizer(order[start : start + batch_size])
                batch = {"text": ids.to(device), "text_mask": mask.to(device)}
                found[start : start + batch_size] = self.encode_text(batch).float()
            places = {text: place for place, text in enumerate(order)}
            return found[torch.tensor([places[text] for text in texts], dtype=torch.long, device=device)]

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scale of similarities within 1 and 100: a pretext calls it after every step."""
        self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    # Weights.

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """open_clip's dialects, other image sizes and contexts, and RGB to more bands; see ``clip_state.adapt``."""
        return clip_state.adapt(self, state)

    def require_compatible(self, record: Mapping[str, Any], source: str) -> None:
        """Beside the Preprocess record, compare what no tensor shows: activation, heads, pooling, masks.

        Weights of RGB may start a model of more bands: the bands' values are not compared then.
        """
        theirs = record.get("config")
        if theirs and theirs.get("type") == "CLIP":
            other = clip_config.resolve(theirs["model"], theirs.get("quick_gelu"))
            found = clip_config.differences(self.model_config, other)
            if found:
                lines = "\n".join(f"  - {line}" for line in found)
                raise CheckpointError(f"{source} holds a CLIP that computes otherwise than this config's:\n{lines}")
        elif not theirs and clip_config.gelu_matters(self.model_config) and not self.model_config["explicit_gelu"]:
            raise CheckpointError(
                f"{source} does not record its activation, and this config does not choose one: set quick_gelu=True "
                "for weights that descend from OpenAI's (RemoteCLIP, GeoRSCLIP ViT-B/32 and L/14, SkyCLIP L/14), "
                "quick_gelu=False for others"
            )
        super().require_compatible(as_if_inflated(record, self.preprocess), source)

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without weights that a tower's own config would download, which the recorded ones replace."""
        model = config["model"]
        if isinstance(model, Mapping):
            free = {"vision_cfg": {"timm_model_pretrained": False}, "text_cfg": {"hf_model_pretrained": False}}
            towers = {k: {**model[k], **{n: v for n, v in new.items() if n in model[k]}} for k, new in free.items()}
            model = {**model, **towers}
        return {**config, "model": model}

    # Layer decay.

    def layer_count(self) -> int:
        """Embeddings, the blocks of the deeper tower, then norms, projections and scale."""
        return max(self._image_depth(), self._text_depth()) + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group; the towers' last blocks are in the same one, so a shallow tower starts later."""
        last = self.layer_count() - 1
        if name.startswith("visual."):
            return last - 1 - self._image_depth() + self._image_group(name.removeprefix("visual."))
        if name.startswith(
            ("logit_", "ln_final", "text.ln_final", "text_projection", "text.text_projection", "text.proj")
        ):
            return last
        index = block_index(name, TEXT_BLOCKS)
        return last - 1 - self._text_depth() + (0 if index is None else index + 1)

    def _text_depth(self) -> int:
        names = (name for name, _ in self.text_tower.named_parameters() if not name.startswith("visual."))
        return max((k + 1 for name in names if (k := block_index(name, TEXT_BLOCKS)) is not None), default=0)

    def _image_depth(self) -> int:
        return self.depth if self.image_kind != "timm" else self._timm_groups()[1]

    def _timm_groups(self) -> tuple[dict[str, int], int]:
        if self._groups is None:
            self._groups = layer_groups(self.visual.trunk)
        return self._groups

    def _image_group(self, name: str) -> int:
        """0 for embeddings, k + 1 for block or stage k, one more than all for the rest."""
        after = self._image_depth() + 1
        if self.image_kind == "timm":
            return self._timm_groups()[0].get(name.removeprefix("trunk."), after)
        if self.image_kind == "resnet":
            stage = name.split(".")[0]
            return int(stage[5:]) if stage.startswith("layer") else after if stage == "attnpool" else 0
        index = block_index(name)
        return after if name.startswith(("ln_post", "proj", "attn_pool")) else 0 if index is None else index + 1

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        cfg = self.model_config
        gelu = ("QuickGELU" if cfg["quick_gelu"] else "GELU") if clip_config.gelu_matters(cfg) else "the towers' own"
        return {"embedding": f"{self.embed_dims}", "activation": gelu, "tokenizer": repr(self.tokenizer)}

    @classmethod
    def patch_of(cls, cfg: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of a patch of the image tower; 1 where it is a ResNet."""
        return clip_config.patch_of(clip_config.resolve(cfg["model"], cfg["quick_gelu"])["vision_cfg"])

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        yield from clip_config.check(cfg)
