"""Edges of a graph sorted by target, and the three operations that every graph layer is made of.

Sums over neighbours are products with a sparse matrix (CSR), so that no (edges x width) message tensor is ever
written: the memory of a step does not grow with edges times width. Plain torch: no compiled extension.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from perception.errors import DataError

# Torch says so once per process for every CSR tensor; nothing a user can act on.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)


class Adjacency:
    """Directed edges source -> target in CSR order (sorted by target).

    Attributes:
        source: (E,) int64 source node of every edge.
        target: (E,) int64 target row of every edge, ascending.
        crow: (T + 1,) int64; the edges into row ``i`` are ``crow[i]:crow[i + 1]``.
        num_targets: T.
        num_sources: S, equal to T unless the targets were restricted.
    """

    def __init__(self, source: Tensor, target: Tensor, num_targets: int, num_sources: int) -> None:
        self.source = source
        self.target = target
        self.num_targets = num_targets
        self.num_sources = num_sources
        self.crow = _pointers(target, num_targets)
        self._transposed: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def from_edges(cls, edge_index: Tensor, num_nodes: int) -> Adjacency:
        """Sort ``edge_index`` (2, E) of a graph of ``num_nodes`` nodes.

        Raises:
            DataError: an edge names a node that does not exist.
        """
        if edge_index.numel():
            low, high = int(edge_index.min()), int(edge_index.max())
            if low < 0 or high >= num_nodes:
                bad = int(((edge_index < 0) | (edge_index >= num_nodes)).any(0).nonzero()[0])
                raise DataError(
                    f"edge {bad} is {edge_index[:, bad].tolist()}, but the graph has {num_nodes} nodes "
                    f"(valid ids are 0 to {num_nodes - 1})"
                )
        order = torch.argsort(edge_index[1] * max(num_nodes, 1) + edge_index[0], stable=True)
        return cls(edge_index[0][order], edge_index[1][order], num_nodes, num_nodes)

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return self.source.numel()

    @property
    def edge_index(self) -> Tensor:
        """(2, E) sources and targets, in the order of this object."""
        return torch.stack([self.source, self.target])

    def to(self, *args: Any, **kwargs: Any) -> Adjacency:
        """The same edges on another device (arguments of ``Tensor.to``)."""
        source = self.source.to(*args, **kwargs)
        if source is self.source:
            return self
        return Adjacency(source, self.target.to(*args, **kwargs), self.num_targets, self.num_sources)

    def __repr__(self) -> str:
        return f"Adjacency({self.num_targets} targets, {self.num_sources} sources, {self.num_edges} edges)"

    def restrict(self, rows: Tensor) -> Adjacency:
        """Only the edges into the targets ``rows`` (R,), which become targets 0..R-1; sources keep their ids."""
        start, count = self.crow[rows], self.crow[rows + 1] - self.crow[rows]
        target = torch.repeat_interleave(count)
        first = count.cumsum(0) - count
        edges = torch.arange(target.numel(), device=rows.device) + (start - first)[target]
        return Adjacency(self.source[edges], target, rows.numel(), self.num_sources)

    def drop_edges(self, rate: float) -> Adjacency:
        """A random subset: every edge between two different nodes is dropped with probability ``rate``.

        Self-loops always stay, exactly as often as before: the reference implementation drops them too and then
        adds a full set, so that some count twice in a softmax.
        """
        if rate <= 0:
            return self
        keep = (torch.rand(self.num_edges, device=self.source.device) >= rate) | (self.source == self.target)
        return Adjacency(self.source[keep], self.target[keep], self.num_targets, self.num_sources)

    def in_degree(self) -> Tensor:
        """(T,) float number of edges into every target."""
        return (self.crow[1:] - self.crow[:-1]).float()

    def out_degree(self) -> Tensor:
        """(S,) float number of edges out of every source."""
        return torch.bincount(self.source, minlength=self.num_sources).float()

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """CSR of the reversed edges: pointers (S + 1,), targets (E,), and the edge that each entry comes from (E,)."""
        if self._transposed is None:
            order = torch.argsort(self.source, stable=True)
            self._transposed = (_pointers(self.source, self.num_sources), self.target[order], order)
        return self._transposed

    def aggregate(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted sum over incoming edges: out[i, h] = sum over edges e into i of weight[e, h] values[source(e), h].

        Args:
            values: (S, F), shared by all heads, or (S, H, F).
            weight: (E, H); ``None`` means ones.

        Returns:
            (T, H, F), or (T, F) without ``weight`` for ``values`` of two dimensions.
        """
        flat = weight is None and values.dim() == 2
        if weight is None:
            weight = values.new_ones(self.num_edges, 1 if flat else values.shape[1])
        with torch.autocast(values.device.type, enabled=False):
            out = _Aggregate.apply(full_precision(weight), full_precision(values), self)
        return out.squeeze(1) if flat else out

    def softmax(self, logits: Tensor) -> Tensor:
        """Softmax of ``logits`` (E, H) over the edges into the same target."""
        with torch.autocast(logits.device.type, enabled=False):
            return _Softmax.apply(full_precision(logits), self)


def _pointers(ascending: Tensor, size: int) -> Tensor:
    counts = torch.bincount(ascending, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def full_precision(x: Tensor) -> Tensor:
    """``x`` itself if float32 or float64, else as float32: sparse kernels know no half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def csr(crow: Tensor, col: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse CSR tensor of parts that are known to be consistent."""
    return torch.sparse_csr_tensor(crow, col, value, shape, check_invariants=False)


class _Aggregate(torch.autograd.Function):
    """One sparse product per head; the gradient of the weights is a product sampled at the edges."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.save_for_backward(weight, values)
        ctx.adjacency = adjacency
        shape = (adjacency.num_targets, adjacency.num_sources)
        heads = weight.shape[1]
        out = values.new_empty(adjacency.num_targets, heads, values.shape[-1])
        for h in range(heads):
            matrix = csr(adjacency.crow, adjacency.source, weight[:, h].contiguous(), shape)
            out[:, h] = matrix @ _head(values, h)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        weight, values = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        need_weight, need_values = ctx.needs_input_grad[:2]
        shape = (adjacency.num_targets, adjacency.num_sources)
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_values = torch.zeros_like(values) if need_values else None
        for h in range(weight.shape[1]):
            grad_h = grad[:, h]
            if grad_weight is not None:
                grad_weight[:, h] = _sampled_products(adjacency, grad_h, _head(values, h), shape)
            if grad_values is not None:
                crow, target, order = adjacency.transposed()
                matrix = csr(crow, target, weight[:, h][order], (shape[1], shape[0]))
                if values.dim() == 2:
                    grad_values += matrix @ grad_h
                else:
                    grad_values[:, h] = matrix @ grad_h
        return grad_weight, grad_values, None


def _head(values: Tensor, h: int) -> Tensor:
    return values if values.dim() == 2 else values[:, h]


def _sampled_products(adjacency: Adjacency, left: Tensor, right: Tensor, shape: tuple[int, int]) -> Tensor:
    """(E,) inner products <left[target(e)], right[source(e)]>."""
    if left.device.type == "cpu":
        pattern = csr(adjacency.crow, adjacency.source, left.new_zeros(adjacency.num_edges), shape)
        return torch.sparse.sampled_addmm(pattern, left.contiguous(), right.contiguous().t(), beta=0.0).values()
    return _products_in_chunks(adjacency, left, right)


def _products_in_chunks(adjacency: Adjacency, left: Tensor, right: Tensor, numbers: int = 2**25) -> Tensor:
    """The same by gathers of about ``numbers`` numbers at a time: 128 MB, where all edges could need 100 GB."""
    edges = max(1, numbers // max(left.shape[1], 1))
    pairs = zip(adjacency.target.split(edges), adjacency.source.split(edges), strict=True)
    return torch.cat([(left[target] * right[source]).sum(-1) for target, source in pairs])


class _Softmax(torch.autograd.Function):
    """Softmax over segments, shifted by the largest logit of each."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, adjacency: Adjacency) -> Tensor:
        index = adjacency.target
        shape = (adjacency.num_targets, logits.shape[1])
        highest = logits.new_full(shape, -torch.inf)
        highest.scatter_reduce_(0, index.unsqueeze(1).expand_as(logits), logits, "amax")
        exp = (logits - highest.index_select(0, index)).exp_()
        total = logits.new_zeros(shape).index_add_(0, index, exp)
        probability = exp.div_(total.index_select(0, index))
        ctx.save_for_backward(probability)
        ctx.adjacency = adjacency
        return probability

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (probability,) = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        weighted = probability * grad
        total = weighted.new_zeros(adjacency.num_targets, grad.shape[1]).index_add_(0, adjacency.target, weighted)
        return weighted - probability * total.index_select(0, adjacency.target), None
