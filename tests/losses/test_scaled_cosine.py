import pytest
import torch

from perception.losses.scaled_cosine import scaled_cosine_error


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_zero_for_proportional_rows_and_two_to_the_alpha_for_opposite_ones(rows, alpha):
    x, _ = rows
    scale = torch.rand(7, 1, dtype=torch.float64) + 0.1
    assert scaled_cosine_error(scale * x, x, alpha).item() == pytest.approx(0.0, abs=1e-7)
    assert scaled_cosine_error(-scale * x, x, alpha).item() == pytest.approx(2.0**alpha)


def test_invariant_to_positive_rescaling_of_either_row(rows):
    x, y = rows
    scale = torch.rand(7, 1, dtype=torch.float64) * 100 + 0.01
    expected = scaled_cosine_error(x, y, 3.0)
    torch.testing.assert_close(scaled_cosine_error(scale * x, y, 3.0), expected)
    torch.testing.assert_close(scaled_cosine_error(x, scale * y, 3.0), expected)


def test_alpha_one_is_one_minus_the_mean_cosine(rows):
    x, y = rows
    expected = 1 - torch.nn.functional.cosine_similarity(x, y).mean()
    torch.testing.assert_close(scaled_cosine_error(x, y, 1.0), expected)


def test_hand_computed_value():
    prediction = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # cosines 0.6 and 0
    assert scaled_cosine_error(prediction, target, 2.0).item() == pytest.approx((0.4**2 + 1.0) / 2)


def test_a_zero_target_gives_one_and_no_gradient():
    prediction = torch.randn(2, 3, requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    scaled_cosine_error(prediction, target, 2.0).backward()
    assert scaled_cosine_error(prediction[:1], target[:1], 2.0).item() == 1.0
    assert (prediction.grad[0] == 0).all()
    assert (prediction.grad[1] != 0).any()


def test_a_zero_prediction_gives_one_and_the_gradient_of_the_formula():
    prediction = torch.zeros(1, 4, requires_grad=True)
    loss = scaled_cosine_error(prediction, torch.ones(1, 4), 2.0)
    loss.backward()
    assert loss.item() == 1.0
    # d/dp (1 - <p, t> / (eps |t|))^2 at p = 0 is -2 t / (eps |t|), with |t| = 2.
    torch.testing.assert_close(prediction.grad, torch.full((1, 4), -1e12))


def test_gradient(rows):
    x, y = rows
    assert torch.autograd.gradcheck(lambda a: scaled_cosine_error(a, y, 3.0), (x.clone().requires_grad_(),))


def test_tiny_rows_do_not_underflow():
    x = torch.tensor([[1e-11, 2e-11]])
    assert scaled_cosine_error(x, x * 1e-1 * 5, 1.0).item() == pytest.approx(0.0, abs=1e-6)
