import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing

from perception.losses.contrastive import clip_loss
from perception.losses.view_contrast import view_contrast_loss

WORLD, VIEWS, BATCH, DIM = 2, 3, 4, 5


def views(count=VIEWS, batch=BATCH, seed=0):
    raw = torch.randn(count, batch, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(raw, dim=-1)


@pytest.mark.parametrize("count", [2, 3])
def test_the_loss_is_the_formula(count):
    z, temperature = views(count), 0.3
    total = 0.0
    for i in range(BATCH):
        for v in range(count):
            others = [(w, j) for w in range(count) for j in range(BATCH) if (w, j) != (v, i)]
            below = sum(math.exp(float(z[v, i] @ z[w, j]) / temperature) for w, j in others)
            for u in range(count):
                if u != v:
                    total -= math.log(math.exp(float(z[v, i] @ z[u, i]) / temperature) / below)
    expected = total / (BATCH * count * (count - 1))
    assert float(view_contrast_loss(z, temperature)) == pytest.approx(expected, rel=1e-12)


def test_known_values():
    same = F.normalize(torch.ones(2, 6, 3), dim=-1)
    assert float(view_contrast_loss(same, 0.1)) == pytest.approx(math.log(11), abs=1e-5)
    # Two images in opposite directions: e^(1/T) against e^(1/T) + 2 e^(-1/T).
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).expand(2, 2, 2)
    expected = math.log(math.exp(2) + 2 * math.exp(-2)) - 2
    assert float(view_contrast_loss(apart, 0.5)) == pytest.approx(expected, abs=1e-6)


def test_order_of_views_and_images_does_not_matter_and_more_contrast_costs_more():
    z = views()
    loss = view_contrast_loss(z, 0.2)
    torch.testing.assert_close(view_contrast_loss(z.flip(0), 0.2), loss)
    torch.testing.assert_close(view_contrast_loss(z.flip(1), 0.2), loss)
    # With both views, an image meets the other views of its own kind besides those of the other.
    assert view_contrast_loss(z[:2], 0.2) > clip_loss(z[0], z[1], 1 / 0.2)


def test_low_precision_is_summed_in_float32_and_gradients_reach_all_views():
    z = views().float().to(torch.bfloat16).requires_grad_()
    loss = view_contrast_loss(z, 0.1)
    loss.backward()
    assert loss.dtype == torch.float32 and z.grad.isfinite().all() and (z.grad.abs().sum(-1) > 0).all()


def test_one_view_is_an_error():
    with pytest.raises(ValueError, match="at least two views"):
        view_contrast_loss(views(1))


def loss_of(rows, gather):
    raw = torch.randn(VIEWS, BATCH, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.randn(3, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    loss = view_contrast_loss(F.normalize(raw[:, rows] @ weight, dim=-1), 0.3, gather)
    return loss, torch.autograd.grad(loss, weight)[0]


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    loss, gradient = loss_of(slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD), gather=True)
    loss = loss.detach()
    for value in (loss, gradient):
        dist.all_reduce(value)
        value /= WORLD
    torch.save((loss, gradient), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    multiprocessing.spawn(work, (tmp_path / "rendezvous", tmp_path), WORLD)
    loss, gradient = loss_of(slice(None), gather=False)
    for rank in range(WORLD):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs[0], loss.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(theirs[1], gradient, rtol=1e-12, atol=1e-12)
