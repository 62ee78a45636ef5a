"""Both objectives under DistributedDataParallel: two gloo processes end with the weights of one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from small_towers import raw_batch, tiny_clip
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from perception.engine.pretrainer import Pretrainer
from perception.pretext.image_text import ImageText
from perception.pretext.self_distillation import SelfDistillation

WORLD, BATCH, STEPS = 2, 4, 3


def part_of(batch, rows):
    return {
        "image": batch["image"][rows],
        "views": [view[rows] for view in batch["views"]],
        "text": batch["text"][rows],
    }


def train(rows, wrap):
    """``STEPS`` steps on the rows ``rows`` of every batch: what the model ends with, and the losses."""
    backbone = tiny_clip()
    distil = SelfDistillation(prototypes=8, hidden_dim=12, bottleneck_dim=6, momentum=0.8, warmup_steps=2)
    model = Pretrainer(backbone, {"clip": ImageText(targets="multi_positive", views="globals"), "distil": distil})
    outer = wrap(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    logged = []
    for step in range(STEPS):
        model.before_step(step, STEPS)
        batch = backbone.preprocess(part_of(raw_batch(BATCH, seed=step), rows))
        losses = outer(batch)
        optimiser.zero_grad()
        (losses["clip.loss"] + losses["distil.loss"]).backward()
        optimiser.step()
        model.after_step()
        logged.append(losses["clip.loss"].detach())
    return {"state": dict(model.state_dict()), "losses": logged}


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    result = train(slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD), DistributedDataParallel)
    torch.save(result, folder / f"{rank}.pth")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process_with_the_whole_batch(tmp_path):
    multiprocessing.spawn(work, args=(tmp_path / "rendezvous", tmp_path), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD)]
    whole = train(slice(None), lambda model: model)
    assert whole["state"]["pretexts.distil.centre"].abs().max() > 0
    for rank in ranks:
        torch.testing.assert_close(rank["losses"], whole["losses"])
        for name, value in whole["state"].items():
            torch.testing.assert_close(rank["state"][name], value, atol=2e-6, rtol=1e-4, msg=name)
            assert torch.equal(rank["state"][name], ranks[0]["state"][name]), name
