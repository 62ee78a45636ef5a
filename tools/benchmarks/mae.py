"""MAE's step: against the dense classification step of the same encoder, and against lightly's MAE at equal sizes."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from perception.registry import MODELS

from .harness import Contender, Step, Target, compare, training_step

SIZE, PATCH, WIDTH, DEPTH, HEADS = 32, 4, 192, 6, 3
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 96, 1, 3
RATIO, CLASSES, BATCH = 0.75, 10, 64
NAMES = ("perception MAE", "dense classification", "lightly MAE")
HOW_TO_GET_LIGHTLY = "lightly is not installed: pip install 'perception-lab[bench]' adds the comparison with it"


def backbone() -> dict[str, Any]:
    """The encoder that all contenders share in size."""
    record = {"type": "ImagePreprocess", "size": (SIZE, SIZE)}
    return {
        "type": "ViT",
        "image_size": SIZE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "preprocess": record,
    }


def raw_images() -> dict[str, Tensor]:
    """RAW batch of random images; the time of a step does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    image = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=random)
    return {"image": image, "label": torch.arange(BATCH) % CLASSES, "index": torch.arange(BATCH)}


def library_step(config: dict[str, Any], device: str) -> Step:
    """Training step of one of the library's models, its data preprocessor included."""
    torch.manual_seed(0)
    model = MODELS.build(config).to(device).train()
    batch = raw_images()

    def loss() -> Tensor:
        return model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))[0]

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def build_mae(device: str) -> Step:
    """Our masked autoencoder."""
    pretext = {
        "type": "MAE",
        "mask_ratio": RATIO,
        "decoder_dim": DECODER_WIDTH,
        "decoder_depth": DECODER_DEPTH,
        "decoder_num_heads": DECODER_HEADS,
    }
    return library_step({"type": "Pretrainer", "backbone": backbone(), "pretexts": {"mae": pretext}}, device)


def build_dense(device: str) -> Step:
    """The same encoder classifying whole images."""
    return library_step({"type": "Classifier", "backbone": backbone(), "num_classes": CLASSES}, device)


class LightlyMAE(nn.Module):
    """lightly's modules put together as its documentation shows, with normalised targets as ours."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        self.utils = utils
        vit = VisionTransformer(
            img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0
        )
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1.6 announces a new name for the decoder, which 1.5 does not have
            self.decoder = MAEDecoderTIMM(
                num_patches=vit.patch_embed.num_patches,
                patch_size=PATCH,
                embed_dim=WIDTH,
                decoder_embed_dim=DECODER_WIDTH,
                decoder_depth=DECODER_DEPTH,
                decoder_num_heads=DECODER_HEADS,
            )

    def forward(self, images: Tensor) -> Tensor:
        """Loss of normalised images ``(B, 3, H, W)``."""
        utils, length = self.utils, self.backbone.sequence_length
        keep, masked = utils.random_token_mask((len(images), length), mask_ratio=RATIO, device=images.device)
        visible = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        tokens = utils.set_at_index(tokens, keep, visible.type_as(tokens))
        found = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), masked))
        target = utils.get_at_index(utils.patchify(images, PATCH), masked - 1)  # patches have no class token
        return nn.functional.mse_loss(found, utils.normalize_mean_var(target))


def build_lightly(device: str) -> Step:
    """Lightly's masked autoencoder on images that are normalised within the step, as ours are."""
    torch.manual_seed(0)
    model = LightlyMAE().to(device).train()
    images = raw_images()["image"]
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def loss() -> Tensor:
        return model((images.to(device) / 255 - mean) / std)

    return training_step(loss, [p for p in model.parameters() if p.requires_grad])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: the sizes are the ones that the targets are set for."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most 0.40 times the dense step and 0.9 times lightly's."""
    contenders = [Contender(NAMES[0], build_mae), Contender(NAMES[1], build_dense)]
    targets = [Target(NAMES[0], NAMES[1], limit=0.40)]
    notes = [f"batch {BATCH}, {SIZE} px, patch {PATCH}, {WIDTH} x {DEPTH}, decoder {DECODER_WIDTH} x {DECODER_DEPTH}"]
    try:
        import lightly  # noqa: F401 - only whether it is there

        contenders.append(Contender(NAMES[2], build_lightly))
        targets += [Target(NAMES[0], NAMES[2], limit=0.9)]
    except ImportError:
        notes.append(HOW_TO_GET_LIGHTLY)
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    result["notes"] = notes
    return result
