"""The self-distillation loss against the card's formula, one pair of views at a time."""

from __future__ import annotations

import math

import pytest
import torch

from perception.losses.self_distillation import (
    entropy,
    self_distillation_loss,
    teacher_targets,
    update_centre,
    view_cross_entropy,
)


def logits(views=5, teachers=2, batch=3, prototypes=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(views, batch, prototypes, generator=generator, dtype=dtype).requires_grad_()
    return student, torch.randn(teachers, batch, prototypes, generator=generator, dtype=dtype)


def literal(student, teacher, centre, tau_s, tau_t):
    """The mean over all (u, v), u a teacher's view and v another view of the student, and over samples."""
    terms = []
    for u in range(len(teacher)):
        for v in range(len(student)):
            if u == v:
                continue
            for b in range(student.shape[1]):
                p = torch.exp((teacher[u, b] - centre) / tau_t)
                q = torch.exp(student[v, b] / tau_s)
                terms.append(-(p / p.sum() * torch.log(q / q.sum())).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("views", "teachers"), [(2, 2), (5, 2), (4, 3), (3, 1), (10, 2)])
def test_loss_and_gradient_are_the_formula_s(views, teachers):
    student, teacher = logits(views, teachers)
    centre = torch.linspace(-1, 1, 6, dtype=torch.float64)
    ours = self_distillation_loss(student, teacher, centre, 0.5, 0.3)
    expected = literal(student, teacher, centre, 0.5, 0.3)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(2 * loss, student)[0] for loss in (ours, expected)))


def test_two_prototypes_by_hand():
    # Teacher logits (ln 3, 0): p = (3/4, 1/4). Student logits (0, 0): ln 2. One sample, two views, both alike.
    teacher = torch.tensor([[[math.log(3.0), 0.0]]] * 2)
    assert self_distillation_loss(torch.zeros(2, 1, 2), teacher, 0.0, 0.1, 1.0).item() == pytest.approx(math.log(2))
    # Student logits (ln 3, 0) at temperature 1: the entropy of (3/4, 1/4) is 0.5623351446 nats.
    student = teacher.clone()
    assert self_distillation_loss(student, teacher, 0.0, 1.0, 1.0).item() == pytest.approx(0.5623351446)
    # A centre of (ln 3, 0) leaves the teacher undecided: cross-entropy ln 4 - (ln 3) / 2.
    centre = teacher[0, 0]
    assert self_distillation_loss(student, teacher, centre, 1.0, 1.0).item() == pytest.approx(
        math.log(4) - math.log(3) / 2
    )


def test_nothing_flows_into_the_teacher():
    student, teacher = logits()
    teacher.requires_grad_()
    self_distillation_loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_order_of_views_of_one_kind_does_not_matter():
    student, teacher = logits()
    loss = self_distillation_loss(student, teacher)
    torch.testing.assert_close(self_distillation_loss(student[[0, 1, 4, 2, 3]], teacher), loss)
    torch.testing.assert_close(self_distillation_loss(student[[1, 0, 2, 3, 4]], teacher[[1, 0]]), loss)
    assert not torch.isclose(self_distillation_loss(student[[1, 0, 2, 3, 4]], teacher), loss)


def test_equal_logits_and_temperatures_give_the_teacher_s_entropy():
    same = torch.randn(1, 4, 9, dtype=torch.float64).expand(6, -1, -1)
    targets = teacher_targets(same[:2], 0.0, 0.2)
    expected = -(targets * targets.log()).sum(-1).mean()
    torch.testing.assert_close(self_distillation_loss(same, same[:2], 0.0, 0.2, 0.2), expected)
    torch.testing.assert_close(entropy(targets), expected)


def test_a_constant_on_all_student_logits_changes_nothing():
    student, teacher = logits()
    torch.testing.assert_close(self_distillation_loss(student + 7.5, teacher), self_distillation_loss(student, teacher))


def test_collapse_to_constants_without_centring_costs_ln_k():
    for value in (0.0, -3.0, 40.0):
        constant = torch.full((4, 5, 1024), value)
        assert self_distillation_loss(constant, constant[:2]).item() == pytest.approx(math.log(1024), rel=1e-6)


def test_centre_moves_by_its_momentum():
    centre = torch.tensor([1.0, -2.0])
    update_centre(centre, torch.tensor([3.0, 4.0]), 0.9)
    torch.testing.assert_close(centre, torch.tensor([1.2, -1.4]))


def test_low_precision_is_computed_in_float32():
    student, teacher = logits(prototypes=300, dtype=torch.float32)
    low = student.detach().bfloat16().requires_grad_()
    loss = self_distillation_loss(low, teacher.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, self_distillation_loss(low.float(), teacher.bfloat16().float()))
    loss.backward()
    assert low.grad.dtype == torch.bfloat16


def test_only_logits_and_targets_are_kept():
    student, teacher = logits(10, 2, 8, 256)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        self_distillation_loss(student, teacher)
    assert sum(stored) == student.numel() + teacher.numel() + 10 * 8  # and one number a row


@pytest.mark.parametrize(
    ("student", "targets"), [((1, 2, 3), (1, 2, 3)), ((2, 2, 3), (3, 2, 3)), ((3, 2, 3), (2, 2, 4))]
)
def test_shapes_that_do_not_fit_are_refused(student, targets):
    with pytest.raises(ValueError, match="at least two views"):
        view_cross_entropy(torch.zeros(student), torch.zeros(targets), 0.1)
