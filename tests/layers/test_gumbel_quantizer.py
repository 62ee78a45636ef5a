"""The quantiser: temperature, straight-through gradient, usage."""

import pytest
import torch

from perception.layers.gumbel_quantizer import GumbelQuantizer, StraightThrough


def build(**changes):
    torch.manual_seed(0)
    return GumbelQuantizer(6, dim=8, groups=2, entries=5, **changes)


def test_temperature_follows_the_steps_and_is_saved():
    quantizer = build(start=2.0, decay=0.999995, floor=0.5)
    assert quantizer.temperature == 2.0
    quantizer.updates.fill_(1000)
    assert quantizer.temperature == pytest.approx(2 * 0.999995**1000)
    quantizer.updates.fill_(10**6)
    assert quantizer.temperature == 0.5
    other = build()
    other.load_state_dict(quantizer.state_dict())
    assert int(other.updates) == 10**6


def test_forward_is_one_hot_and_the_gradient_is_the_soft_ones():
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 5, dtype=torch.float64)
    soft = (logits / 0.7).softmax(dim=-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), 5).double()
    out = StraightThrough.apply(soft, hard)
    assert torch.equal(out, hard)
    (found,) = torch.autograd.grad((out * weights).sum(), logits)
    (expected,) = torch.autograd.grad(((logits / 0.7).softmax(dim=-1) * weights).sum(), logits)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_training_gives_exact_entries_and_gradients_of_the_noisy_softmax():
    quantizer = build().train()
    frames = torch.randn(7, 6, requires_grad=True)
    found = quantizer(frames, torch.Generator().manual_seed(3))
    book = quantizer.codevectors.view(2, 5, 4)
    expected = torch.cat([book[0, found.codes[:, 0]], book[1, found.codes[:, 1]]], dim=1)
    assert torch.equal(found.vectors, expected)
    weights = torch.randn(7, 8)
    (gradient,) = torch.autograd.grad((found.vectors * weights).sum(), frames)
    noise = -torch.empty(7, 2, 5).exponential_(generator=torch.Generator().manual_seed(3)).log()
    logits = (frames @ quantizer.weight_proj.weight.T).view(7, 2, 5)
    soft = ((logits + noise) / 2.0).softmax(-1)
    assert torch.equal(soft.argmax(-1), found.codes)
    mixed = torch.einsum("ngv,gvd->ngd", soft, book).flatten(1)
    (wanted,) = torch.autograd.grad((mixed * weights).sum(), frames)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_usage_ignores_noise_and_temperature_and_evaluation_draws_nothing():
    quantizer = build()
    frames = torch.randn(9, 6)
    logits = (frames @ quantizer.weight_proj.weight.T).view(9, 2, 5)
    trained, judged = quantizer.train()(frames), quantizer.eval()(frames)
    for found in (trained, judged):
        torch.testing.assert_close(found.soft, logits.softmax(-1).sum(0))
        assert torch.equal(found.hard, torch.nn.functional.one_hot(logits.argmax(-1), 5).sum(0).float())
    assert torch.equal(judged.codes, logits.argmax(-1)) and torch.equal(quantizer(frames).vectors, judged.vectors)


def test_start_of_the_weights():
    quantizer = GumbelQuantizer(512)
    assert quantizer.codevectors.min() >= 0 and quantizer.codevectors.max() <= 1
    assert quantizer.codevectors.mean().item() == pytest.approx(0.5, abs=0.01)
    assert quantizer.weight_proj.weight.std().item() == pytest.approx(1.0, abs=0.01)
    assert quantizer.weight_proj.bias.abs().max() == 0
