"""VideoMAE's step: against transformers' VideoMAEForPreTraining and the dense classification step at equal sizes."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from perception.layers.video_masks import mask_cubes
from perception.registry import MODELS

from .harness import Contender, Step, Target, compare, training_step

SIZE, FRAMES, PATCH, TUBELET = 64, 8, 8, 2
WIDTH, DEPTH, HEADS = 192, 6, 3  # of the small real experiments
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 96, 2, 3
RATIO, CLASSES, BATCH = 0.9, 10, 16
GRID = (FRAMES // TUBELET, SIZE // PATCH, SIZE // PATCH)
NAMES = ("perception VideoMAE", "dense classification", "transformers VideoMAEForPreTraining")


def backbone() -> dict[str, Any]:
    """The encoder that all contenders share in size."""
    return {
        "type": "VideoViT",
        "image_size": SIZE,
        "frames": FRAMES,
        "patch_size": PATCH,
        "tubelet": TUBELET,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
    }


def raw_clips() -> dict[str, Tensor]:
    """RAW batch of random clips; the time of a step does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (BATCH, 3, FRAMES, SIZE, SIZE), dtype=torch.uint8, generator=random)
    return {"video": clips, "label": torch.arange(BATCH) % CLASSES, "index": torch.arange(BATCH)}


def library_step(config: dict[str, Any], device: str) -> Step:
    """Training step of one of the library's models, its data preprocessor included."""
    torch.manual_seed(0)
    model = MODELS.build(config).to(device).train()
    batch = raw_clips()

    def loss() -> Tensor:
        return model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))[0]

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def build_ours(device: str) -> Step:
    """Our masked autoencoder."""
    pretext = {
        "type": "VideoMAE",
        "mask_ratio": RATIO,
        "decoder_dim": DECODER_WIDTH,
        "decoder_depth": DECODER_DEPTH,
        "decoder_num_heads": DECODER_HEADS,
    }
    return library_step({"type": "Pretrainer", "backbone": backbone(), "pretexts": {"video_mae": pretext}}, device)


def build_dense(device: str) -> Step:
    """The same encoder classifying whole clips, as in fine-tuning."""
    model = {"type": "Classifier", "backbone": backbone(), "num_classes": CLASSES, "feature": "mean", "norm": "layer"}
    return library_step(model, device)


def transformers_model() -> Any:
    """VideoMAEForPreTraining of the same sizes."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=PATCH,
        num_frames=FRAMES,
        tubelet_size=TUBELET,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        use_mean_pooling=False,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=4 * DECODER_WIDTH,
    )
    return VideoMAEForPreTraining(config)


def build_transformers(device: str) -> Step:
    """Theirs on clips that are normalised within the step and masked by tubes, as ours are."""
    torch.manual_seed(0)
    model = transformers_model().to(device).train()
    clips = raw_clips()["video"].transpose(1, 2)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)
    length = GRID[0] * GRID[1] * GRID[2]

    def loss() -> Tensor:
        mask = mask_cubes("tube", torch.rand(BATCH, length, device=device), GRID, RATIO).mask
        return model((clips.to(device) / 255 - mean) / std, bool_masked_pos=mask).loss

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: the sizes are the ones that the targets are set for."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most 0.30 times the dense step and 0.85 times transformers'."""
    builds = (build_ours, build_dense, build_transformers)
    contenders = [Contender(name, build) for name, build in zip(NAMES, builds, strict=True)]
    targets = [Target(NAMES[0], NAMES[1], limit=0.30), Target(NAMES[0], NAMES[2], limit=0.85)]
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = [
        f"batch {BATCH}, {FRAMES} frames of {SIZE} px, cubes {TUBELET} x {PATCH} x {PATCH}, {WIDTH} x {DEPTH}, "
        f"decoder {DECODER_WIDTH} x {DECODER_DEPTH}, tubes at {RATIO}"
    ]
    return result
