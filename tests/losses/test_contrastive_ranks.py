"""Two gloo processes against one: the same loss on every rank, and gradients whose mean is that of the whole batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing

from perception.losses.contrastive import clip_loss, gather_with_grad, siglip_loss
from perception.losses.table_image import image_table_contrast

WORLD, BATCH, DIM = 2, 6, 4
GROUPS = torch.tensor([3, 8, 3, 8, 1, 3])  # equal texts within a rank and across ranks
CASES = [
    (name, targets, chunk_size) for name in ("clip", "siglip") for targets in (None, GROUPS) for chunk_size in (None, 2)
]
# TIP's contrast, of two unequal weights; then the first of the ranks has fewer rows, or none.
CASES += [("image_table", None, None), ("image_table", 2, None), ("image_table", 0, None)]


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = ((DIM, 3), (DIM, 3))
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    return [*weights, *(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.5, -2.0))]


def inputs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for _ in range(2)]


def loss_of(case, rows, gather):
    """Loss and gradients of linear towers on the samples ``rows``."""
    name, targets, chunk_size = case
    images, texts, log_scale, bias = leaves = parameters()
    x, y = (F.normalize(part[rows] @ weight, dim=1) for part, weight in zip(inputs(), (images, texts), strict=True))
    groups = targets[rows] if isinstance(targets, torch.Tensor) else None
    scale = log_scale.exp()
    if name == "clip":
        loss = clip_loss(x, y, scale, groups, chunk_size, gather) + 0.0 * bias
    elif name == "image_table":
        loss = image_table_contrast(x, y, 0.1, 0.3, gather) + 0.0 * (scale + bias)
    else:
        loss = siglip_loss(x, y, scale, bias, groups, chunk_size, gather)
    return loss, torch.autograd.grad(loss, leaves)


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    halves = slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)
    results = []
    for case in CASES:
        first = case[1] if isinstance(case[1], int) else BATCH // WORLD
        rows = slice(first) if rank == 0 else slice(first, None)
        loss, gradients = loss_of(case, rows, gather=True)
        for gradient in gradients:  # as DistributedDataParallel does
            dist.all_reduce(gradient)
            gradient /= WORLD
        loss = loss.detach()
        if case[0] == "image_table":  # a rank returns the loss of its own rows
            dist.all_reduce(loss)
            loss /= WORLD
        results.append({"loss": loss, "gradients": list(gradients)})
    local, _ = loss_of(CASES[0], halves, gather=False)
    own = torch.full((1, 2), float(rank + 1), requires_grad=True)
    gathered = gather_with_grad(own)
    (gathered * torch.tensor([[1.0], [10.0]]) * (rank + 1)).sum().backward()
    torch.save(
        {"cases": results, "local": local.detach(), "gathered": gathered.detach(), "grad": own.grad},
        folder / f"{rank}.pth",
    )
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    multiprocessing.spawn(work, args=(tmp_path / "rendezvous", tmp_path), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD)]
    for index, case in enumerate(CASES):
        loss, gradients = loss_of(case, slice(None), gather=True)
        for rank in ranks:
            torch.testing.assert_close(rank["cases"][index]["loss"], loss.detach(), msg=f"{case}")
            for ours, whole in zip(rank["cases"][index]["gradients"], gradients, strict=True):
                torch.testing.assert_close(ours, whole, atol=1e-10, rtol=1e-9)
    # Without gathering a rank stays with its own half.
    for rank in range(WORLD):
        half, _ = loss_of(CASES[0], slice(rank * 3, rank * 3 + 3), gather=False)
        torch.testing.assert_close(ranks[rank]["local"], half.detach())
        assert ranks[rank]["gathered"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
        # Both ranks use row r: rank 0 with weight 1, rank 1 with weight 2, times 1 or 10.
        assert ranks[rank]["grad"].tolist() == [[3.0 * 10**rank] * 2]
