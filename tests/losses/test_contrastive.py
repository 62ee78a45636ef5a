"""Contrastive losses against formulae written out by hand, and against open_clip's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from perception.losses.contrastive import clip_loss, gather_with_grad, multi_positive_targets, siglip_loss

SCALE = 5.0


def towers(count=7, dim=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randn(count, dim, generator=generator, dtype=dtype) for _ in range(2))
    return tuple(F.normalize(x, dim=1).requires_grad_() for x in draws)


def literal_clip(image, text, scale, targets=None):
    """Softmax cross-entropy in both directions, one logit at a time."""
    count = len(image)
    total = 0.0
    for i in range(count):
        row = [scale * torch.dot(image[i], text[j]) for j in range(count)]
        column = [scale * torch.dot(image[j], text[i]) for j in range(count)]
        row_sum, column_sum = (sum(torch.exp(x) for x in line) for line in (row, column))
        for j in range(count):
            share = float(i == j) if targets is None else targets[i][j]
            total = total - share * (
                torch.log(torch.exp(row[j]) / row_sum) + torch.log(torch.exp(column[j]) / column_sum)
            )
    return total / (2 * count)


def literal_siglip(image, text, scale, bias, positive):
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            sign = 1.0 if positive[i][j] else -1.0
            total = total + torch.log(1 + torch.exp(-sign * (scale * torch.dot(image[i], text[j]) + bias)))
    return total / len(image)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 7, 100])
def test_loss_and_gradients_are_those_of_written_out_cross_entropy(chunk_size):
    image, text = towers()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    ours, literal = clip_loss(image, text, scale, chunk_size=chunk_size), literal_clip(image, text, scale)
    torch.testing.assert_close(ours, literal)
    same(gradients(3 * ours, image, text, scale), gradients(3 * literal, image, text, scale))


def test_two_pairs_by_hand():
    # Logits [[a, b], [b, a]] with a = 2 cos 0 = 2, b = 2 cos 60 degrees = 1: every row and column costs
    # -log(e^2 / (e^2 + e)) = log(1 + 1/e).
    vectors = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert clip_loss(vectors, vectors, 2.0).item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    # SigLIP, scale 2, bias -1: pairs have logit 1, others 0: (2 log(1 + 1/e) + 2 log 2) / 2.
    expected = math.log(1 + math.exp(-1)) + math.log(2)
    assert siglip_loss(vectors, vectors, 2.0, -1.0).item() == pytest.approx(expected, rel=1e-6)


def test_swapping_towers_and_permuting_pairs_change_nothing():
    image, text = towers()
    loss = clip_loss(image, text, SCALE)
    torch.testing.assert_close(clip_loss(text, image, SCALE), loss)
    order = torch.tensor([3, 0, 6, 1, 5, 4, 2])
    torch.testing.assert_close(clip_loss(image[order], text[order], SCALE), loss)
    assert clip_loss(image[order], text, SCALE) > loss + 1e-3 or clip_loss(image[order], text, SCALE) < loss - 1e-3


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_a_batch_of_one_costs_exactly_nothing(scale):
    for seed in range(5):
        image, text = towers(1, 33, seed, torch.float32)
        assert clip_loss(image, text, scale).item() == 0.0
        assert clip_loss(image, text, scale, torch.tensor([9])).item() == 0.0


def test_extremes():
    one_hot = torch.eye(16)
    assert 0 <= clip_loss(one_hot, one_hot, 100.0).item() < 1e-6
    constant = F.normalize(torch.ones(16, 8), dim=1)
    assert clip_loss(constant, constant, 100.0).item() == pytest.approx(math.log(16), rel=1e-6)
    # Every row at its worst: the pair has cosine -1, all others 1.
    opposed = clip_loss(constant[:1].repeat(2, 1), -constant[:1].repeat(2, 1), 100.0)
    assert opposed.item() == pytest.approx(math.log(2), rel=1e-6)


def test_columns_far_below_the_rest_do_not_underflow():
    # At scale 100 the columns of one text are e^-200 of the others': a shared maximum would lose them.
    image = torch.eye(4, dtype=torch.float64)[:, :2].clone()
    image[2:, 0] = 1.0
    text = image.clone()
    text[3] = -text[3]
    for chunk_size in (1, 4):
        image_f, text_f = image.float().requires_grad_(), text.float().requires_grad_()
        loss = clip_loss(image_f, text_f, 100.0, chunk_size=chunk_size)
        expected = literal_clip(image, text, 100.0)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert all(torch.isfinite(g).all() for g in gradients(loss, image_f, text_f))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_multi_positive_rows_are_spread_over_equal_texts(chunk_size):
    image, text = towers()
    groups = torch.tensor([4, 7, 4, 1, 7, 4, 2])
    third, half = 1 / 3, 1 / 2
    targets = [
        [third, 0, third, 0, 0, third, 0],
        [0, half, 0, 0, half, 0, 0],
        [third, 0, third, 0, 0, third, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, half, 0, 0, half, 0, 0],
        [third, 0, third, 0, 0, third, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    torch.testing.assert_close(multi_positive_targets(groups), torch.tensor(targets))
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    ours = clip_loss(image, text, scale, groups, chunk_size)
    literal = literal_clip(image, text, scale, targets)
    torch.testing.assert_close(ours, literal)
    same(gradients(ours, image, text, scale), gradients(literal, image, text, scale))
    assert abs(ours.item() - clip_loss(image, text, SCALE).item()) > 1e-3  # the texts differ in their embeddings here


def test_multi_positive_without_repeats_is_the_plain_loss():
    image, text = towers(dtype=torch.float32)
    groups = torch.arange(7) * 2**40 + 5
    plain, spread = clip_loss(image, text, SCALE), clip_loss(image, text, SCALE, groups)
    assert plain.item() == spread.item()
    for a, b in zip(gradients(plain, image, text), gradients(spread, image, text), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)
    bias = torch.tensor(-3.0)
    assert siglip_loss(image, text, SCALE, bias).item() == siglip_loss(image, text, SCALE, bias, groups).item()


def test_equal_embeddings_of_equal_texts_make_spreading_a_no_op():
    # Columns of equal texts are equal, so how a target is divided among them cannot matter: what the docstring says.
    image, distinct = towers()
    groups = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    weights = distinct.detach()[:4].clone().requires_grad_()
    losses = [clip_loss(image, weights[groups], SCALE, targets) for targets in (None, groups)]
    torch.testing.assert_close(*losses)
    same(*(gradients(loss, image, weights) for loss in losses))


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 1, 0, 2, 1, 0, 3])])
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_siglip_is_the_written_out_sigmoid_loss(groups, chunk_size):
    image, text = towers()
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (SCALE, -2.0))
    positive = torch.eye(7) if groups is None else groups[:, None] == groups[None, :]
    ours = siglip_loss(image, text, scale, bias, groups, chunk_size)
    literal = literal_siglip(image, text, scale, bias, positive.tolist())
    torch.testing.assert_close(ours, literal)
    inputs = (image, text, scale, bias)
    same(gradients(2 * ours, *inputs), gradients(2 * literal, *inputs))


def test_open_clip_computes_the_same():
    losses = pytest.importorskip("open_clip.loss")
    image, text = towers(33, 16, dtype=torch.float32)
    theirs = losses.ClipLoss()(image, text, torch.tensor(20.0))
    assert clip_loss(image, text, 20.0).item() == pytest.approx(theirs.item(), rel=1e-5)
    theirs = losses.SigLipLoss()(image, text, torch.tensor(20.0), torch.tensor(-8.0))
    assert siglip_loss(image, text, 20.0, -8.0).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [clip_loss, lambda *args: siglip_loss(*args, -1.0)])
def test_low_precision_is_computed_in_float32(loss):
    image, text = towers(dtype=torch.float32)
    exact = loss(image.bfloat16().float(), text.bfloat16().float(), SCALE)
    low = [x.detach().bfloat16().requires_grad_() for x in (image, text)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*low, SCALE)
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert low[0].grad.dtype == torch.bfloat16


def test_memory_does_not_hold_the_matrix():
    count = 512
    image, text = towers(count, 8, dtype=torch.float32)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        clip_loss(image, text, SCALE, torch.arange(count) % 9, chunk_size=32)
        siglip_loss(image, text, SCALE, -1.0, torch.arange(count) % 9, chunk_size=32)
    assert max(stored) <= 8 * count  # nothing larger than the embeddings


def test_one_process_gathers_nothing():
    tensor = torch.ones(2)
    assert gather_with_grad(tensor) is tensor
    image, text = towers()
    assert clip_loss(image, text, SCALE, gather=True) == clip_loss(image, text, SCALE)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pair by pair"):
        clip_loss(torch.zeros(2, 3), torch.zeros(3, 3), 1.0)
    with pytest.raises(ValueError, match="one number a text"):
        clip_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, torch.zeros(3, dtype=torch.int64))
