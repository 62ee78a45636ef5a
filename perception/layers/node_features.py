"""Node features that are mostly known constants: dense or sparse rows, some of them replaced by a learnable token.

The first layer of a masked graph autoencoder multiplies its weight with features of which most entries are zeros
(bag of words) and of which only the mask token needs a gradient. Keeping the two kinds of rows apart makes the
product cheap: no gradient is taken with respect to known rows, and sparse rows cost their non-zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.layers.adjacency import csr, full_precision


def keep_mask(shape: tuple[int, ...], rate: float, device: torch.device | str) -> tuple[Tensor, float]:
    """Bernoulli mask (bool, True = keep) that drops with probability ``rate``, and the factor that keeps the mean.

    On CPUs it takes 16 random bits an entry, several times faster than torch's own dropout. ``rate`` is then rounded
    to a multiple of 2^-16, and the factor is that of the rounded rate, so the expectation is exact.
    """
    if torch.device(device).type != "cpu":
        return torch.rand(shape, device=device) >= rate, 1.0 / (1.0 - rate)
    level = min(round(rate * 65536), 65535)
    count = 1
    for size in shape:
        count *= size
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[:count].view(shape) >= level - 32768
    return keep, 65536.0 / (65536.0 - level)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """``F.dropout`` with the fast mask."""
    if not training or rate <= 0:
        return x
    keep, scale = keep_mask(tuple(x.shape), rate, x.device)
    return x * keep.to(x.dtype).mul_(scale)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of a dense or CSR matrix, in the given order."""
    if x.layout != torch.sparse_csr:
        return x.index_select(0, rows)
    crow, col, value = x.crow_indices(), x.col_indices(), x.values()
    count = crow[rows + 1] - crow[rows]
    row = torch.repeat_interleave(count)
    ends = count.cumsum(0)
    entries = torch.arange(row.numel(), device=row.device) + (crow[rows] - (ends - count))[row]
    return csr(torch.cat([ends.new_zeros(1), ends]), col[entries], value[entries], (rows.numel(), x.shape[1]))


@dataclass(frozen=True)
class NodeFeatures:
    """Rows x (N, D), of which those at ``token_rows`` read ``token`` instead.

    Attributes:
        x: (N, D) float, dense or sparse CSR.
        token: (1, D) learnable, or ``None``.
        token_rows: (n,) int64 rows that read the token.
    """

    x: Tensor
    token: Tensor | None = None
    token_rows: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor | NodeFeatures) -> NodeFeatures:
        """``x`` itself, or a matrix wrapped."""
        return x if isinstance(x, NodeFeatures) else cls(x)

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self.x.shape[1]

    @property
    def is_sparse(self) -> bool:
        """Whether the known rows are CSR."""
        return self.x.layout == torch.sparse_csr

    def with_token(self, token: Tensor, rows: Tensor) -> NodeFeatures:
        """The same rows with ``token`` (1, D) at ``rows``."""
        return replace(self, token=token, token_rows=rows)

    def dense(self) -> Tensor:
        """(N, D) with the token in place; differentiable in the token and in dense ``x``."""
        x = self.x.to_dense() if self.is_sparse else self.x
        if self.token is None or self.token_rows is None:
            return x
        return x.index_copy(0, self.token_rows, self.token.expand(self.token_rows.numel(), -1).to(x.dtype))

    def linear(self, weight: Tensor, rate: float = 0.0, training: bool = False) -> Tensor:
        """dropout(rows) weight^T, without ever forming the dense rows.

        Every entry of every row has its own dropout mask, also where rows share the token.

        Args:
            weight: (O, D).
            rate: dropout probability of the entries.
            training: whether dropout is on.

        Returns:
            (N, O).
        """
        rate = rate if training else 0.0
        if self.token is None or self.token_rows is None:
            return _known_linear(self.x, weight, rate)
        known_rows = _complement(self.token_rows, self.num_nodes)
        known = _known_linear(take_rows(self.x, known_rows), weight, rate)
        token = self._token_linear(weight, rate).to(known.dtype)
        both = torch.cat([known, token])
        # Position of every node in the stack of known rows and token rows.
        place = torch.empty(self.num_nodes, dtype=torch.long, device=both.device)
        place[torch.cat([known_rows, self.token_rows])] = torch.arange(self.num_nodes, device=both.device)
        return _Permute.apply(both, place)

    def _token_linear(self, weight: Tensor, rate: float) -> Tensor:
        assert self.token is not None and self.token_rows is not None
        count = self.token_rows.numel()
        if rate <= 0:
            return F.linear(self.token, weight).expand(count, -1)
        keep, scale = keep_mask((count, self.width), rate, weight.device)
        with torch.autocast(weight.device.type, enabled=False):
            return _TokenLinear.apply(self.token, weight, keep.to(weight.dtype).mul_(scale))


def _complement(rows: Tensor, size: int) -> Tensor:
    other = torch.ones(size, dtype=torch.bool, device=rows.device)
    other[rows] = False
    return other.nonzero().squeeze(1)


def _known_linear(x: Tensor, weight: Tensor, rate: float) -> Tensor:
    if x.layout != torch.sparse_csr:
        return F.linear(dropout(x, rate, True), weight)
    value = dropout(x.values(), rate, True)
    with torch.autocast(weight.device.type, enabled=False):
        return _SparseLinear.apply(
            full_precision(weight), csr(x.crow_indices(), x.col_indices(), value, (x.shape[0], x.shape[1]))
        )


class _SparseLinear(torch.autograd.Function):
    """x W^T for a constant CSR ``x``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.x = x
        return x @ weight.t().contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return (ctx.x.t() @ grads[0].contiguous()).t(), None


class _TokenLinear(torch.autograd.Function):
    """Rows (m_i * t) W^T = m_i (t * W)^T for dropout masks m (n, D) of one token t.

    Two large products in all: the gradients of t and of W both follow from g^T m, and no (n, D) gradient is formed.
    """

    @staticmethod
    def forward(ctx: Any, token: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(token, weight, mask)
        return mask @ (weight * token).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        token, weight, mask = ctx.saved_tensors
        product = grads[0].t() @ mask  # (O, D)
        return (product * weight).sum(0, keepdim=True), product * token, None


class _Permute(torch.autograd.Function):
    """Row permutation whose gradient is the inverse gather, not a scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel(), device=order.device)
        return grads[0].index_select(0, inverse), None
