r"""Contrastive losses of two towers whose memory does not grow with the square of the batch.

* CLIP ("Learning Transferable Visual Models From Natural Language Supervision", Radford et al., 2021):
  with logits :math:`L = e^s Z T^T`, :math:`\tfrac12 (CE(L, I) + CE(L^T, I))`, each averaged over the batch.
* SigLIP ("Sigmoid Loss for Language Image Pre-Training", Zhai et al., 2023):
  :math:`-\tfrac1B \sum_{ij} \log \sigma(y_{ij} (e^s z_i^T t_j + b))`, y = 1 for pairs, else -1.

The (B, B) logits are never stored: a block of rows at a time is computed, reduced and forgotten, and computed again in
the backward pass (four matrix products in all; the plain way takes six). Gradients are exact.

With several ranks every rank holds its own rows against the texts of all. Only texts, the log-sum-exp of the columns
and one scalar travel; all ranks return the loss of the whole batch. Gradients follow the convention of
DistributedDataParallel: their MEAN over the ranks is the gradient of that loss. Ranks must hold batches of one size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Sums = tuple[Tensor, Tensor]

# Entries of a block of logits: small enough for a cache on CPUs, large enough to keep a GPU busy.
_BLOCK = {"cpu": 2**20}
_BLOCK_OTHERWISE = 2**24


def clip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    targets: Tensor | None = None,
    chunk_size: int | None = None,
    gather: bool = False,
) -> Tensor:
    """Cross-entropy of image to text and of text to image, averaged.

    Args:
        image: (B, E) embeddings of length 1.
        text: (B, E) embeddings of length 1; row i belongs to image i.
        scale: multiplier ``exp(s)`` of the cosines, a scalar; it gets a gradient.
        targets: ``None``: pairs alone are positive. (B,) int64: rows with equal numbers have equal texts, and the
            target of a row is spread evenly over them (``multi_positive_targets``), in both directions.
        chunk_size: rows of logits that exist at a time; ``None`` chooses. It changes memory and speed only.
        gather: contrast with the texts of all ranks, if there are several.

    Returns:
        Scalar, float32 for inputs of lower precision. Exactly 0 for B = 1, ln B when all embeddings are equal.

    Texts that are equal to the last bit of their EMBEDDINGS (a text tower without dropout) make spread targets a
    no-op, in value and in gradient: their columns are equal, so it does not matter how the target is divided among
    them, and plain InfoNCE does not push an image away from a copy of its own text. They matter where the tower draws
    dropout, or where ``targets`` groups texts that differ, such as translations.
    """
    image, text, scale, rank, world = _prepared(image, text, scale, gather)
    columns = gather_with_grad(text) if world > 1 else text
    offset = rank * len(image)
    chunk = chunk_size or _rows_per_block(columns)
    loss = _CrossEntropies.apply(image, columns, scale, offset, chunk, world)
    if targets is None:
        return loss
    others, _ = _other_positives(columns, _gathered(targets) if world > 1 else targets, mean=True)
    # The diagonal is in the loss; what the spread targets add to it is exactly 0 for texts that do not repeat.
    partial = (image * others[offset : offset + len(image)]).sum()
    return loss - scale * sum_over_ranks(partial, world) / len(columns)


def siglip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    targets: Tensor | None = None,
    chunk_size: int | None = None,
    gather: bool = False,
) -> Tensor:
    """Sigmoid cross-entropy of every image with every text: summed over texts, averaged over images.

    Args:
        image: (B, E) embeddings of length 1.
        text: (B, E) embeddings of length 1; row i belongs to image i.
        scale: multiplier of the cosines, a scalar; it gets a gradient.
        bias: what is added to the logits, a scalar; it gets a gradient.
        targets: ``None``: pairs alone are positive. (B,) int64: so are all images and texts with equal numbers.
        chunk_size: see ``clip_loss``.
        gather: see ``clip_loss``.

    Returns:
        Scalar, float32 for inputs of lower precision.
    """
    image, text, scale, rank, world = _prepared(image, text, scale, gather)
    bias = torch.as_tensor(bias, dtype=image.dtype, device=image.device)
    columns = gather_with_grad(text) if world > 1 else text
    offset = rank * len(image)
    chunk = chunk_size or _rows_per_block(columns)
    loss = _Sigmoids.apply(image, columns, scale, bias, offset, chunk, world)
    if targets is None:
        return loss
    # softplus(-x) = softplus(x) - x turns a negative pair into a positive one.
    others, count = _other_positives(columns, _gathered(targets) if world > 1 else targets, mean=False)
    own = slice(offset, offset + len(image))
    partial = scale * (image * others[own]).sum() + bias * count[own].sum()
    return loss - sum_over_ranks(partial, world) / len(columns)


def multi_positive_targets(groups: Tensor) -> Tensor:
    """The (B, B) matrix that ``clip_loss(targets=groups)`` stands for: ``[g_i = g_j]`` with rows that sum to one.

    It is symmetric, so it serves both directions. The losses themselves never build it.
    """
    same = (groups[:, None] == groups[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def gather_with_grad(tensor: Tensor) -> Tensor:
    """(B, ...) of every rank, in the order of ranks: (W B, ...). Backward sums over the ranks what each one wants.

    In one process it is the identity and touches no process group. All ranks must hold tensors of one shape.
    """
    return tensor if rank_and_world()[1] == 1 else _Gather.apply(tensor)


def gather_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """(B_r, ...) of every rank r, in the order of ranks: (sum of B_r, ...), and where this rank's rows start.

    Unlike for ``gather_with_grad`` the ranks may hold different numbers of rows, or none. Backward is the same.
    """
    rank, world = rank_and_world()
    if world == 1:
        return tensor, 0
    counts = _gathered(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    most = max(counts)
    padding = tensor.new_zeros(most - len(tensor), *tensor.shape[1:])
    rows = gather_with_grad(torch.cat([tensor, padding]))
    if min(counts) < most:
        real = [torch.arange(count, device=tensor.device) + i * most for i, count in enumerate(counts)]
        rows = rows[torch.cat(real)]
    return rows, sum(counts[:rank])


def rank_and_world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _gathered(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(rank_and_world()[1])]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _prepared(
    image: Tensor, text: Tensor, scale: Tensor | float, gather: bool
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"images {tuple(image.shape)} and texts {tuple(text.shape)} must be embeddings (B, E), pair by pair"
        )
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    rank, world = rank_and_world() if gather else (0, 1)
    return image.to(dtype), text.to(dtype), torch.as_tensor(scale, dtype=dtype, device=image.device), rank, world


def _rows_per_block(columns: Tensor) -> int:
    return max(1, _BLOCK.get(columns.device.type, _BLOCK_OTHERWISE) // len(columns))


def _other_positives(columns: Tensor, groups: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """Sum (or mean) of each row's group, less the row itself: (m, E); and the number of the others: (m,).

    A group of one gives exactly zero.
    """
    if groups.shape != columns.shape[:1]:
        raise ValueError(f"targets of shape {tuple(groups.shape)} for {len(columns)} texts: one number a text")
    # Numbered by sorting, with room for as many groups as rows: torch.unique would make a GPU wait for their number.
    ordered, order = groups.sort()
    number = F.pad((ordered[1:] != ordered[:-1]).long().cumsum(0), (1, 0))
    inverse = torch.empty_like(order).scatter_(0, order, number)
    count = columns.new_zeros(len(columns)).index_add_(0, inverse, columns.new_ones(len(columns)))
    total = torch.zeros_like(columns).index_add(0, inverse, columns)
    if mean:
        total = total / count.clamp_min(1)[:, None]
    return total[inverse] - columns, count[inverse] - 1


def sum_over_ranks(partial: Tensor, world: int) -> Tensor:
    """The sum over ``world`` ranks; its gradient is times ``world``, for DistributedDataParallel to average."""
    return partial if world == 1 else _SumOverRanks.apply(partial)


def _exponentials(block: Tensor, dim: int) -> Sums:
    """Largest entry along ``dim``, and the sum of ``exp(entry - largest)``."""
    top = block.amax(dim=dim)
    return top, (block - top.unsqueeze(dim)).exp_().sum(dim=dim)


def _merged(tops: Tensor, sums: Tensor) -> Sums:
    """``_exponentials`` of the whole from those of its parts, both (parts, m)."""
    top = tops.amax(dim=0)
    return top, (sums * (tops - top).exp()).sum(dim=0)


class _Gather(torch.autograd.Function):
    """All ranks' rows forward; the sum over ranks of the gradients of this rank's rows backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _gathered(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rank, world = rank_and_world()
        grad = grad.contiguous()
        if dist.get_backend() == "nccl":
            out = grad.new_empty(len(grad) // world, *grad.shape[1:])
            dist.reduce_scatter_tensor(out, grad)
            return out
        grad = grad.clone()  # autograd may hand the same tensor to others
        dist.all_reduce(grad)
        return grad.chunk(world)[rank]


class _SumOverRanks(torch.autograd.Function):
    """Sum forward; backward the gradient of the whole times the number of ranks, for DDP to average."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor) -> Tensor:
        total = partial.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * rank_and_world()[1]


class _CrossEntropies(torch.autograd.Function):
    """Cross-entropy in both directions where the positive of row i is column ``offset + i``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, offset: int, chunk: int, world: int) -> Tensor:
        own = slice(offset, offset + len(rows))
        diagonal = rows.new_empty(len(rows))
        across: list[Sums] = []
        down: Sums | None = None
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), chunk):
                block = (rows[start : start + chunk] * scale) @ columns.T  # (c, m)
                diagonal[start : start + chunk] = block.diagonal(offset + start)
                across.append(_exponentials(block, dim=1))
                below = _exponentials(block, dim=0)
                down = (
                    below
                    if down is None
                    else _merged(torch.stack([down[0], below[0]]), torch.stack([down[1], below[1]]))
                )
        assert down is not None
        row_top, row_sum = (torch.cat(parts) for parts in zip(*across, strict=True))
        column_top, column_sum = down
        if world > 1:
            column_top, column_sum = _merged(_gathered(column_top[None]), _gathered(column_sum[None]))
        row_log, column_log = row_sum.log(), column_sum.log()
        # Largest logit less own logit, then the logarithm: their sum first, of up to 100, would cost digits.
        total = (row_top - diagonal + row_log).sum() + (column_top[own] - diagonal + column_log[own]).sum()
        if world > 1:
            dist.all_reduce(total)
        row_lse, column_lse = row_top + row_log, column_top + column_log
        ctx.save_for_backward(rows, columns, scale, row_lse, column_lse)
        ctx.offset, ctx.chunk, ctx.world = offset, chunk, world
        return total / (2 * len(columns))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, scale, row_lse, column_lse = ctx.saved_tensors

        def slope(block: Tensor, part: slice) -> Tensor:
            """Twice the batch times dL / dlogits: softmax over the row plus softmax over the column, less targets."""
            down = (block - row_lse[part, None]).exp_()
            down.add_(block.sub_(column_lse).exp_())
            down.diagonal(ctx.offset + part.start).sub_(2.0)
            return down

        d_rows, d_columns, d_scale, _ = _pull_back(rows, columns, scale, None, ctx.chunk, slope)
        factor = grad * (ctx.world / (2 * len(columns)))
        return d_rows.mul_(factor * scale), d_columns.mul_(factor * scale), d_scale * factor, None, None, None


class _Sigmoids(torch.autograd.Function):
    """Sigmoid cross-entropy of all pairs where column ``offset + i`` alone belongs to row i."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor, offset: int, chunk: int, world: int
    ) -> Tensor:
        total = rows.new_zeros(())
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), chunk):
                block = (rows[start : start + chunk] * scale) @ columns.T + bias
                block.diagonal(offset + start).neg_()
                total += F.softplus(block).sum()
        if world > 1:
            dist.all_reduce(total)
        ctx.save_for_backward(rows, columns, scale, bias)
        ctx.offset, ctx.chunk, ctx.world = offset, chunk, world
        return total / len(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, scale, bias = ctx.saved_tensors

        def slope(block: Tensor, part: slice) -> Tensor:
            probability = block.sigmoid_()
            probability.diagonal(ctx.offset + part.start).sub_(1.0)
            return probability

        d_rows, d_columns, d_scale, d_bias = _pull_back(rows, columns, scale, bias, ctx.chunk, slope)
        factor = grad * (ctx.world / len(columns))
        d_rows, d_columns = d_rows.mul_(factor * scale), d_columns.mul_(factor * scale)
        return d_rows, d_columns, d_scale * factor, d_bias * factor, None, None, None


def _pull_back(
    rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor | None, chunk: int, slope: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute every block again and turn ``slope(block, part)``, its dL / dlogits, into gradients.

    Returns:
        Those of ``rows`` and ``columns`` without the factor ``scale``, of ``scale`` and of ``bias``.
    """
    d_rows, d_columns = torch.empty_like(rows), torch.zeros_like(columns)
    d_bias = rows.new_zeros(())
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            block = (rows[part] * scale) @ columns.T
            down = slope(block if bias is None else block.add_(bias), part)
            torch.mm(down, columns, out=d_rows[part])
            d_columns.addmm_(down.T, rows[part])
            if bias is not None:
                d_bias += down.sum()
        return d_rows, d_columns, (d_rows * rows).sum(), d_bias
