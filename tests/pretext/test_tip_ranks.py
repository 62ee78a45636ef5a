"""Two gloo processes against one: matching and hidden cells of TIP, and SCARF, with unequal ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from table_models import encoder_config, raw_batch, record, table_config
from torch import multiprocessing

from perception.losses.table_image import HiddenCells
from perception.pretext import tip
from perception.registry import MODELS

WORLD, BATCH = 2, 8
# The first rank hides one continuous cell a row, the second two cells of both kinds: its counts, and which kinds there
# are, are not those of the whole.
PLACES = torch.tensor([[3, 0]] * 4 + [[0, 2], [1, 3], [0, 1], [2, 3]])
VALID = torch.tensor([[True, False]] * 4 + [[True, True]] * 4)
TABLE_ONLY = table_config() | dict(preprocess=record())
CASES = {
    "itm": (encoder_config(), dict(type="TIP", losses=("itm",))),
    "mtr": (encoder_config(), dict(type="TIP", losses=("mtr",))),
    "mtr_global": (encoder_config(), dict(type="TIP", losses=("mtr",), vocabulary="global")),
    "mtr_table": (TABLE_ONLY, dict(type="TIP", losses=("mtr",))),
    "scarf": (TABLE_ONLY, dict(type="SCARF", projection_dim=8)),
}


def gradients_of(case, rows, draws):
    """Loss and gradients of some rows; what is drawn is laid down: the next row of the same half, and PLACES."""
    backbone, pretext = CASES[case]
    torch.manual_seed(0)
    model = MODELS.build(dict(type="Pretrainer", backbone=backbone, pretexts=dict(p=pretext)))
    model.eval()  # batch norms would see the rank's own rows
    for parameter in model.parameters():
        parameter.data.mul_(3)  # weights that tell rows apart
    raw = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in raw_batch(BATCH).items()}

    def negatives(similarity, excluded=None, floor=0.0):
        place = torch.arange(len(similarity))
        return place // 4 * 4 + (place + 1) % 4

    def cells(missing, rate):
        mask = torch.zeros_like(missing).scatter(1, PLACES[rows], VALID[rows])
        return HiddenCells(mask, PLACES[rows], VALID[rows])

    draws.setattr(tip, "draw_negatives", negatives)
    draws.setattr(tip, "draw_cells", cells)
    found = model(*model.data_preprocessor(raw, True))
    loss = next(value for name, value in found.items() if name.endswith("loss"))
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    found = {}
    with pytest.MonkeyPatch.context() as draws:
        for case in CASES:
            loss, gradients = gradients_of(case, slice(rank * 4, rank * 4 + 4), draws)
            for value in gradients.values():  # as DistributedDataParallel does
                dist.all_reduce(value)
                value /= WORLD
            found[case] = (loss, gradients)
    torch.save(found, folder / f"{rank}.pth")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path, monkeypatch):
    multiprocessing.spawn(work, args=(tmp_path / "rendezvous", tmp_path), nprocs=WORLD)
    ranks = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD)]
    for case in CASES:
        loss, gradients = gradients_of(case, slice(None), monkeypatch)
        own = [rank[case][0] for rank in ranks]
        # Hidden cells: every rank returns the loss of all. Else it returns that of its own rows.
        for value in own if case.startswith("mtr") else [torch.stack(own).mean()]:
            torch.testing.assert_close(value, loss, msg=case)
        assert len(gradients) > 20 and any(g.abs().max() > 1e-3 for g in gradients.values()), case
        for rank in ranks:
            assert rank[case][1].keys() == gradients.keys(), case
            for name, value in gradients.items():
                torch.testing.assert_close(rank[case][1][name], value, atol=1e-6, rtol=1e-4, msg=f"{case} {name}")
