"""Linear probe by gradient descent on cached features, with the recipes of public libraries by name.

Features are extracted once, so the augmentation of the originals (crops and flips during the probe) is absent: figures
of the recipes marked so are a little below those with augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import nearest
from perception.evaluation.lars import LARS
from perception.evaluation.protocol import (
    EvaluationError,
    Features,
    Outcome,
    Protocol,
    Splits,
    accuracy,
    as_list,
    choose,
    positive,
)
from perception.registry import PROTOCOLS


@dataclass(frozen=True)
class Recipe:
    """How a head is trained.

    Attributes:
        optimiser: ``sgd``, ``nesterov``, ``lars`` or ``adam``.
        lr: learning rate at ``batch`` samples, or per 256 samples if ``lr_per_256``.
        weight_decay: L2 penalty.
        batch: samples per step; never more than there are.
        epochs: length, unless ``iterations`` is given.
        iterations: length in steps.
        schedule: ``cosine`` (per step), ``cosine_epoch``, ``exponential`` (per epoch down to 1e-6) or ``steps`` (x 0.1
            at 60 % and 80 %).
        warmup: epochs of linear warm-up from 0.
        init_std: deviation of the initial weights, bias 0; ``None`` keeps torch's own.
        truncated: draw the initial weights from a truncated normal.
        batch_norm: batch normalisation without affine part (eps 1e-6) before the head.
    """

    optimiser: str
    lr: float
    weight_decay: float
    batch: int
    epochs: int
    schedule: str
    iterations: int | None = None
    lr_per_256: bool = False
    warmup: int = 0
    init_std: float | None = None
    truncated: bool = False
    batch_norm: bool = False


RECIPES: dict[str, Recipe] = {
    # "A Simple Framework for Contrastive Learning", 2020, appendix B.6; original with crops and flips.
    "simclr": Recipe("nesterov", 0.1, 0.0, 4096, 90, "cosine", lr_per_256=True),
    # "Barlow Twins", 2021, ResNet-50 on ImageNet; original with crops and flips.
    "barlow": Recipe("sgd", 0.3, 1e-6, 256, 100, "cosine_epoch", init_std=0.01),
    # "Masked Autoencoders Are Scalable Vision Learners", 2022; original with crops and flips.
    "mae": Recipe(
        "lars", 0.1, 0.0, 16384, 90, "cosine", lr_per_256=True, warmup=10, init_std=0.01, truncated=True,
        batch_norm=True,
    ),
    # Small images (mix-bt); original with the training augmentation.
    "small": Recipe("adam", 1e-2, 5e-6, 512, 200, "exponential"),
    # Transfer data sets (mix-bt); original without augmentation.
    "transfer": Recipe("sgd", 0.01, 0.0, 128, 100, "steps"),
    # KRR-ST; original on cached features.
    "krr-st": Recipe("sgd", 0.2, 0.0, 512, 0, "cosine", iterations=5000),
}  # fmt: skip


def build_head(recipe: Recipe, width: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    """Head of a recipe, drawn from ``generator`` so that the global random state stays as it is."""
    linear = nn.utils.skip_init(nn.Linear, width, classes)
    with torch.no_grad():
        if recipe.init_std is None:
            bound = 1 / math.sqrt(width)  # torch's own initialisation of nn.Linear
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        else:
            if recipe.truncated:
                nn.init.trunc_normal_(linear.weight, std=recipe.init_std, generator=generator)
            else:
                linear.weight.normal_(0, recipe.init_std, generator=generator)
            linear.bias.zero_()
    layers: list[nn.Module] = [linear]
    if recipe.batch_norm:
        layers.insert(0, nn.BatchNorm1d(width, affine=False, eps=1e-6))
    return nn.Sequential(*layers)


def build_optimiser(recipe: Recipe, head: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Optimiser of a recipe."""
    if recipe.optimiser == "lars":
        return LARS(head.parameters(), lr, 0.9, recipe.weight_decay)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(head.parameters(), lr, weight_decay=recipe.weight_decay)
    nesterov = recipe.optimiser == "nesterov"
    return torch.optim.SGD(head.parameters(), lr, 0.9, weight_decay=recipe.weight_decay, nesterov=nesterov)


def scale_at(recipe: Recipe, step: int, steps: int, per_epoch: int) -> float:
    """Factor on the learning rate at ``step`` of ``steps``."""
    epoch = step // per_epoch
    epochs = max(1, math.ceil(steps / per_epoch))
    warmup = recipe.warmup * per_epoch
    if step < warmup:
        return step / warmup
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    if recipe.schedule == "cosine_epoch":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if recipe.schedule == "exponential":
        return (1e-6 / recipe.lr) ** (epoch / max(1, epochs - 1))
    return 0.1 ** ((epoch >= 0.6 * epochs) + (epoch >= 0.8 * epochs))


def train_head(recipe: Recipe, data: Features, classes: int, seed: int) -> nn.Sequential:
    """Train a head on features and give it back in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    head = build_head(recipe, data.x.shape[1], classes, generator).to(data.x.device)
    batch = min(recipe.batch, len(data))
    per_epoch = max(1, len(data) // batch)  # the ragged last batch is dropped, as the originals do
    steps = recipe.iterations or recipe.epochs * per_epoch
    lr = recipe.lr * (batch / 256 if recipe.lr_per_256 else 1.0)
    optimiser = build_optimiser(recipe, head, lr)
    head.train()
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(data), generator=generator)
            start = step % per_epoch * batch
            rows = order[start : start + batch].to(data.x.device)
            for group in optimiser.param_groups:
                group["lr"] = lr * scale_at(recipe, step, steps, per_epoch)
            loss = nn.functional.cross_entropy(head(data.x[rows]), data.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return head.eval()


@torch.no_grad()
def head_accuracy(head: nn.Module, data: Features) -> float:
    """Accuracy of a head in eval mode."""
    predicted: Tensor = torch.cat([head(part).argmax(1) for part in data.x.split(65536)])
    return accuracy(predicted, data.y)


@PROTOCOLS.register_module()
class LinearSGD(Protocol):
    """Accuracy of a linear head trained by a named recipe, at the last step.

    Args:
        recipe: one of ``RECIPES``.
        lr: replaces the recipe's learning rate; of several values the best on the validation split is used.
        weight_decay: replaces the recipe's.
        epochs: replaces the recipe's length.
        batch: replaces the recipe's batch size.
    """

    chosen_on_val = ("lr",)

    def __init__(
        self,
        recipe: str = "barlow",
        lr: float | Sequence[float] | None = None,
        weight_decay: float | None = None,
        epochs: int | None = None,
        batch: int | None = None,
    ) -> None:
        if recipe not in RECIPES:
            raise EvaluationError(f"no linear recipe {recipe!r}; there are {', '.join(RECIPES)}")
        base = RECIPES[recipe]
        if weight_decay is not None:
            base = replace(base, weight_decay=weight_decay)
        if epochs is not None:
            base = replace(base, epochs=epochs, iterations=None)
        if batch is not None:
            base = replace(base, batch=batch)
        self.name = recipe
        self.recipes = [replace(base, lr=value) for value in as_list(lr)] or [base]

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """The recipe's name and positive numbers."""
        name = str(cfg.get("recipe", "barlow"))
        if name not in RECIPES:
            close = nearest(name, RECIPES)
            yield "recipe", f"must be one of {', '.join(RECIPES)}" + (f"; did you mean {close[0]!r}?" if close else "")
        yield from positive(cfg, "lr", "epochs", "batch")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Accuracy on the test split."""
        train, test = data.need("train", "LinearSGD"), data.need("test", "LinearSGD")
        classes = data.classes()
        chosen: dict[str, Any] = {}
        recipe = self.recipes[0]
        if len(self.recipes) > 1:
            val = data.need("val", "LinearSGD with several learning rates")
            recipe, scores = choose(self.recipes, lambda r: head_accuracy(train_head(r, train, classes, seed), val))
            chosen = {"lr": recipe.lr, "val_accuracy": max(scores)}
        value = head_accuracy(train_head(recipe, train, classes, seed), test)
        settings = {"recipe": self.name, **asdict(recipe)}
        return [Outcome("accuracy", value, len(test), chosen, settings=settings)]
