"""Self-distillation of local to global views, with a teacher that follows the student.

The objective is DINO's ("Emerging Properties in Self-Supervised Vision Transformers", Caron et al., 2021), used beside
an image-text loss as in SILC ("SILC: Improving Vision Language Pretraining with Self-Distillation", Naeem et al., 2023)
and RS-M-CLIP ("Multilingual Vision-Language Pre-training for the Remote Sensing Domain", Silva et al., 2024): the
student sees all views, the teacher the global ones, and every view of the student has to name the prototype that the
teacher names for every other view. ``perception.losses.self_distillation`` has the formula.

Against DINO, the teacher's momentum is fixed: one that rises to 1 would stop the teacher from learning from the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.errors import ConfigError, check_arguments
from perception.layers.linear import Linear, linear
from perception.losses.self_distillation import entropy, teacher_targets, update_centre, view_cross_entropy
from perception.pretext.base import Pretext
from perception.pretext.pictures import colour, enlarge, principal_colours, three_band, tile
from perception.pretext.shared import encode_together, encode_views, views_of
from perception.pretext.teacher import as_teacher, follow
from perception.registry import PRETEXTS
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.preprocess import Batch

_WARMUP_SHARE = 0.3  # of a run whose config states no warm-up: 30 of 100 epochs in DINO


class PrototypeHead(nn.Module):
    """DINO's head: three layers with GELU between, L2 norm, cosines with prototypes. Keys are those of its public code.

    Args:
        dim: width D of the features.
        prototypes: number K of prototypes.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: width in which features and prototypes are compared.
        norm_last_layer: prototypes of length 1; else each has a learned length.
    """

    def __init__(
        self, dim: int, prototypes: int, hidden_dim: int = 2048, bottleneck_dim: int = 256, norm_last_layer: bool = True
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(dim, hidden_dim),
            nn.GELU(),
            Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            Linear(hidden_dim, bottleneck_dim),
        )
        self.last_layer = _WeightNormed(bottleneck_dim, prototypes, norm_last_layer)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> logits (..., K)."""
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class _WeightNormed(nn.Module):
    """Linear map without bias whose rows are ``g_k v_k / |v_k|``; g is 1 and stays so with ``fixed``."""

    def __init__(self, dim: int, rows: int, fixed: bool) -> None:
        super().__init__()
        bound = dim**-0.5  # nn.Linear's
        self.weight_v = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.weight_g: Tensor
        lengths = torch.ones(rows, 1)
        if fixed:
            self.register_buffer("weight_g", lengths)
        else:
            self.weight_g = nn.Parameter(lengths)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., rows)."""
        return linear(x, F.normalize(self.weight_v, dim=1) * self.weight_g)


@PRETEXTS.register_module()
class SelfDistillation(Pretext):
    """DINO on any image backbone, for batches with views (``MultiCrop``).

    Args:
        prototypes: number K of prototypes. 65,536 is for ImageNet; small data sets want hundreds to thousands.
        hidden_dim: width of the head's hidden layers.
        bottleneck_dim: width in which the head compares with prototypes.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's: (at the start, after the warm-up), linear between.
        warmup_epochs: length of that warm-up; fractions are allowed.
        warmup_steps: the same in steps; one of the two. Neither: the first 30 % of the run.
        momentum: of the teacher's weights, for every update.
        centre_momentum: of the running mean of the teacher's logits.
        feature: pooled feature of the backbone that the head sees; ``None`` takes its default.
        norm_last_layer: prototypes of length 1, which is steadier; else each has a learned length.
        picture_count: rows of the picture.

    ``forward`` gives ``loss`` and, for the log, ``teacher_entropy`` in nats: near ln K nothing is told apart, near 0
    with a loss near 0 everything is one prototype.
    """

    head: PrototypeHead
    teacher: nn.ModuleDict
    centre: Tensor

    def __init__(
        self,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        student_temperature: float = 0.1,
        teacher_temperature: Sequence[float] = (0.04, 0.07),
        warmup_epochs: float | None = None,
        warmup_steps: int | None = None,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        feature: str | None = None,
        norm_last_layer: bool = True,
        picture_count: int = 8,
    ) -> None:
        check_arguments("model.pretexts.self_distillation", self.check_config, locals())
        super().__init__()
        self.sizes = (prototypes, hidden_dim, bottleneck_dim, norm_last_layer)
        self.student_temperature = student_temperature
        self.temperatures = (float(teacher_temperature[0]), float(teacher_temperature[1]))
        self.teacher_temperature = self.temperatures[0]
        self.warmup_epochs, self.warmup_steps = warmup_epochs, warmup_steps
        self.epoch_length: int | None = None
        self.momentum = momentum
        self.centre_momentum = centre_momentum
        self.feature = feature
        self.picture_count = picture_count
        self.seen: Tensor | None = None  # sum over the teacher's logits since the last update, and how many
        self.seen_rows = 0

    def attach(self, backbone: Backbone) -> None:
        """Build the head for the width of the feature, and the teacher as a copy of the backbone and the head."""
        prototypes, hidden_dim, bottleneck_dim, norm_last_layer = self.sizes
        dim = backbone.feature_dims(self.feature)
        self.head = PrototypeHead(dim, prototypes, hidden_dim, bottleneck_dim, norm_last_layer)
        self.teacher = as_teacher(nn.ModuleDict({"backbone": backbone.teacher_copy(), "head": deepcopy(self.head)}))
        self.register_buffer("centre", torch.zeros(prototypes))

    def train(self, mode: bool = True) -> SelfDistillation:
        """As torch's, but the teacher stays in eval mode: its targets are drawn without dropout.

        In training its batch norms take the statistics of the batch, as DINO's do: the running ones are those of the
        student's weights and do not fit averaged ones. On small data that is the difference between learning and not.
        """
        super().train(mode)
        if hasattr(self, "teacher"):
            self.teacher.eval()
            for part in self.teacher.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.train(mode)
        return self

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``teacher_entropy`` of ``batch['views']``, a list of normalised (B, C, H, W), globals first."""
        views_of(batch, "all")  # says what is missing
        student = self.head(encode_views(backbone, batch, self.feature, "all"))  # (V, B, K)
        with torch.no_grad():
            teacher = self.teacher_logits(views_of(batch, "globals"))  # (G, B, K)
            targets = teacher_targets(teacher, self.centre, self.teacher_temperature)
            if self.training:
                self._remember(teacher)
            spread = entropy(targets)
        return {"loss": view_cross_entropy(student, targets, self.student_temperature), "teacher_entropy": spread}

    def teacher_logits(self, views: Sequence[Tensor]) -> Tensor:
        """(G, B, K) of views (B, C, H, W) of one size."""
        backbone: Any = self.teacher["backbone"]
        return self.teacher["head"](encode_together(backbone, views, self.feature))

    def before_training(self, epoch_length: int, total_steps: int) -> None:
        """Steps of an epoch, for ``warmup_epochs``."""
        self.epoch_length = epoch_length

    def before_step(self, step: int, total_steps: int) -> None:
        """Temperature of the teacher at ``step``.

        Raises:
            ConfigError: the warm-up is in epochs, and nobody has told how long one is.
        """
        start, end = self.temperatures
        warmup = self._warmup_steps(total_steps)
        self.teacher_temperature = start + (end - start) * (min(step / warmup, 1.0) if warmup > 0 else 1.0)

    def _warmup_steps(self, total_steps: int) -> float:
        if self.warmup_steps is not None:
            return self.warmup_steps
        if self.warmup_epochs is None:
            return _WARMUP_SHARE * total_steps
        if self.epoch_length is None:
            raise ConfigError("SelfDistillation.warmup_epochs needs before_training(epoch_length, total_steps) first")
        return self.warmup_epochs * self.epoch_length

    def after_step(self, backbone: Backbone) -> None:
        """Move the teacher towards the student, and the centre towards the mean of the teacher's logits."""
        follow(self.teacher["backbone"], backbone, self.momentum)
        follow(self.teacher["head"], self.head, self.momentum)
        self._move_centre()

    def _remember(self, teacher: Tensor) -> None:
        """Add logits to what the centre moves towards once the update is made; several batches may come before it."""
        total = teacher.flatten(0, 1).sum(dim=0, dtype=self.centre.dtype)
        self.seen = total if self.seen is None else self.seen.add_(total)
        self.seen_rows += teacher.shape[0] * teacher.shape[1]

    def _move_centre(self) -> None:
        if self.seen is None:
            return
        total, rows = self.seen, self.seen_rows
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
            rows *= dist.get_world_size()  # ranks hold batches of one size
        update_centre(self.centre, total / rows, self.centre_momentum)
        self.seen, self.seen_rows = None, 0

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``self_distillation_features``: rows of image, features of the teacher's patches, likeness to the centre.

        Second column: the first three principal components of the features of all patches of the picture as red, green
        and blue, so that alike things have like colours. Third: the cosine with the patch in the middle of the image,
        from dark blue (the lowest of the picture) to yellow (1).
        """
        record = backbone.preprocess
        images = batch["image"][: self.picture_count]
        teacher: Any = self.teacher["backbone"]
        maps = teacher(images)[-1:]
        if not maps or not isinstance(record, ImagePreprocess):
            return {}
        features = maps[0].float()
        size = (int(images.shape[-2]), int(images.shape[-1]))
        unit = F.normalize(features, dim=1)
        rows, columns = unit.shape[-2:]
        likeness = torch.einsum("ndhw,nd->nhw", unit, unit[:, :, rows // 2, columns // 2])
        colours = enlarge(torch.from_numpy(principal_colours(features)), size).round().byte().numpy()
        heat = colour(enlarge(likeness[:, None], size)[:, 0].cpu().numpy(), high=1.0).transpose(0, 3, 1, 2)
        shown = three_band(record.denormalize(images).cpu().numpy())
        return {"self_distillation_features": tile(np.stack([shown, colours, heat], axis=1))}

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        count = sum(b.numel() for b in self.teacher.buffers())
        return {"prototypes": f"{self.sizes[0]:,}", "teacher": f"{count / 1e6:.1f} M weights that follow the student"}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        for key, least in (("prototypes", 2), ("hidden_dim", 1), ("bottleneck_dim", 1), ("picture_count", 1)):
            if not isinstance(cfg[key], int) or cfg[key] < least:
                yield key, f"must be a whole number of at least {least}"
        if not cfg["student_temperature"] > 0:
            yield "student_temperature", "must be positive"
        temperatures = cfg["teacher_temperature"]
        if not (isinstance(temperatures, (list, tuple)) and len(temperatures) == 2 and min(temperatures) > 0):
            yield "teacher_temperature", "must be a pair of positive numbers: at the start, after the warm-up"
        if cfg["warmup_epochs"] is not None and cfg["warmup_steps"] is not None:
            yield "warmup_steps", "give it or warmup_epochs, not both"
        for key in ("warmup_epochs", "warmup_steps"):
            if cfg[key] is not None and cfg[key] < 0:
                yield key, "must not be negative"
        if not 0 <= cfg["momentum"] <= 1:
            yield "momentum", "must lie in [0, 1]"
        if not 0 <= cfg["centre_momentum"] <= 1:
            yield "centre_momentum", "must lie in [0, 1]"
