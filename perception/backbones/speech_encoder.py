"""wav2vec 2.0 (Baevski et al., 2020), HuBERT (Hsu et al., 2021), WavLM (Chen et al., 2022) and XLS-R (Babu et al.,
2021): seven strided convolutions over the waveform, then a transformer over frames of 20 ms.

The parts are transformers' own, and so are the keys of the state dict. The way through them is not: frames lie with
their channels innermost, queries, keys and values are one product, and attention never looks at padding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.speech_config import KERNELS, STRIDES, encoder_faults, model_of, resolved
from perception.backbones.speech_state import own_keys, public_state
from perception.checkpoint import load_state
from perception.errors import ConfigError, DataError, Fault, check_arguments, nearest
from perception.layers import speech_frames
from perception.layers.linear import linear
from perception.layers.speech_frames import SEGMENTS, pool_frames
from perception.registry import BACKBONES
from perception.transforms.preprocess import Batch, Preprocess


@BACKBONES.register_module()
class SpeechEncoder(Backbone):
    """A transformer over convolutional features of a waveform.

    Args:
        architecture: ``'wav2vec2'`` (XLS-R too), ``'hubert'`` or ``'wavlm'``.
        preset: ``'base'``, ``'large'``, ``'xls-r-300m'``, ``'xls-r-1b'``, ``'xls-r-2b'``, or ``None``: all sizes
            without a default below must be given. What is given beside a preset replaces its value.
        embed_dim: width D of the transformer.
        depth: number of its layers L.
        num_heads: attention heads of a layer.
        ffn_dim: hidden width of a feed-forward part.
        norm: ``'group'``: one norm per channel over time after the first convolution, norms after the residual sums
            (BASE); ``'layer'``: a norm over channels after every convolution, norms before the layers (LARGE, XLS-R).
        conv_bias: biases of the convolutions; ``None``: with ``norm='layer'``, but not in WavLM.
        conv_gradient: factor of the gradient that enters the convolutions: 0.1 for BASE, 1 for LARGE.
        conv_dim: channels of every convolution; 512 by default.
        conv_kernels: samples or frames that each convolution sees.
        conv_strides: by how many it moves on; their product is the hop.
        pos_kernel, pos_groups: frames and groups of the convolution that gives positions; 128 and 16 by default.
        drop_rate: dropout of the projected features, attention weights and residual branches.
        layer_drop: probability of leaving out a layer in training.
        freeze_convs: no gradient for the convolutions, as in fine-tuning.
        padding: ``'exact'``: a clip gives the same in any batch; norms over time and attention see real frames only.
            ``'zeros'``: as BASE was trained: with ``norm='group'`` statistics and attention include the zeros of the
            padding, so results depend on the longest clip of the batch.
        weighted_layers: ``pooled`` is the mean of a learned softmax-weighted sum of all L + 1 hidden states (SUPERB,
            Yang et al., 2021) instead of the last one's.
        pretrained: folder of transformers' ``config.json`` and ``model.safetensors``, or a name on its hub, which is
            downloaded. Only when asked for; runs and exports never need it again.
        out_indices: layers (from 0; negative counts from the end) whose maps ``forward`` returns.
        preprocess: Preprocess record; ``None`` is 16 kHz, normalised per clip with ``norm='layer'``.

    Features of ``encode``: ``pooled`` mean over real frames (B, D), see ``weighted_layers``; ``block-k`` mean after
    layer ``k`` (from 0), later layers are not computed; ``segments`` and ``segments-k`` (B, 8 D): means over eight
    equal parts of the real frames, joined, of the same states. They keep the order of what is said, which tells short
    words apart.
    """

    modality: ClassVar[str] = "audio"
    unused_by_encode: ClassVar[tuple[str, ...]] = ("masked_spec_embed",)
    feature_extractor: Any
    feature_projection: Any
    encoder: Any
    masked_spec_embed: Tensor

    def __init__(
        self,
        architecture: str = "wav2vec2",
        preset: str | None = "base",
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        ffn_dim: int | None = None,
        norm: str | None = None,
        conv_gradient: float | None = None,
        conv_dim: int | None = None,
        conv_bias: bool | None = None,
        conv_kernels: Sequence[int] = KERNELS,
        conv_strides: Sequence[int] = STRIDES,
        pos_kernel: int | None = None,
        pos_groups: int | None = None,
        drop_rate: float = 0.0,
        layer_drop: float = 0.0,
        freeze_convs: bool = False,
        padding: str = "exact",
        weighted_layers: bool = False,
        pretrained: str | None = None,
        out_indices: Sequence[int] = (-1,),
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        arguments = check_arguments("model.backbone", self.check_config, locals())
        sizes = resolved(arguments)
        if preprocess is None:
            normalize = "utterance" if sizes["norm"] == "layer" else "none"
            preprocess = {"type": "SpeechPreprocess", "sample_rate": 16000, "normalize": normalize}
        super().__init__(preprocess)
        self.architecture, self.conv_norm, self.pre_norm = architecture, sizes["norm"], sizes["norm"] == "layer"
        self.embed_dims, self.depth, self.num_heads = sizes["embed_dim"], sizes["depth"], sizes["num_heads"]
        self.conv_dim, self.conv_gradient = sizes["conv_dim"], sizes["conv_gradient"]
        self.kernels, self.conv_strides, self.padding = tuple(conv_kernels), tuple(conv_strides), padding
        self.drop_rate, self.layer_drop = drop_rate, layer_drop
        self.out_indices = tuple(sorted(i % self.depth for i in out_indices))
        self.hop = math.prod(conv_strides)
        self.receptive_field = speech_frames.receptive_field(self.kernels, self.conv_strides)
        self.strides = (self.hop,) * len(self.out_indices)
        config, model = model_of(architecture)
        built = model(
            config(
                hidden_size=self.embed_dims,
                num_hidden_layers=self.depth,
                num_attention_heads=self.num_heads,
                intermediate_size=sizes["ffn_dim"],
                conv_dim=(self.conv_dim,) * len(self.kernels),
                conv_kernel=self.kernels,
                conv_stride=self.conv_strides,
                conv_bias=sizes["conv_bias"],
                feat_extract_norm=self.conv_norm,
                do_stable_layer_norm=self.pre_norm,
                num_conv_pos_embeddings=sizes["pos_kernel"],
                num_conv_pos_embedding_groups=sizes["pos_groups"],
                mask_time_prob=0.05,  # or it would have no vector for masked frames
            )
        )
        self.feature_extractor, self.feature_projection = built.feature_extractor, built.feature_projection
        self.masked_spec_embed, self.encoder = built.masked_spec_embed, built.encoder
        self.layer_weights = nn.Parameter(torch.zeros(self.depth + 1)) if weighted_layers else None
        self.freeze_convs = freeze_convs
        if freeze_convs:
            self.feature_extractor.requires_grad_(False)
        if pretrained is not None:
            state, file = public_state(pretrained)
            load_state(self, dict(self.adapt_state(state)), file)

    # Frames.

    def frame_lengths(self, samples: Tensor) -> Tensor:
        """Frames of clips of that many ``samples``, any shape: n -> floor((n - kernel) / stride) + 1, layer by layer.

        400 samples are the first frame of the published stack, 320 more another; below, there is none.
        """
        for kernel, stride in zip(self.kernels, self.conv_strides, strict=True):
            samples = torch.div(samples - kernel, stride, rounding_mode="floor").clamp(min=-1) + 1
        return samples

    def real_samples(self, batch: Batch) -> Tensor | None:
        """Real samples of every clip (B,); None where nothing is padded."""
        lengths = batch.get("audio_length")
        if lengths is None:
            return None
        samples = batch[self.modality].shape[1]
        return None if bool((lengths == samples).all()) else lengths.to(batch[self.modality].device)

    def convolve(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features (B, T, C) of waveforms (B, S) before their norm; ``lengths`` (B,) are the real samples.

        Raises:
            DataError: the waveforms are shorter than one frame.
        """
        if int(self.frame_lengths(torch.tensor(audio.shape[1]))) < 1:
            raise DataError(f"{audio.shape[1]} samples are shorter than one frame of {self.receptive_field} samples")
        if self.padding == "zeros":
            lengths = None
        x = audio[:, None, None, :]
        for index, layer in enumerate(self.feature_extractor.conv_layers):
            conv = layer.conv
            weight = conv.weight[:, :, None, :]
            x = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, conv.bias, (1, conv.stride[0]))
            frames = x.permute(0, 2, 3, 1)  # (B, 1, T, C), channels innermost
            if self.conv_norm == "layer":
                norm = layer.layer_norm
                frames = F.layer_norm(frames, (self.conv_dim,), norm.weight, norm.bias, norm.eps)
            elif index == 0:
                if lengths is not None:
                    lengths = torch.div(lengths - self.kernels[0], self.conv_strides[0], rounding_mode="floor") + 1
                frames = speech_frames.norm_over_time(x[:, :, 0], layer.layer_norm, lengths)[:, None]
            x = F.gelu(frames).permute(0, 3, 1, 2)
        features = x.permute(0, 2, 3, 1)[:, 0]
        return speech_frames.scale_gradient(features, self.conv_gradient)

    def norm_features(self, features: Tensor) -> Tensor:
        """Layer norm of convolutional features (..., C): what is quantised, and projected."""
        norm = getattr(self.feature_projection, "layer_norm", None)
        return features if norm is None else norm(features)

    def project(self, features: Tensor) -> Tensor:
        """Normed features (..., C) -> inputs (..., D) of the transformer."""
        projection = self.feature_projection.projection
        return self._drop(linear(features, projection.weight, projection.bias))

    def frame_mask(self, batch: Batch, frames: int) -> Tensor | None:
        """(B, T) bool, True on real frames; None where all are."""
        lengths = self.real_samples(batch)
        if lengths is None:
            return None
        return torch.arange(frames, device=lengths.device) < self.frame_lengths(lengths)[:, None]

    # Transformer.

    def hidden_states(self, x: Tensor, mask: Tensor | None = None, last: int | None = None) -> list[Tensor]:
        """Hidden states (B, T, D) of projected frames: the transformer's input, then after every layer.

        Args:
            x: (B, T, D).
            mask: (B, T) bool, True on real frames.
            last: layer to stop after; ``None`` runs all, and gives the last one its final norm where there is one.
        """
        if self.padding == "zeros" and self.conv_norm == "group":
            mask = None
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)
        x = x + self._positions(x)
        if not self.pre_norm:
            x = self.encoder.layer_norm(x)
        x = self._drop(x)
        states = [x]
        seen = None if mask is None else mask[:, None, None, :]
        bias = None
        if self.architecture == "wavlm":
            bias = self.encoder.layers[0].attention.compute_bias(x.shape[1], x.shape[1])
        count = self.depth if last is None else last + 1
        for layer in self.encoder.layers[:count]:
            dropped = self.training and self.layer_drop > 0 and float(torch.rand(())) < self.layer_drop
            if not dropped:
                x = self._layer(layer, x, seen, bias)
            states.append(x)
        if self.pre_norm and count == self.depth:
            states[-1] = self.encoder.layer_norm(x)
        return states

    def _positions(self, x: Tensor) -> Tensor:
        conv = self.encoder.pos_conv_embed.conv
        length = x.shape[1]
        out = F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
        return F.gelu(out[:, :, :length].transpose(1, 2))

    def _layer(self, layer: Any, x: Tensor, seen: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self._drop(self._attend(layer.attention, layer.layer_norm(x), seen, bias))
            return x + self._feed_forward(layer.feed_forward, layer.final_layer_norm(x))
        x = layer.layer_norm(x + self._drop(self._attend(layer.attention, x, seen, bias)))
        return layer.final_layer_norm(x + self._feed_forward(layer.feed_forward, x))

    def _attend(self, attention: Any, x: Tensor, seen: Tensor | None, bias: Tensor | None) -> Tensor:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight, offset = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        split = linear(x, weight, offset).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = seen
        if bias is not None:
            # WavLM: the bias by distance is scaled by two gates of the query.
            heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            gates = attention.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid()
            scale = gates[..., :1] * (gates[..., 1:] * attention.gru_rel_pos_const - 1.0) + 2.0
            mask = scale * bias
            if seen is not None:
                mask = mask.masked_fill(~seen, float("-inf"))
        rate = self.drop_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask, dropout_p=rate)
        return linear(out.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)

    def _feed_forward(self, part: Any, x: Tensor) -> Tensor:
        first, second = part.intermediate_dense, part.output_dense
        hidden = F.gelu(linear(x, first.weight, first.bias))
        return self._drop(linear(hidden, second.weight, second.bias))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x

    # The contract.

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        """Pooled features; ``block-k`` and ``segments-k`` stand for any layer k from 0."""
        return ("pooled", "block-k", "segments", "segments-k")

    def feature_dims(self, feature: str | None = None) -> int:
        """Width of the pooled feature ``feature``."""
        return self.embed_dims * (SEGMENTS if str(feature).startswith("segments") else 1)

    def last_layer(self, feature: str | None) -> int | None:
        """Layer after which ``feature`` stops, None for all of them.

        Raises:
            ConfigError: there is no such feature.
        """
        if feature in (None, "pooled", "segments"):
            return None
        match = re.fullmatch(r"(?:block|segments)-(\d+)", str(feature))
        if match and int(match[1]) < self.depth:
            return int(match[1])
        known = ["pooled", "segments", *(f"{kind}-{i}" for kind in ("block", "segments") for i in range(self.depth))]
        text = f"not a feature of this encoder of {self.depth} layers; it has {', '.join(known)}"
        raise ConfigError([Fault("feature", feature, text, nearest(str(feature), known))])

    def states(self, batch: Batch, last: int | None = None) -> tuple[list[Tensor], Tensor | None]:
        """``hidden_states`` and frame mask of a preprocessed batch of ``audio`` (B, S), ``audio_length`` (B,)."""
        features = self.norm_features(self.convolve(batch[self.modality], self.real_samples(batch)))
        mask = self.frame_mask(batch, features.shape[1])
        if mask is not None and not bool(mask.any(dim=1).all()):
            row = int((~mask.any(dim=1)).nonzero()[0])
            samples = int(batch["audio_length"][row])
            raise DataError(
                f"clip {row} of the batch has {samples} samples, less than one frame of {self.receptive_field}: "
                "leave it out, or pad it and count the padding as real"
            )
        return self.hidden_states(self.project(features), mask, last), mask

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        """Pooled embedding (B, ``feature_dims``) of ``audio`` of a preprocessed batch; see the class for features."""
        last = self.last_layer(feature)
        states, mask = self.states(batch, last)
        return pool_frames(self._joined(states) if last is None else states[-1], mask, feature)

    def encode_features(self, batch: Batch, features: Sequence[str]) -> dict[str, Tensor]:
        """Several pooled features by one pass."""
        stops = {feature: self.last_layer(feature) for feature in features}
        whole = any(stop is None or stop == self.depth - 1 for stop in stops.values())
        states, mask = self.states(batch, None if whole else max(stop for stop in stops.values() if stop is not None))
        return {
            feature: pool_frames(self._joined(states) if stop is None else states[stop + 1], mask, feature)
            for feature, stop in stops.items()
        }

    def _joined(self, states: list[Tensor]) -> Tensor:
        if self.layer_weights is None:
            return states[-1]
        weights = self.layer_weights.softmax(dim=0)
        return torch.stack(states, dim=-1) @ weights

    def token_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) of the last layer, and their mean over real ones."""
        states, mask = self.states(batch)
        return states[-1], pool_frames(states[-1], mask)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Waveforms (B, S), all real -> maps (B, D, T) at ``out_indices``."""
        last = self.out_indices[-1]
        states, _ = self.states({self.modality: x}, None if last == self.depth - 1 else last)
        return tuple(states[i + 1].transpose(1, 2) for i in self.out_indices)

    def raw_features(self, batch: Batch) -> Tensor:
        """Mean and deviation over time of log-mel energies, for a waveform itself is no feature."""
        return self.baselines(batch)["raw"]

    def baselines(self, batch: Batch) -> dict[str, Tensor]:
        """Log-mel features of the Preprocess record."""
        return self.preprocess.baselines(batch)  # type: ignore[attr-defined, no-any-return]

    def layer_count(self) -> int:
        """Convolutions, projection and positions 0, layer k is k + 1, then the final norm and the head."""
        return self.depth + 2

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter."""
        match = re.match(r"encoder\.layers\.(\d+)\.", name)
        if match:
            return int(match[1]) + 1
        return self.depth + 1 if name.startswith(("encoder.layer_norm", "layer_weights")) else 0

    def unused_parts(self, feature: str | None = None) -> list[nn.Module | nn.Parameter]:
        """The vector for masked frames, and the layers after the one that ``feature`` stops at."""
        parts = super().unused_parts(feature)
        last = self.last_layer(feature)
        if last is None:
            return parts
        parts += [*self.encoder.layers[last + 1 :]]
        if self.pre_norm and last < self.depth - 1:
            parts.append(self.encoder.layer_norm)
        return parts if self.layer_weights is None else [*parts, self.layer_weights]

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        rate = self.preprocess.record()["sample_rate"]
        return {"frames": f"one each {1000 * self.hop / rate:g} ms, of {1000 * self.receptive_field / rate:g} ms"}

    # Weights.

    def adapt_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Keys of transformers' task models without their prefix and heads, and older names of the weight norm."""
        return own_keys(state, self.architecture, self.state_dict())

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without public weights, which the recorded ones replace."""
        return {**config, "pretrained": None}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        yield from encoder_faults(cfg)
