"""Linear probe in closed form: L2-regularised multinomial logistic regression by L-BFGS on frozen features.

The objective, on features standardised with the mean and deviation of the training split, is

    mean cross-entropy + penalty * ||W||^2,

without penalty on the bias. It is strictly convex in W, so the result is a property of the data alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perception.evaluation.protocol import Features, Outcome, Protocol, Splits, accuracy, as_list, merge, positive
from perception.registry import PROTOCOLS

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
_ROWS = 65536


@dataclass(frozen=True)
class Standardise:
    """Shift and scale by the statistics of the training split; a constant column becomes 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Standardise:
        """Statistics of ``x`` ``(n, F)``, in float64; the deviation is divided by n."""
        mean = x.mean(0, dtype=torch.float64)
        # In pieces: a float64 copy of a million rows would not fit beside them.
        std = (sum((part.double() - mean).square().sum(0) for part in x.split(_ROWS)) / len(x)).sqrt()
        # A column whose spread is rounding noise of its mean carries nothing and must not be blown up.
        flat = std <= 1e-7 * mean.abs() + 1e-12
        return cls(mean, torch.where(flat, torch.zeros_like(std), 1 / std.masked_fill(flat, 1.0)))

    @classmethod
    def nothing(cls, x: Tensor) -> Standardise:
        """Leaves every column of ``x`` as it is."""
        zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return cls(zero, zero + 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Standardised ``x`` ``(m, F)``, in the type of ``x``."""
        out = torch.empty_like(x)
        for source, target in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
            target.copy_((source.double() - self.mean) * self.scale)
        return out


class LogisticRegression:
    """Multinomial logistic regression on standardised features, fitted for a falling series of penalties.

    Two exact rewritings make it fast. With fewer rows than columns, W lies in the span of the rows, so the problem is
    solved in a basis of that span. And L-BFGS runs in the coordinates of the Cholesky factor of
    ``C/2K + 2 * penalty * I`` (C the second moment of the features, K classes), which is close to the Hessian near
    W = 0: tens of iterations instead of hundreds, whatever the penalty.

    Args:
        x: ``(n, F)`` features.
        y: ``(n,)`` class ids.
        classes: number of classes K.
        max_iter: L-BFGS iterations per penalty.
        tolerance: stop when no entry of the gradient, in the coordinates above, is larger. Float32 products carry a
            noise of about 1e-5, so smaller values want ``double``.
        chunk: rows multiplied at once.
        double: multiply in float64 instead of float32; the parameters are float64 in any case.
        standardise: work on standardised features; without it the penalty acts on the features as they are.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        classes: int,
        max_iter: int = 200,
        tolerance: float = 1e-4,
        chunk: int = 65536,
        double: bool = False,
        standardise: bool = True,
    ) -> None:
        self.dtype = torch.float64 if double else torch.float32
        self.standardise = Standardise.of(x) if standardise else Standardise.nothing(x)
        x = self.standardise(x.to(self.dtype))
        self.basis: Tensor | None = None
        if x.shape[0] < x.shape[1]:
            self.basis, _ = torch.linalg.qr(x.double().T)  # (F, n)
            x = (x.double() @ self.basis).to(self.dtype)
        self.x, self.y, self.classes = x, y, classes
        self.steepness = 1 / (2 * classes)  # bounds the second derivative of the loss by a logit
        self.max_iter, self.tolerance, self.chunk = max_iter, tolerance, chunk
        self.moment = sum((part.T @ part).double() for part in x.split(chunk)) / len(x)
        self.weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device)
        self.bias = torch.zeros(classes, dtype=torch.float64, device=x.device)

    def fit(self, penalty: float) -> LogisticRegression:
        """Minimise for one penalty, starting from the last solution."""
        curvature = self.moment * self.steepness
        curvature.diagonal().add_(2 * penalty)
        factor = torch.linalg.cholesky(curvature)  # factor @ factor.T = curvature
        # Coordinates v with weight = v @ factor^-1, in which the Hessian is close to the identity.
        weight = (self.weight @ factor).requires_grad_()
        bias = self.bias.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [weight, bias],
            max_iter=self.max_iter,
            max_eval=2 * self.max_iter,
            history_size=20,
            tolerance_grad=self.tolerance,
            tolerance_change=1e-3 * self.tolerance**2,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            plain = torch.linalg.solve_triangular(factor, weight.detach(), upper=False, left=False)
            loss, grad_weight, grad_bias = self._loss(plain, bias.detach())
            grad_weight += 2 * penalty * plain
            # d/dv = d/dW @ factor^-T
            weight.grad = torch.linalg.solve_triangular(factor.T, grad_weight, upper=True, left=False).contiguous()
            bias.grad = grad_bias
            return loss + penalty * plain.square().sum()

        optimiser.step(closure)
        self.weight = torch.linalg.solve_triangular(factor, weight.detach(), upper=False, left=False)
        self.bias = bias.detach()
        return self

    def _loss(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy and its gradients with respect to weight and bias, float64."""
        loss = torch.zeros((), dtype=torch.float64, device=weight.device)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        narrow = weight.to(self.dtype)
        for x, y in zip(self.x.split(self.chunk), self.y.split(self.chunk), strict=True):
            log_p = torch.log_softmax((x @ narrow.T).double() + bias, dim=1)
            loss -= log_p.gather(1, y[:, None]).sum()
            slope = log_p.exp()
            slope.scatter_add_(1, y[:, None], torch.full_like(slope[:, :1], -1.0))
            grad_weight += (slope.to(self.dtype).T @ x).double()
            grad_bias += slope.sum(0)
        n = len(self.y)
        return loss / n, grad_weight / n, grad_bias / n

    def logits(self, x: Tensor) -> Tensor:
        """``(m, K)`` float64 logits of features that are not standardised yet."""
        x = self.standardise(x.to(self.dtype))
        weight = self.weight if self.basis is None else self.weight @ self.basis.T
        return x.double() @ weight.T + self.bias

    def predict(self, x: Tensor) -> Tensor:
        """``(m,)`` class ids."""
        return self.logits(x).argmax(1)


@PROTOCOLS.register_module()
class LinearLBFGS(Protocol):
    """Accuracy of logistic regression whose penalty is chosen on the validation split.

    Args:
        penalty: candidates; with a single one no validation split is needed. ``0.05`` is the convention of the
            raw-pixel baselines in the data README.
        refit: fit once more on the training and validation rows together before the test.
        patience: leave out the weaker penalties once this many in a row were no better on the validation split; the
            weakest ones take longest and fit noise.
        max_iter: L-BFGS iterations per penalty.
        tolerance: largest gradient entry at which a fit counts as converged.
        chunk: rows multiplied at once.
        double: multiply in float64; slower, and not needed for a figure.
        standardise: shift and scale every column by the statistics of the training split. Switch it off for sparse
            counts such as bags of words, where rare columns would become the largest.
        C: instead of ``penalty``, the inverse strength as scikit-learn writes it, one or several candidates:
            ``penalty = 1 / (2 C n)`` with n training rows. The linear probe of RemoteCLIP and VT-RSBS is ``C=0.316,
            max_iter=1000, standardise=False``.
    """

    chosen_on_val = ("penalty", "C")

    def __init__(
        self,
        penalty: float | Sequence[float] = PENALTIES,
        refit: bool = False,
        patience: int = 3,
        max_iter: int = 200,
        tolerance: float = 1e-4,
        chunk: int = 65536,
        double: bool = False,
        standardise: bool = True,
        C: float | Sequence[float] | None = None,
    ) -> None:
        self.inverse = C is not None
        # From strong to weak: each solution is a good start for the next.
        self.strengths = sorted(as_list(C)) if C is not None else sorted(as_list(penalty), reverse=True)
        self.refit = refit
        self.patience = patience
        self.settings: dict[str, Any] = {
            "max_iter": max_iter,
            "tolerance": tolerance,
            "chunk": chunk,
            "double": double,
            "standardise": standardise,
        }

    @classmethod
    def splits_needed(cls, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """See ``AnyProtocol``; C stands in place of the penalties."""
        return super().splits_needed(cfg if cfg.get("C") is None else {**cfg, "penalty": None})

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive penalties: without one the problem may have no solution."""
        yield from positive(cfg, "penalty", "C", "patience", "max_iter", "tolerance", "chunk")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Accuracy on the test split."""
        train, test = data.need("train", "LinearLBFGS").canonical(), data.need("test", "LinearLBFGS")
        classes = data.classes()
        chosen: dict[str, Any] = {}
        if len(self.strengths) > 1 or self.refit:
            val = data.need("val", "LinearLBFGS with several penalties or refit")
            model, chosen = self.select(train, val, classes)
            if self.refit:
                both = merge(train, val).canonical()
                model = LogisticRegression(both.x, both.y, classes, **self.settings)
                model.fit(self._penalty(chosen["C" if self.inverse else "penalty"], len(both)))
        else:
            strength = self._penalty(self.strengths[0], len(train))
            model = LogisticRegression(train.x, train.y, classes, **self.settings).fit(strength)
        logits = model.logits(test.x)
        value = accuracy(logits.argmax(1), test.y)
        nll = float(torch.nn.functional.cross_entropy(logits, test.y))
        name = "C" if self.inverse else "penalty"
        settings = {name: chosen.get(name, self.strengths[0]), "standardise": self.settings["standardise"]}
        return [Outcome("accuracy", value, len(test), chosen, {"nll": nll}, settings)]

    def _penalty(self, strength: float, rows: int) -> float:
        return 1 / (2 * strength * rows) if self.inverse else strength

    def select(self, train: Features, val: Features, classes: int) -> tuple[LogisticRegression, dict[str, Any]]:
        """The model with the best validation accuracy, the stronger penalty of equals, and what was chosen."""
        model = LogisticRegression(train.x, train.y, classes, **self.settings)
        best = (-1.0, self.strengths[0], model.weight, model.bias)
        worse = 0
        for strength in self.strengths:
            score = accuracy(model.fit(self._penalty(strength, len(train))).predict(val.x), val.y)
            worse += 1
            if score > best[0]:
                best = (score, strength, model.weight, model.bias)
                worse = 0
            if worse >= self.patience:
                break
        model.weight, model.bias = best[2], best[3]
        return model, {"C" if self.inverse else "penalty": best[1], "val_accuracy": best[0]}
