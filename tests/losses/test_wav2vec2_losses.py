"""Losses of wav2vec 2.0 against values worked out by hand and against transformers' formula."""

import math

import pytest
import torch

from perception.layers.span_mask import sample_negatives
from perception.losses.wav2vec2 import (
    contrast_accuracy,
    contrast_logits,
    contrast_loss,
    diversity_loss,
    fairseq_total,
    perplexity,
    transformers_total,
)


def inputs(lengths, dim, seed=0):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    count = int(mask.sum())
    return mask, torch.randn(count, dim), torch.randn(count, dim), torch.arange(count)[:, None]


def test_random_vectors_give_the_gaussian_estimate():
    mask, c, q, codes = inputs([400] * 6, 256)
    logits = contrast_logits(c, q, codes, sample_negatives(mask, 100), mask, 0.1)
    mean = contrast_loss(logits).item() / len(c)
    # The estimate is asymptotic: it is a little too large for K = 100.
    assert mean == pytest.approx(math.log(101) + 100 / 101 / (2 * 0.1**2 * 256), abs=0.03)
    assert contrast_accuracy(logits).item() == pytest.approx(1 / 101, abs=0.01)


def test_equal_vectors_give_the_log_of_the_number_of_choices():
    mask, _, _, codes = inputs([5, 3], 4)
    same = torch.ones(8, 4)
    logits = contrast_logits(same, same, codes, sample_negatives(mask, 7), mask)
    assert contrast_loss(logits).item() / 8 == pytest.approx(math.log(8), abs=1e-6)
    assert contrast_accuracy(logits) == 0


def test_orthogonal_distractors():
    mask, _, _, codes = inputs([6], 6)
    eye = torch.eye(6)
    logits = contrast_logits(eye, eye, codes, sample_negatives(mask, 9), mask, 0.5)
    assert contrast_loss(logits).item() / 6 == pytest.approx(math.log(1 + 9 * math.exp(-2)), abs=1e-6)
    assert contrast_accuracy(logits) == 1


@pytest.mark.parametrize("lengths", [[6, 6], [7, 2, 4]])
def test_every_logit_is_a_cosine_and_equal_codes_are_left_out(lengths):
    mask, c, q, _ = inputs(lengths, 5)
    codes = torch.randint(2, (len(c), 2))
    q = torch.randn(4, 5)[codes[:, 0] * 2 + codes[:, 1]]  # equal codes, equal vectors
    negatives = sample_negatives(mask, 6)
    logits = contrast_logits(c, q, codes, negatives, mask, 0.1)
    first = [sum(lengths[:row]) for row, n in enumerate(lengths) for _ in range(n)]
    left_out = 0
    for t in range(len(c)):
        assert logits[t, 0].item() == pytest.approx(torch.cosine_similarity(c[t], q[t], 0).item() * 10, abs=1e-4)
        for k in range(6):
            other = first[t] + int(negatives[t, k])
            if torch.equal(q[t], q[other]):
                assert logits[t, k + 1] == -math.inf
                left_out += 1
            else:
                expected = torch.cosine_similarity(c[t], q[other], 0).item() * 10
                assert logits[t, k + 1].item() == pytest.approx(expected, abs=1e-4)
    assert left_out > 0


def test_gradients_are_finite_where_every_distractor_is_left_out():
    mask, c, q, _ = inputs([4], 3)
    c.requires_grad_()
    loss = contrast_loss(contrast_logits(c, q, torch.zeros(4, 2).long(), sample_negatives(mask, 3), mask))
    loss.backward()
    assert loss.item() == 0 and torch.equal(c.grad, torch.zeros_like(c))


def test_diversity_of_uniform_usage_and_of_collapse():
    uniform, collapsed = torch.full((2, 8), 1 / 8), torch.eye(8)[:2]
    assert perplexity(uniform).item() == pytest.approx(16, abs=1e-4)
    assert diversity_loss(uniform).item() == pytest.approx(0, abs=1e-5)
    assert perplexity(collapsed).item() == pytest.approx(2)
    assert diversity_loss(collapsed).item() == pytest.approx((16 - 2) / 16)
    half = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    assert diversity_loss(half).item() == pytest.approx((4 - 2) / 4)


def test_totals():
    parts = torch.tensor(30.0), torch.tensor(0.5), torch.tensor(0.2)
    assert fairseq_total(*parts, 20).item() == pytest.approx(30 + 20 * (0.05 + 2.0))
    assert fairseq_total(*parts, 20, penalty_weight=0).item() == pytest.approx(31)
    assert transformers_total(*parts[:2], 20).item() == pytest.approx(30 + 0.1 * 20 * 0.5)
