r"""Self-distillation without labels ("Emerging Properties in Self-Supervised Vision Transformers", Caron et al., 2021).

With student logits :math:`z^v` of views v = 1..V and teacher logits :math:`y^u` of the first G views,

.. math::
    p^u = softmax((y^u - c) / \tau_t), \quad
    L = \frac{1}{G (V - 1)} \sum_{u \le G} \sum_{v \ne u}
        mean_B \left( -\sum_k p^u_k \log softmax(z^v / \tau_s)_k \right).

Since :math:`\sum_k p^u_k = 1`, the double sum over views is one over single views: of every student view only its
log-sum-exp and its product with the sum of the teachers are needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def self_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor | float = 0.0,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of every student view with every other view's teacher.

    Args:
        student: (V, B, K) logits, the G global views first.
        teacher: (G, B, K) logits of the global views, G <= V. No gradient flows into them.
        centre: (K,) running mean of teacher logits, taken away before the softmax.
        student_temperature: tau_s.
        teacher_temperature: tau_t, usually lower: a sharper target.

    Returns:
        Scalar, float32 for inputs of lower precision.
    """
    return view_cross_entropy(student, teacher_targets(teacher, centre, teacher_temperature), student_temperature)


@torch.no_grad()
def teacher_targets(teacher: Tensor, centre: Tensor | float, temperature: float) -> Tensor:
    """Distributions ``softmax((teacher - centre) / temperature)`` over K: (G, B, K) of at least float32."""
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    return ((teacher.to(dtype) - centre) / temperature).softmax(dim=-1)


def view_cross_entropy(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over pairs (u, v), v != u, and over samples of the cross-entropy of ``targets[u]`` with view v.

    Args:
        student: (V, B, K) logits.
        targets: (G, B, K) distributions of the first G views.
        temperature: of the student.
    """
    views, teachers = len(student), len(targets)
    if student.shape[1:] != targets.shape[1:] or not 1 <= teachers <= views or views < 2:
        raise ValueError(
            f"student logits {tuple(student.shape)} and targets {tuple(targets.shape)} must be (V, B, K) and (G, B, K) "
            "with G <= V and at least two views"
        )
    return _ViewCrossEntropy.apply(student, targets.detach(), temperature)


@torch.no_grad()
def update_centre(centre: Tensor, mean: Tensor, momentum: float = 0.9) -> Tensor:
    """``centre <- momentum * centre + (1 - momentum) * mean`` in place, both (K,)."""
    return centre.lerp_(mean.to(centre.dtype), 1.0 - momentum)


@torch.no_grad()
def entropy(targets: Tensor) -> Tensor:
    """Mean entropy in nats of distributions (..., K): 0 is one prototype for each sample, ln K is no choice at all."""
    return torch.special.entr(targets).sum(dim=-1).mean()


class _ViewCrossEntropy(torch.autograd.Function):
    """Keeps the logits and one number a row; no softmax over K is stored for the views of the student."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: Tensor, temperature: float) -> Tensor:
        views, teachers = len(student), len(targets)
        together = targets.sum(dim=0)
        total = targets.new_zeros(())
        row_lse = targets.new_empty(student.shape[:2])
        for view in range(views):
            logits = student[view].to(targets.dtype) / temperature
            top = logits.amax(dim=-1, keepdim=True)
            logits.sub_(top)  # logits of hundreds would cost the digits of their log-sum-exp
            log_sum = logits.exp().sum(dim=-1).log()
            row_lse[view] = top[:, 0] + log_sum
            others, count = _others(together, targets, view)
            total += (log_sum * count - (others * logits).sum(dim=-1)).sum()
        ctx.save_for_backward(student, targets, row_lse)
        ctx.temperature = temperature
        return total / (teachers * (views - 1) * student.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, targets, row_lse = ctx.saved_tensors
        together = targets.sum(dim=0)
        out = torch.empty_like(student)
        factor = grad / (len(targets) * (len(student) - 1) * student.shape[1] * ctx.temperature)
        for view in range(len(student)):
            slope = student[view].to(targets.dtype) / ctx.temperature
            slope = slope.sub_(row_lse[view, :, None]).exp_()
            others, count = _others(together, targets, view)
            out[view] = slope.mul_(count).sub_(others).mul_(factor)
        return out, None, None


def _others(together: Tensor, targets: Tensor, view: int) -> tuple[Tensor, int]:
    """Sum of the targets that ``view`` is compared with, and their number."""
    if view >= len(targets):
        return together, len(targets)
    if len(targets) == 2:  # the usual case, without the rounding of a difference
        return targets[1 - view], 1
    return together - targets[view], len(targets) - 1
