"""wav2vec 2.0's training step against transformers' Wav2Vec2ForPreTraining at equal tiny sizes, both kinds of norm."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from perception.registry import MODELS

from .harness import Contender, Step, Target, compare, training_step

BATCH, SAMPLES, FRAMES, NEGATIVES = 8, 16000, 49, 50
CHANNELS, WIDTH, DEPTH, HEADS, HIDDEN = 128, 128, 4, 4, 512
ENTRIES, CODES, POSITIONS, GROUPS = 160, 128, 64, 8
DROP = 0.1
NORMS = ("group", "layer")


def raw_clips() -> Tensor:
    """Random clips of 1 s at 16 kHz; the time of a step does not depend on what they say."""
    return torch.randn(BATCH, SAMPLES, generator=torch.Generator().manual_seed(0)) * 0.1


def library_config(norm: str) -> dict[str, Any]:
    """Our model."""
    backbone = {
        "type": "SpeechEncoder",
        "preset": None,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "ffn_dim": HIDDEN,
        "norm": norm,
        "conv_gradient": 1.0,
        "conv_dim": CHANNELS,
        "pos_kernel": POSITIONS,
        "pos_groups": GROUPS,
        "drop_rate": DROP,
        "preprocess": {"type": "SpeechPreprocess"},
    }
    pretext = {
        "type": "Wav2Vec2",
        "entries": ENTRIES,
        "code_dim": CODES,
        "project_dim": CODES,
        "negatives": NEGATIVES,
        "feature_drop": 0.0,
        "mask_variant": "transformers",
        "total": "transformers",
    }
    return {"type": "Pretrainer", "backbone": backbone, "pretexts": {"wav2vec2": pretext}}


def ours(norm: str, device: str) -> Step:
    """Preprocessing, mask, negatives, forward, backward, AdamW."""
    torch.manual_seed(0)
    model = MODELS.build(library_config(norm)).to(device).train()
    batch = {"audio": raw_clips(), "sample_rate": 16000, "audio_length": torch.full((BATCH,), SAMPLES)}

    def loss() -> Tensor:
        return model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))[0]

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def transformers_model(norm: str) -> Any:
    """Wav2Vec2ForPreTraining of the same sizes."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    config = Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        conv_dim=(CHANNELS,) * 7,
        conv_bias=norm == "layer",
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=POSITIONS,
        num_conv_pos_embedding_groups=GROUPS,
        num_codevectors_per_group=ENTRIES,
        codevector_dim=CODES,
        proj_codevector_dim=CODES,
        num_negatives=NEGATIVES,
        hidden_dropout=DROP,
        attention_dropout=DROP,
        feat_proj_dropout=DROP,
        activation_dropout=0.0,
        layerdrop=0.0,
        feat_quantizer_dropout=0.0,
    )
    return Wav2Vec2ForPreTraining(config)


def theirs(norm: str, device: str) -> Step:
    """The same step with transformers' mask, negatives and model."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    torch.manual_seed(0)
    model = transformers_model(norm).to(device).train()
    clips = raw_clips()

    def loss() -> Tensor:
        mask = _compute_mask_indices((BATCH, FRAMES), 0.65, 10, min_masks=2)
        negatives = _sample_negative_indices((BATCH, FRAMES), NEGATIVES, mask)
        hidden = torch.from_numpy(mask).to(device)
        chosen = torch.from_numpy(negatives).to(device)
        return model(clips.to(device), mask_time_indices=hidden, sampled_negative_indices=chosen).loss / hidden.sum()

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def ours_group(device: str) -> Step:
    """Ours, group norm."""
    return ours("group", device)


def ours_layer(device: str) -> Step:
    """Ours, layer norm."""
    return ours("layer", device)


def theirs_group(device: str) -> Step:
    """transformers, group norm."""
    return theirs("group", device)


def theirs_layer(device: str) -> Step:
    """transformers, layer norm."""
    return theirs("layer", device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which kinds of norm to compare."""
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS), help="default both")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most 0.85 times transformers', for both kinds of norm."""
    builds = {"group": (ours_group, theirs_group), "layer": (ours_layer, theirs_layer)}
    contenders, targets = [], []
    for norm in args.norms:
        pair = [f"perception {norm}", f"transformers {norm}"]
        contenders += [Contender(who, build) for who, build in zip(pair, builds[norm], strict=True)]
        targets.append(Target(*pair, limit=0.85))
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = [
        f"batch {BATCH} x {SAMPLES / 16000:g} s, float32, convolutions 7 x {CHANNELS}, {WIDTH} x {DEPTH}, "
        f"{HEADS} heads, feed-forward {HIDDEN}, 2 x {ENTRIES} codes, {NEGATIVES} distractors"
    ]
    return result
