"""Two gloo processes against one: the supervised contrastive family, of all and of first views as anchors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import multiprocessing

from perception.losses.supervised_contrast import LOSSES, supervised_contrast

WORLD, BATCH, DIM = 2, 8, 5
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])  # 2 and 3 occur once, 1 is in both halves
GROUPS = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1])
CASES = [(name, anchors) for name in LOSSES for anchors in ("all", "one")]


def loss_of(case, rows, gather):
    name, anchors = case
    weight = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    z = torch.randn(BATCH, 2, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[rows] @ weight
    options = {"groups": GROUPS[rows]} if name == "fairkl" else {}
    loss = supervised_contrast(name, z, LABELS[rows], anchors=anchors, gather=gather, **options)
    return loss, torch.autograd.grad(loss, weight)[0]


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    found = []
    for case in CASES:
        loss, gradient = loss_of(case, slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD), gather=True)
        dist.all_reduce(gradient)  # as DistributedDataParallel does
        found.append((loss.detach(), gradient / WORLD))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    multiprocessing.spawn(work, (tmp_path / "rendezvous", tmp_path), WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for number, case in enumerate(CASES):
        loss, gradient = loss_of(case, slice(None), gather=False)
        for rank in ranks:
            torch.testing.assert_close(rank[number][0], loss.detach(), rtol=1e-12, atol=1e-12, msg=str(case))
            torch.testing.assert_close(rank[number][1], gradient, rtol=1e-10, atol=1e-12, msg=str(case))
