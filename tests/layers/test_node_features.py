import pytest
import torch

from perception.layers.node_features import NodeFeatures, dropout, keep_mask, take_rows


@pytest.fixture
def parts():
    torch.manual_seed(0)
    x = torch.randn(9, 6, dtype=torch.float64) * (torch.rand(9, 6) < 0.3)
    x[4] = 0
    token = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    return x, token, torch.tensor([7, 2, 3]), weight


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("with_token", [True, False])
def test_linear_equals_the_dense_product_with_gradients(parts, sparse, with_token):
    x, token, rows, weight = parts
    features = NodeFeatures(x.to_sparse_csr() if sparse else x)
    full = x.clone()
    if with_token:
        features = features.with_token(token, rows)
        full = full.index_copy(0, rows, token.expand(3, -1))
    torch.testing.assert_close(features.dense(), full)
    out, expected = features.linear(weight), full @ weight.t()
    torch.testing.assert_close(out, expected)
    probe = torch.randn_like(out)
    wanted = [weight, token] if with_token else [weight]
    for got, ref in zip(
        torch.autograd.grad((out * probe).sum(), wanted),
        torch.autograd.grad((expected * probe).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(got, ref)


@pytest.mark.parametrize("sparse", [True, False])
def test_dropout_keeps_the_mean_and_masks_every_token_row_by_itself(parts, sparse):
    x, token, rows, _ = parts
    token = token.detach() + 1.0
    features = NodeFeatures(x.to_sparse_csr() if sparse else x).with_token(token, rows)
    eye = torch.eye(6, dtype=torch.float64)  # the product with it shows the dropped rows themselves
    draws = torch.stack([features.linear(eye, 0.2, True) for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), features.dense(), atol=0.12, rtol=0)
    zero = (draws[:, rows] == 0).double()
    assert zero.mean().item() == pytest.approx(0.2, abs=0.01)
    first, second = zero[:, 0], zero[:, 1]
    assert ((first * second).mean() - first.mean() * second.mean()).abs() < 0.01  # independent masks
    assert torch.equal(features.linear(eye, 0.2, False), features.dense())


def test_gradients_of_the_token_product_under_dropout(parts):
    x, token, rows, weight = parts
    features = NodeFeatures(x.to_sparse_csr())

    def product(token, weight):
        torch.manual_seed(3)
        return features.with_token(token, rows).linear(weight, 0.3, True)

    assert torch.autograd.gradcheck(product, (token, weight))


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_the_fast_mask_has_the_right_rate_and_scale(rate):
    torch.manual_seed(0)
    keep, scale = keep_mask((1000, 501), rate, "cpu")
    assert keep.shape == (1000, 501)
    assert keep.float().mean().item() == pytest.approx(1 - rate, abs=0.003)
    assert scale == pytest.approx(1 / (1 - rate), rel=1e-3)
    columns = keep.float().mean(0)  # no column is special: the four parts of a random word are alike
    assert (columns - (1 - rate)).abs().max() < 0.08


def test_dropout_is_off_in_eval_and_repeatable_in_training():
    x = torch.ones(50, 7)
    assert dropout(x, 0.5, False) is x
    torch.manual_seed(1)
    first = dropout(x, 0.5, True)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(x, 0.5, True))
    assert set(first.unique().tolist()) == {0.0, 2.0}


def test_take_rows_of_csr(parts):
    x, *_ = parts
    rows = torch.tensor([8, 0, 0, 4])
    torch.testing.assert_close(take_rows(x.to_sparse_csr(), rows).to_dense(), x[rows])
    torch.testing.assert_close(take_rows(x, rows), x[rows])
