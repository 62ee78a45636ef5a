"""CLIP's training step (both towers, loss, AdamW, clamp) against open_clip's classes, loss and torch's AdamW."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perception.layers import linear
from perception.registry import MODELS

from .harness import Contender, Step, Target, compare

BATCH = 64
MEAN, STD = (0.4032, 0.4135, 0.3725), (0.1999, 0.1758, 0.1757)
LR, BETAS, EPS, DECAY = 1e-3, (0.9, 0.98), 1e-6, 0.1
# Words per caption of RSICD: about 10.7 on average, 4 at least, 32 at most; one caption in a hundred has over 22.
WORDS_MEAN, WORDS_SPREAD, WORDS_LEAST, WORDS_MOST = 10.7, 3.6, 4, 32


@dataclass(frozen=True)
class Size:
    """Sizes of both contenders: image tower, text tower, context, words of the vocabulary."""

    image: int
    patch: int
    layers: int
    width: int
    text_layers: int
    context: int
    words: int

    @property
    def towers(self) -> dict[str, Any]:
        """open_clip's config."""
        vision = {
            "layers": self.layers,
            "width": self.width,
            "head_width": 32,
            "patch_size": self.patch,
            "image_size": self.image,
        }
        text = {"layers": self.text_layers, "width": self.width, "heads": self.width // 32}
        text |= {"context_length": self.context, "vocab_size": self.words + 3}
        return {"embed_dim": self.width, "vision_cfg": vision, "text_cfg": text}


TINY = Size(image=64, patch=16, layers=4, width=128, text_layers=1, context=24, words=758)
SMALL = Size(image=112, patch=16, layers=6, width=192, text_layers=3, context=32, words=4000)
NAMES = {"tiny": TINY, "small": SMALL}


def captions(size: Size) -> list[str]:
    """Captions of random words, as long as RSICD's."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randn(BATCH, generator=random) * WORDS_SPREAD + WORDS_MEAN
    counts = lengths.round().long().clamp(WORDS_LEAST, WORDS_MOST)
    return [" ".join(f"w{i}" for i in torch.randint(size.words, (int(n),), generator=random)) for n in counts]


def raw_images(size: Size) -> Tensor:
    """RAW uint8 images; the time of a step does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (BATCH, 3, size.image, size.image), dtype=torch.uint8, generator=random)


def decayed(parameters: list[Tensor]) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, vectors and the scale without."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def ours(size: Size, device: str) -> tuple[nn.Module, Step]:
    """The library's model as a run trains it: preprocessing of raw images and texts, ImageText, AdamW, clamp."""
    torch.manual_seed(0)
    record = {
        "type": "ImageTextPreprocess",
        "size": size.image,
        "mean": MEAN,
        "std": STD,
        "tokenizer": {
            "type": "WordTokenizer",
            "words": [f"w{i}" for i in range(size.words)],
            "context_length": size.context,
        },
    }
    backbone = {"type": "CLIP", "model": size.towers, "preprocess": record}
    config = {"type": "Pretrainer", "backbone": backbone, "pretexts": {"image_text": {"type": "ImageText"}}}
    model = MODELS.build(config).to(device).train()
    batch = {"image": raw_images(size), "text": captions(size)}
    optimizer = torch.optim.AdamW(decayed(list(model.parameters())), lr=LR, betas=BETAS, eps=EPS, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model.parse_losses(model(*model.data_preprocessor(batch, True), mode="loss"))[0]
        loss.backward()
        optimizer.step()
        model.after_step()
        return loss.detach()

    return model, step


def theirs(size: Size, device: str) -> tuple[nn.Module, Step]:
    """open_clip's ``CLIP`` and ``ClipLoss`` in the order of its training loop; texts come tokenised."""
    import open_clip
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    towers = size.towers
    model = open_clip.CLIP(
        towers["embed_dim"],
        open_clip.CLIPVisionCfg(**towers["vision_cfg"]),
        open_clip.CLIPTextCfg(**towers["text_cfg"]),
    )
    model = model.to(device).train()
    loss_of = ClipLoss()
    optimizer = torch.optim.AdamW(decayed(list(model.parameters())), lr=LR, betas=BETAS, eps=EPS)
    images, texts = raw_images(size), torch.zeros(BATCH, size.context, dtype=torch.long)
    for row, caption in zip(texts, captions(size), strict=True):
        ids = [2 + int(word[1:]) for word in caption.split()][: size.context - 1]
        row[: len(ids) + 1] = torch.tensor([*ids, size.words + 2])
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        features = model((images.to(device) / 255 - mean) / std, texts.to(device))
        loss = loss_of(*features)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.detach()

    return model, step


def ours_tiny(device: str) -> Step:
    """Ours at the size of the README's baseline."""
    return ours(TINY, device)[1]


def theirs_tiny(device: str) -> Step:
    """open_clip at the size of the README's baseline."""
    return theirs(TINY, device)[1]


def ours_small(device: str) -> Step:
    """Ours, a little larger."""
    return ours(SMALL, device)[1]


def theirs_small(device: str) -> Step:
    """open_clip, a little larger."""
    return theirs(SMALL, device)[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of the two sizes to compare, and by which matrix products."""
    parser.add_argument("--sizes", nargs="+", choices=list(NAMES), default=list(NAMES), help="default both")
    parser.add_argument(
        "--plain-matmul",
        action="store_true",
        help="multiply as torch does by itself, as on CPUs where oneDNN gains nothing",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ours at most 0.95 times open_clip, at both sizes."""
    if args.plain_matmul:
        linear._slow_mkl = lambda: False  # type: ignore[assignment]  # the rule that chooses oneDNN
    builds = {"tiny": (ours_tiny, theirs_tiny), "small": (ours_small, theirs_small)}
    contenders, targets = [], []
    for name in args.sizes:
        pair = [f"perception {name}", f"open_clip {name}"]
        contenders += [Contender(who, build) for who, build in zip(pair, builds[name], strict=True)]
        targets.append(Target(*pair, limit=0.95))
    result = compare(contenders, targets, args.rounds, args.warmup, args.threads, args.device)
    matmul = "matrix products: torch's own" if args.plain_matmul else "matrix products: see perception.layers.linear"
    result["notes"] = [matmul, *(f"batch {BATCH}, float32; {name}: {NAMES[name]}" for name in args.sizes)]
    return result
