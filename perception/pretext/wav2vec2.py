"""wav2vec 2.0 ("wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", Baevski et al.,
2020): spans of frames are hidden from the transformer, which tells their quantised features from those of other hidden
frames of the same clip.

Only frames that the transformer sees are projected for it, and only hidden ones are quantised, for the loss reads
nothing else. With several ranks, sums and counts are those of all ranks, so the loss is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.speech_encoder import SpeechEncoder
from perception.errors import ConfigError, check_arguments, not_among
from perception.layers.eval_mode import eval_mode
from perception.layers.gumbel_quantizer import GumbelQuantizer, Quantized
from perception.layers.linear import linear
from perception.layers.span_mask import VARIANTS, sample_negatives, span_mask
from perception.losses.contrastive import rank_and_world, sum_over_ranks
from perception.losses.wav2vec2 import (
    contrast_accuracy,
    contrast_logits,
    contrast_loss,
    diversity_loss,
    fairseq_total,
    perplexity,
    transformers_total,
)
from perception.pretext.base import Pretext
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch


@dataclass(frozen=True)
class Frames:
    """What the loss reads of a batch; N masked frames in the order of ``mask.nonzero()``.

    Attributes:
        mask: (B, T) bool, True where hidden.
        context: (N, P) projected context.
        targets: (N, P) projected quantised features.
        quantized: the quantiser's result.
        square: sum of the squared features z of all real frames, a scalar.
        count: number of these numbers.
    """

    mask: Tensor
    context: Tensor
    targets: Tensor
    quantized: Quantized
    square: Tensor
    count: int


@PRETEXTS.register_module()
class Wav2Vec2(Pretext):
    """Tells the quantised features of hidden frames from distractors.

    Args:
        mask_probability: p of ``span_mask``.
        mask_length: frames M of a span.
        min_spans: least number of spans of a clip.
        mask_variant: ``'fairseq'`` (every clip has equally many hidden frames) or ``'transformers'``.
        groups: codebooks G of the quantiser.
        entries: vectors V of a codebook.
        code_dim: width d of the joined vectors; G must divide it.
        project_dim: width of the space of the contrast.
        negatives: distractors K of a frame.
        temperature: kappa of the contrast.
        gumbel_start: temperature of the quantiser at step 0.
        gumbel_decay: its factor a step.
        gumbel_floor: its least value; 0.5 for BASE, 0.1 for LARGE.
        diversity_weight: of the diversity loss.
        penalty_weight: of the mean square of the features: 10 for BASE, 0 for LARGE.
        feature_drop: dropout of what is quantised.
        total: ``'fairseq'`` or ``'transformers'``. The latter has no penalty, and takes the usage of codes in
            evaluation from hard choices instead of from probabilities. Both are divided by the number of masked frames.
    """

    project_hid: nn.Linear
    project_q: nn.Linear
    quantizer: GumbelQuantizer

    def __init__(
        self,
        mask_probability: float = 0.65,
        mask_length: int = 10,
        min_spans: int = 2,
        mask_variant: str = "fairseq",
        groups: int = 2,
        entries: int = 320,
        code_dim: int = 256,
        project_dim: int = 256,
        negatives: int = 100,
        temperature: float = 0.1,
        gumbel_start: float = 2.0,
        gumbel_decay: float = 0.999995,
        gumbel_floor: float = 0.5,
        diversity_weight: float = 0.1,
        penalty_weight: float = 10.0,
        feature_drop: float = 0.1,
        total: str = "fairseq",
    ) -> None:
        self.settings = check_arguments("model.pretexts.wav2vec2", self.check_config, locals())
        super().__init__()
        self.drop = nn.Dropout(feature_drop)

    def attach(self, backbone: Backbone) -> None:
        """Build the quantiser and the projections for the widths of ``backbone``."""
        encoder, s = _require_speech(backbone), self.settings
        self.quantizer = GumbelQuantizer(
            encoder.conv_dim,
            s["code_dim"],
            s["groups"],
            s["entries"],
            s["gumbel_start"],
            s["gumbel_decay"],
            s["gumbel_floor"],
        )
        self.project_hid = nn.Linear(encoder.embed_dims, s["project_dim"])
        self.project_q = nn.Linear(s["code_dim"], s["project_dim"])

    def before_step(self, step: int, total_steps: int) -> None:
        """Set the temperature of the quantiser."""
        self.quantizer.updates.fill_(step)

    def draw_mask(self, lengths: Tensor, frames: int) -> Tensor:
        """Frames to hide (B, T) of clips of ``lengths`` (B,) real frames."""
        s = self.settings
        return span_mask(lengths, frames, s["mask_probability"], s["mask_length"], s["min_spans"], s["mask_variant"])

    def run(self, backbone: Backbone, batch: Batch, mask: Tensor | None = None) -> Frames:
        """Encode a preprocessed batch with hidden frames; ``mask`` (B, T) is drawn where it is not given."""
        encoder = _require_speech(backbone)
        audio = batch["audio"]
        z = encoder.convolve(audio, encoder.real_samples(batch))
        real = encoder.frame_mask(batch, z.shape[1])
        if mask is None:
            lengths = real.sum(dim=1) if real is not None else torch.full((len(z),), z.shape[1], device=z.device)
            mask = self.draw_mask(lengths, z.shape[1])
        if real is None:
            square, count = z.float().square().sum(), z.numel()
        else:
            square, count = z[real].float().square().sum(), int(real.sum()) * z.shape[-1]
        features = encoder.norm_features(z)
        seen = ~mask if real is None else real & ~mask
        shown = encoder.project(features[seen][None])[0]
        x = encoder.masked_spec_embed.to(shown.dtype).expand(*mask.shape, -1)
        x = x.masked_fill(~mask[..., None], 0.0).index_put(seen.nonzero(as_tuple=True), shown)
        context = encoder.hidden_states(x, real)[-1][mask]
        quantized = self.quantizer(self.drop(features[mask]))
        return Frames(
            mask=mask,
            context=_apply(self.project_hid, context),
            targets=_apply(self.project_q, quantized.vectors.to(self.project_q.weight.dtype)),
            quantized=quantized,
            square=square,
            count=count,
        )

    def losses(self, frames: Frames, negatives: Tensor) -> dict[str, Tensor]:
        """All scalars of encoded ``frames`` with the distractors ``negatives`` (N, K) of ``sample_negatives``."""
        s, found = self.settings, frames.quantized
        logits = contrast_logits(frames.context, frames.targets, found.codes, negatives, frames.mask, s["temperature"])
        world = rank_and_world()[1]
        numbers = logits.new_tensor([float(len(logits)), float(frames.count)])
        masked, elements = sum_over_ranks(numbers, world)
        contrast = sum_over_ranks(contrast_loss(logits), world)
        soft = sum_over_ranks(found.soft, world) / masked
        hard = sum_over_ranks(found.hard, world) / masked
        usage = hard if s["total"] == "transformers" and not self.training else soft
        diversity = diversity_loss(usage)
        penalty = sum_over_ranks(frames.square, world) / elements
        if s["total"] == "fairseq":
            total = fairseq_total(contrast, diversity, penalty, masked, s["diversity_weight"], s["penalty_weight"])
        else:
            total = transformers_total(contrast, diversity, masked, s["diversity_weight"])
        with torch.no_grad():
            logged = {
                "contrast": contrast / masked,
                "diversity": diversity,
                "penalty": penalty,
                "perplexity": perplexity(soft),
                "code_perplexity": perplexity(hard),
                "accuracy": contrast_accuracy(logits),
                "masked": frames.mask.float().mean(),
                "gumbel_temperature": logits.new_tensor(self.quantizer.temperature),
            }
        return {"loss": total / masked, **{key: value.detach() for key, value in logged.items()}}

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` per masked frame of ``audio`` (B, S) with ``audio_length`` (B,), and its parts for the log."""
        frames = self.run(backbone, batch)
        return self.losses(frames, sample_negatives(frames.mask, self.settings["negatives"]))

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``wav2vec2_similarity``: cosines of the context of every hidden frame (rows) of the first clip with the
        targets of all of them (columns), blue -1 to red 1. A trained model has a red diagonal.
        """
        first = {"audio": batch["audio"][:1]}
        if "audio_length" in batch:
            first["audio"] = first["audio"][:, : int(batch["audio_length"][0])]
        with eval_mode(self, backbone), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            frames = self.run(backbone, first)
        c, q = (nn.functional.normalize(part.float(), dim=-1) for part in (frames.context, frames.targets))
        cosines = (c @ q.T).clamp(-1, 1).cpu()
        red, blue = cosines.clamp(min=0), (-cosines).clamp(min=0)
        picture = torch.stack([1 - blue, 1 - red - blue, 1 - red], dim=-1)
        side = max(1, 256 // len(picture))
        picture = picture.repeat_interleave(side, 0).repeat_interleave(side, 1)
        return {"wav2vec2_similarity": (picture * 255).round().to(torch.uint8).numpy()}

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        s = self.settings
        return {"codes": f"{s['groups']} x {s['entries']}", "distractors": str(s["negatives"])}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built or used."""
        counts = ("mask_length", "min_spans", "groups", "entries", "code_dim", "project_dim", "negatives")
        wrong = [key for key in counts if not isinstance(cfg[key], int) or cfg[key] < 1]
        for key in wrong:
            yield key, "must be a whole number of at least 1"
        if not wrong and cfg["code_dim"] % cfg["groups"]:
            yield "groups", f"does not divide code_dim = {cfg['code_dim']}"
        if not 0 < cfg["mask_probability"] <= 1:
            yield "mask_probability", "must lie in (0, 1]"
        if not 0 < cfg["gumbel_decay"] <= 1:
            yield "gumbel_decay", "must lie in (0, 1]"
        if not 0 <= cfg["feature_drop"] < 1:
            yield "feature_drop", "must lie in [0, 1)"
        for key in ("temperature", "gumbel_start", "gumbel_floor"):
            if not cfg[key] > 0:
                yield key, "must be positive"
        for key in ("diversity_weight", "penalty_weight"):
            if cfg[key] < 0:
                yield key, "must not be negative"
        if cfg["mask_variant"] not in VARIANTS:
            yield "mask_variant", not_among(cfg["mask_variant"], VARIANTS)
        if cfg["total"] not in VARIANTS:
            yield "total", not_among(cfg["total"], VARIANTS)


def split_public_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dict of transformers' ``Wav2Vec2ForPreTraining`` -> that of the backbone, and that of the pretext."""
    prefix = "wav2vec2."
    backbone = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    pretext = {key: value for key, value in state.items() if not key.startswith(prefix)}
    return backbone, pretext


def _apply(layer: nn.Linear, rows: Tensor) -> Tensor:
    return linear(rows[None], layer.weight, layer.bias)[0]


def _require_speech(backbone: Backbone) -> SpeechEncoder:
    if not isinstance(backbone, SpeechEncoder):
        raise ConfigError(f"Wav2Vec2 needs a SpeechEncoder, not {type(backbone).__name__}")
    return backbone
