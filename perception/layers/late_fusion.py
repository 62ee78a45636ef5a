"""Late fusion: every modality has a small network of its own, and a joint one sees what they give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import ConfigError, DataError, Fault, not_among
from perception.layers.fusion import keep_one_at_least


class LateFusionHead(nn.Module):
    """Class scores of the features of any number of branches.

    ``"Multi-Modal Self-Supervised Learning for Surgical Feedback Effectiveness Assessment" (2024)``: of every branch
    (Linear -> ReLU) for each of its widths; the results are joined and go through (Linear -> ReLU) for each width of
    ``joint``, then a Linear to the classes.

    Branches are known by name: they are built and joined in the alphabetical order of their names, whatever the order
    in the arguments. Columns of the first joint layer thus belong to ``text`` first, then to ``video``.

    Args:
        in_dims: width of the features of every branch.
        branches: hidden widths of every branch, the same names; an empty list passes the features on.
        joint: hidden widths after the branches are joined.
        num_classes: class scores C.
        dropout: after every ReLU.
        branch_dropout: share of the training samples of which a branch is dropped, one number for all branches or one
            by name; the shares must not exceed 1 together, and a sample never loses more than one branch.
        null_vectors: learn what stands for a branch that a sample lacks or loses; else it is zeros. Without these and
            without dropout a branch that is missing is an error.
    """

    def __init__(
        self,
        in_dims: Mapping[str, int],
        branches: Mapping[str, Sequence[int]],
        joint: Sequence[int] = (),
        num_classes: int = 2,
        dropout: float = 0.0,
        branch_dropout: float | Mapping[str, float] = 0.0,
        null_vectors: bool = False,
    ) -> None:
        super().__init__()
        wrong = [
            Fault(f"head.{key}", None, text) for key, text in head_faults(branches, joint, dropout, branch_dropout)
        ]
        wrong += [Fault(f"head.in_dims.{n}", None, "the branch has no width") for n in branches if n not in in_dims]
        if wrong:
            raise ConfigError(wrong, "LateFusionHead")
        self.names = tuple(sorted(branches))
        self.rates = branch_rates(branches, branch_dropout)
        self.branches = nn.ModuleDict()
        for name in self.names:
            self.branches[name] = _hidden(in_dims[name], branches[name], dropout)
        self.out_dims = {name: int([in_dims[name], *branches[name]][-1]) for name in self.names}
        width = sum(self.out_dims.values())
        self.joint = _hidden(width, joint, dropout)
        self.head = nn.Linear([width, *joint][-1], num_classes)
        zeros = {name: nn.Parameter(torch.zeros(size)) for name, size in self.out_dims.items()} if null_vectors else {}
        self.null = nn.ParameterDict(zeros)

    @property
    def bears_missing(self) -> bool:
        """Whether samples may lack branches."""
        return bool(self.null) or any(rate > 0 for rate in self.rates.values())

    def forward(self, features: Mapping[str, Tensor], missing: Mapping[str, Tensor] | None = None) -> Tensor:
        """Scores (B, C).

        Args:
            features: (B, D) of every branch by name; one that is left out is missing in all samples.
            missing: by name (B,) bool, True where a sample lacks the branch; its features are then never looked at.

        Raises:
            DataError: a name that is no branch, nothing at all, or a missing branch that the head cannot bear.
        """
        missing = missing or {}
        for name in (*features, *missing):
            if name not in self.names:
                raise DataError(f"branch {name!r} is {not_among(name, self.names)}")
        if not features:
            raise DataError(f"a fusion needs features of at least one of its branches {', '.join(self.names)}")
        like = next(iter(features.values()))
        size, device = len(like), like.device
        absent = {name: mask.to(device=device, dtype=torch.bool) for name, mask in missing.items()}
        absent |= {n: torch.ones(size, dtype=torch.bool, device=device) for n in self.names if n not in features}
        absent = {n: m for n, m in absent.items() if self.bears_missing or bool(m.any())}
        if absent and not self.bears_missing:
            name, mask = next(iter(absent.items()))
            raise DataError(
                f"branch {name!r} is missing in {int(mask.sum())} of {size} samples: null_vectors=True learns what "
                "stands for it, branch_dropout trains the fusion to do without"
            )
        if self.training and any(self.rates.values()):
            kept = keep_one_at_least(size, [self.rates[name] for name in self.names], device)
            lacking = sum((mask.long() for mask in absent.values()), torch.zeros(size, dtype=torch.long, device=device))
            kept = kept | (lacking + 1 >= len(self.names))[:, None]  # what a sample has left stays
            for name, keep in zip(self.names, kept.T, strict=True):
                absent[name] = absent[name] | ~keep if name in absent else ~keep
        parts = [self._branch(name, features.get(name), absent.get(name), like) for name in self.names]
        return self.head(self.joint(torch.cat(parts, dim=1)))

    def _branch(self, name: str, x: Tensor | None, absent: Tensor | None, like: Tensor) -> Tensor:
        null: Any = self.null[name] if name in self.null else like.new_zeros(self.out_dims[name])
        if x is None:
            return null.expand(len(like), -1)
        if absent is None:
            return self.branches[name](x)
        # Emptied before the network, too: a NaN that is masked after it would still be in its gradient.
        own = self.branches[name](x.masked_fill(absent[:, None], 0.0))
        return torch.where(absent[:, None], null.to(own.dtype), own)


def branch_rates(names: Iterable[str], dropout: float | Mapping[str, float]) -> dict[str, float]:
    """Dropout by name of branch."""
    if isinstance(dropout, Mapping):
        return {name: float(dropout.get(name, 0.0)) for name in names}
    return {name: float(dropout) for name in names}


def head_faults(
    branches: Mapping[str, Sequence[int]],
    joint: Sequence[int],
    dropout: float,
    branch_dropout: float | Mapping[str, float],
) -> Iterable[tuple[str, str]]:
    """Faults (key, message) of the arguments of a ``LateFusionHead``."""
    if not branches:
        yield "branches", "at least one branch belongs here, such as video=[256, 128]"
    for key, widths in (*((f"branches.{name}", widths) for name, widths in branches.items()), ("joint", joint)):
        if any(not isinstance(width, int) or width < 1 for width in widths):
            yield key, "needs whole numbers of at least 1"
    if not 0 <= dropout < 1:
        yield "dropout", "must lie in [0, 1)"
    for name in branch_dropout if isinstance(branch_dropout, Mapping) else ():
        if name not in branches:
            yield "branch_dropout", f"{name!r} is {not_among(name, branches)}"
    rates = branch_rates(branches, branch_dropout).values()
    if any(not 0 <= rate < 1 for rate in rates) or sum(rates) > 1:
        yield "branch_dropout", "must lie in [0, 1), and not exceed 1 over all branches: one always stays"
    elif any(rates) and len(branches) < 2:
        yield "branch_dropout", "needs several branches"


def _hidden(width: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([width, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
