"""The curriculum of CDFSL-V, from a labelled source to an unlabelled target.

"CDFSL-V: Cross-Domain Few-Shot Learning for Videos" (Samarasinghe et al., 2023), second stage: a student, which is the
backbone with a linear head over the C classes of the source, learns from labels of the source and, more and more, from
what its teacher says of the target:

    L = CE(student(source), label) + lambda(x) * mean_b( -sum_c q_c log softmax(student(strong))_c ),
    q = softmax(teacher(weak) / tau),   lambda(x) = arctan(10 (x - 1/2)) / pi + 1/2,   x = epoch / epochs.

``weak`` and ``strong`` are two views of a target clip. The head learns at 1 - lambda(x) of the rate
(``CurriculumRate``). The teacher follows the student as a moving average. Nothing here knows of clips: with image
backbones and views of images it is the image version of the paper's supplement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.backbones.base import Backbone
from perception.datasets.paired import PARTNER
from perception.errors import ConfigError, DataError, check_arguments, not_among
from perception.layers.linear import Linear
from perception.losses.self_distillation import entropy, teacher_targets
from perception.pretext.base import Pretext
from perception.pretext.shared import encode_together
from perception.pretext.teacher import as_teacher, follow
from perception.registry import PRETEXTS
from perception.tasks.classifier import check_labels, classification_loss
from perception.transforms.preprocess import Batch

UPDATES = ("step", "epoch")


def curriculum_weight(progress: float) -> float:
    """``lambda(x)``, x in [0, 1]: 0.0628 at 0, 0.5 at 1/2, 0.9372 at 1. The head's factor is ``1 - lambda(x)``."""
    return math.atan(10 * (progress - 0.5)) / math.pi + 0.5


def consistency_loss(student: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the student's softmax with the teacher's distributions, in float32.

    Args:
        student: (B, C) logits.
        targets: (B, C) distributions; no gradient flows into them.

    Returns:
        Scalar ``KL(targets || softmax(student)) + H(targets)``, mean over B.
    """
    return functional.cross_entropy(student.float(), targets.detach())


@PRETEXTS.register_module()
class CDFSLV(Pretext):
    """The second stage of CDFSL-V, for batches of ``Paired``: labelled samples, with unlabelled ``partner`` views.

    Args:
        num_classes: classes C of the source.
        temperature: tau of the teacher's softmax; the student has none.
        teacher_momentum: alpha of ``teacher <- alpha * teacher + (1 - alpha) * student``. Paper: 0.9; its code: 0.99.
        teacher_update: after every ``step`` (paper) or every ``epoch`` (its code).
        consistency: factor on lambda; 0 is supervised learning on the source alone, and no teacher is asked.
        curriculum: False holds lambda at 1, an ablation of the paper; leave ``CurriculumRate`` out as well then.
        feature: pooled feature that the head sees; ``None`` takes the backbone's default.

    ``forward`` gives ``supervised_loss`` and ``consistency_loss``, the latter times lambda, and for the log
    ``accuracy`` on the source, ``curriculum`` (lambda) and ``teacher_entropy`` in nats: near ln C the teacher tells
    nothing apart, near 0 it is sure.
    """

    head: nn.Linear
    teacher: nn.ModuleDict

    def __init__(
        self,
        num_classes: int,
        temperature: float = 0.1,
        teacher_momentum: float = 0.9,
        teacher_update: str = "step",
        consistency: float = 1.0,
        curriculum: bool = True,
        feature: str | None = None,
    ) -> None:
        check_arguments("model.pretexts.cdfsl_v", self.check_config, locals())
        super().__init__()
        self.num_classes = num_classes
        self.temperature = temperature
        self.teacher_momentum, self.teacher_update = teacher_momentum, teacher_update
        self.consistency, self.curriculum = consistency, curriculum
        self.feature = feature
        self.epoch_length: int | None = None
        self.step = 0
        self.weight = self._weight(0.0)

    def attach(self, backbone: Backbone) -> None:
        """Build the head, and the teacher as a copy of the backbone and the head."""
        self.head = Linear(backbone.feature_dims(self.feature), self.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        parts = {"backbone": backbone.teacher_copy(), "head": Linear(self.head.in_features, self.num_classes)}
        parts["head"].load_state_dict(self.head.state_dict())
        self.teacher = as_teacher(nn.ModuleDict(parts))
        for part in backbone.unused_parts(self.feature):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> CDFSLV:
        """As torch's, but the teacher stays in eval mode: its targets are drawn without dropout."""
        super().train(mode)
        if hasattr(self, "teacher"):
            self.teacher.eval()
        return self

    def before_training(self, epoch_length: int, total_steps: int) -> None:
        """Steps of an epoch: the curriculum and ``teacher_update='epoch'`` go by epochs."""
        self.epoch_length = epoch_length

    def before_step(self, step: int, total_steps: int) -> None:
        """Set lambda for the epoch that ``step`` lies in.

        Raises:
            ConfigError: nobody has told how long an epoch is.
        """
        if self.epoch_length is None:
            raise ConfigError("CDFSLV needs before_training(epoch_length, total_steps) first")
        self.step = step
        self.weight = self._weight(step // self.epoch_length / math.ceil(total_steps / self.epoch_length))

    def _weight(self, progress: float) -> float:
        return self.consistency * (curriculum_weight(progress) if self.curriculum else 1.0)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Losses of a preprocessed batch: see the class.

        Raises:
            DataError: there are no labels, or one is out of range; there is no ``partner`` of two views.
        """
        source = batch[backbone.modality]
        if "label" not in batch:
            raise DataError(f"CDFSLV learns from labels of the source, but the batch holds only {sorted(batch)}")
        check_labels(batch, self.num_classes)
        if not self.consistency:
            found = classification_loss(self.head(backbone.encode(batch, self.feature)), batch["label"])
            return {"supervised_loss": found["loss"], "accuracy": found["accuracy"]}

        weak, strong = two_views(batch)
        # One pass of the student over both streams where their clips are of one shape.
        groups = [[source, strong]] if source.shape == strong.shape else [[source], [strong]]
        features = torch.cat([encode_together(backbone, group, self.feature).flatten(0, 1) for group in groups])
        on_source, on_target = self.head(features).split([len(source), len(strong)])
        found = classification_loss(on_source, batch["label"])

        with torch.no_grad():
            q = teacher_targets(self.teacher_logits(weak), 0.0, self.temperature)
        return {
            "supervised_loss": found["loss"],
            "consistency_loss": self.weight * consistency_loss(on_target, q),
            "accuracy": found["accuracy"],
            "curriculum": torch.tensor(self.weight),
            "teacher_entropy": entropy(q),
        }

    def teacher_logits(self, clips: Tensor) -> Tensor:
        """(B, C) of preprocessed samples, without the temperature."""
        backbone: Any = self.teacher["backbone"]
        return self.teacher["head"](encode_together(backbone, [clips], self.feature)[0])

    def after_step(self, backbone: Backbone) -> None:
        """Move the teacher towards the student, where it is time. Buffers of the backbone are taken over as they are.

        Raises:
            ConfigError: nobody has told how long an epoch is.
        """
        if self.teacher_update == "epoch":
            if self.epoch_length is None:
                raise ConfigError("CDFSLV needs before_training(epoch_length, total_steps) first")
            if (self.step + 1) % self.epoch_length:
                return
        follow(self.teacher["backbone"], backbone, self.teacher_momentum)
        follow(self.teacher["head"], self.head, self.teacher_momentum)

    def describe(self) -> dict[str, str]:
        """Sizes that a dry run prints."""
        count = sum(b.numel() for b in self.teacher.buffers())
        return {"classes": str(self.num_classes), "teacher": f"{count / 1e6:.1f} M weights that follow the student"}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        if not isinstance(cfg["num_classes"], int) or cfg["num_classes"] < 2:
            yield "num_classes", "needs a whole number of at least 2"
        if not cfg["temperature"] > 0:
            yield "temperature", "must be positive"
        if not 0 <= cfg["teacher_momentum"] <= 1:
            yield "teacher_momentum", "must lie in [0, 1]"
        if cfg["teacher_update"] not in UPDATES:
            yield "teacher_update", not_among(cfg["teacher_update"], UPDATES)
        if cfg["consistency"] < 0:
            yield "consistency", "must not be negative"


def two_views(batch: Batch) -> tuple[Tensor, Tensor]:
    """Weak and strong views of a batch's ``partner``.

    Raises:
        DataError: there is no partner, or it has another number of views.
    """
    if PARTNER not in batch:
        raise DataError("CDFSLV needs the unlabelled target beside the source: let the data set be Paired")
    views = batch[PARTNER].get("views")
    if views is None or len(views) != 2:
        count = "no views" if views is None else f"{len(views)} views"
        raise DataError(
            f"CDFSLV needs a weak and a strong view of the target, in this order, and finds {count}: give the second "
            "data set of Paired ClipViews with two views"
        )
    return views[0], views[1]
