import numpy as np
import torch

from perception.losses.masked_pixels import masked_pixel_loss, normalize_patches, patch_statistics


def test_normalised_patches_have_mean_0_and_unbiased_variance_1():
    torch.manual_seed(0)
    patches = 3 + 2 * torch.randn(4, 9, 48)
    normed = normalize_patches(patches).double().numpy()
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(normed.var(-1, ddof=1), 1, atol=1e-5)
    mean, scale = patch_statistics(patches)
    torch.testing.assert_close(normalize_patches(patches) * scale + mean, patches)


def test_constant_patches_stay_finite():
    assert torch.equal(normalize_patches(torch.full((1, 1, 12), 5.0)), torch.zeros(1, 1, 12))


def test_loss_by_hand():
    pred = torch.tensor([[[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]]])
    target = torch.tensor([[[0.0, 1.0], [9.0, 9.0], [2.0, 4.0]]])
    mask = torch.tensor([[1.0, 0.0, 1.0]])
    assert masked_pixel_loss(pred, target, mask).item() == (2.5 + 2.0) / 2


def test_loss_ignores_kept_patches_and_is_0_at_the_target():
    torch.manual_seed(0)
    target, mask = torch.randn(2, 5, 6), torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 1, 1, 0]])
    pred = torch.randn(2, 5, 6, requires_grad=True)
    loss = masked_pixel_loss(pred, target, mask)
    loss.backward()
    assert (pred.grad.abs().sum(-1) > 0).float().equal(mask)
    changed = pred.detach() + 100 * (1 - mask[..., None])
    assert masked_pixel_loss(changed, target, mask).item() == loss.item()
    assert masked_pixel_loss(target, target, mask).item() == 0
    assert masked_pixel_loss(pred, target, torch.zeros(2, 5)).item() == 0


def test_zero_prediction_of_normalised_patches_scores_n_minus_1_over_n():
    target = normalize_patches(torch.randn(2, 5, 48, dtype=torch.float64))
    loss = masked_pixel_loss(torch.zeros(2, 5, 48), target, torch.ones(2, 5))
    assert abs(loss.item() - 47 / 48) < 1e-5
