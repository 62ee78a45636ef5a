"""Multinomial logistic regression on many small problems of one size at once, such as few-shot episodes.

The objective of every problem is scikit-learn's, with an intercept that is not penalised:

    C * sum_i CE(W x_i + b, y_i) + ||W||^2 / 2.

All problems take Newton steps together. W lies in the span of the n samples, so the unknowns are (n + 1) x N numbers,
not (D + 1) x N; the steps are found by conjugate gradients, preconditioned by the curvature at W = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception.evaluation.protocol import EvaluationError

_MAX_NEWTON = 100
_MAX_CG = 250
_MAX_HALVINGS = 30


def fit_logistic(x: Tensor, y: Tensor, classes: int, C: float = 1.0, tolerance: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Weights and biases of E problems.

    Args:
        x: (E, n, D) features.
        y: (E, n) int64 class ids below ``classes``.
        classes: number N of classes.
        C: inverse strength of the penalty.
        tolerance: largest entry of a gradient, over C n, at which a problem counts as solved.

    Returns:
        Weights (E, N, D) and biases (E, N) of mean 0, float64. Adding a number to all biases of a problem changes
        nothing, so their mean is free.

    Raises:
        EvaluationError: a feature is not finite, or a problem is not solved after 100 Newton steps.
    """
    if not bool(torch.isfinite(x).all()):
        raise EvaluationError("logistic regression: features are not finite")
    # The intercept is free, so the origin is: far from the samples it makes the problems hard to solve.
    origin = x.mean(1, keepdim=True, dtype=torch.float64)
    x = x.double() - origin
    basis = None
    if x.shape[1] < x.shape[2]:
        basis, _ = torch.linalg.qr(x.transpose(1, 2))  # (E, D, n)
        x = x @ basis
    problem = _Problems(torch.cat([x, torch.ones_like(x[..., :1])], dim=2), y, classes, C)
    solution = problem.solve(tolerance)  # (E, F + 1, N)
    weight, bias = solution[:, :-1], solution[:, -1]
    if basis is not None:
        weight = basis @ weight
    bias = bias - (origin @ weight)[:, 0]
    return weight.transpose(1, 2), bias - bias.mean(1, keepdim=True)


class _Problems:
    """Unknowns ``v`` are (E, F, N), the last of F rows being the biases; ``z`` (E, n, F) has a last column of ones."""

    def __init__(self, z: Tensor, y: Tensor, classes: int, C: float) -> None:
        self.z, self.C = z, C
        self.target = torch.nn.functional.one_hot(y, classes).to(z.dtype)
        self.penalty = torch.ones(z.shape[2], 1, dtype=z.dtype, device=z.device)
        self.penalty[-1] = 0.0
        # p (1 - p) at equal probabilities; the biases get a little more so that the factor exists.
        curvature = C * (1 / classes) * (1 - 1 / classes) * z.transpose(1, 2) @ z
        curvature.diagonal(dim1=1, dim2=2).add_(self.penalty[:, 0] + 1e-9)
        self.factor = torch.linalg.cholesky(curvature)

    def value(self, v: Tensor) -> Tensor:
        """Objectives (E,)."""
        loss = -(self.target * torch.log_softmax(self.z @ v, dim=2)).sum((1, 2))
        return self.C * loss + 0.5 * (self.penalty * v.square()).sum((1, 2))

    def solve(self, tolerance: float) -> Tensor:
        """Minimisers (E, F, N)."""
        v = self.z.new_zeros(len(self.z), self.z.shape[2], self.target.shape[2])
        value = self.value(v)
        limit = tolerance * self.C * self.z.shape[1]
        for _ in range(_MAX_NEWTON):
            p = torch.softmax(self.z @ v, dim=2)
            gradient = self.C * self.z.transpose(1, 2) @ (p - self.target) + self.penalty * v
            left = gradient.abs().amax((1, 2))
            if bool((left <= limit).all()):
                return v
            done = left <= limit
            step = self._newton_step(p, gradient, done)
            v, value = self._search(v, value, step, (gradient * step).sum((1, 2)), done)
        count = int((~(left <= limit)).sum())
        text = f"{count} of {len(v)} problems are not solved after {_MAX_NEWTON} steps"
        raise EvaluationError(f"logistic regression: {text}")

    def _newton_step(self, p: Tensor, gradient: Tensor, done: Tensor) -> Tensor:
        """Solution (E, F, N) of ``H step = -gradient`` by preconditioned conjugate gradients; 0 of what is ``done``."""

        def times_hessian(v: Tensor) -> Tensor:
            u = self.z @ v
            u = p * (u - (p * u).sum(2, keepdim=True))
            return self.C * self.z.transpose(1, 2) @ u + self.penalty * v

        step, residual = torch.zeros_like(gradient), -gradient
        scaled = torch.cholesky_solve(residual, self.factor)
        direction, product = scaled, _dot(residual, scaled)
        goal = 1e-6 * product  # squares, in the metric of the preconditioner: Newton corrects the rest
        goal[done] = torch.inf
        for _ in range(_MAX_CG):
            image = times_hessian(direction)
            # Who has arrived stands still: iterations beyond rounding would lead anywhere.
            length = torch.where(product > goal, _ratio(product, _dot(direction, image)), 0.0)
            step = step + length * direction
            residual = residual - length * image
            scaled = torch.cholesky_solve(residual, self.factor)
            former, product = product, _dot(residual, scaled)
            if bool((product <= goal).all()):
                break
            direction = scaled + _ratio(product, former) * direction
        return step

    def _search(self, v: Tensor, value: Tensor, step: Tensor, slope: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the steps of those problems whose objective does not fall enough; those that are done stay."""
        size = torch.where(done, 0.0, torch.ones_like(value))
        # Close to the solution an objective falls by less than its last digit.
        slack = 1e-14 * value.abs()
        for _ in range(_MAX_HALVINGS):
            there = v + size[:, None, None] * step
            found = self.value(there)
            bad = found > value + 1e-4 * size * slope + slack
            if not bool(bad.any()):
                break
            size = torch.where(bad, size / 2, size)
        return there, found


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(E, F, N), (E, F, N) -> (E, 1, 1)."""
    return (a * b).sum((1, 2), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0: a problem whose residual has vanished stands still."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(a))
