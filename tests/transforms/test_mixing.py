"""Mixup and CutMix on batches whose pixels say which sample they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.errors import DataError
from perception.transforms.mixing import Mix
from perception.transforms.randomness import SampleRandom


def batch(n=6, size=8, dtype=torch.uint8):
    """Sample i is filled with 10 * i and has label i % 3."""
    values = (10 * torch.arange(n)).to(dtype)
    return {"image": values.view(n, 1, 1, 1).expand(n, 3, size, size).clone(), "label": torch.arange(n) % 3}


def draw(seed=0, n=6):
    return SampleRandom(seed, 0, np.arange(n))


@pytest.mark.parametrize("seed", range(5))
def test_mixup_pixels_and_labels_share_one_weight(seed):
    data = batch(dtype=torch.float32)
    out = Mix(3, mixup=0.8, cutmix=0.0)(data, draw(seed))
    # Sample 0 is 0 and its partner 50, so the pixel tells the partner's share; labels 0 and 2 must carry the same.
    partner = out["image"][0, 0, 0, 0].item() / 50
    assert out["label"][0].tolist() == pytest.approx([1 - partner, 0, partner], abs=1e-6)
    assert torch.allclose(out["label"].sum(1), torch.ones(6))
    assert torch.equal(out["image"].amin((1, 2, 3)), out["image"].amax((1, 2, 3)))


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_label_is_the_area_that_was_pasted(seed):
    out = Mix(3, mixup=0.0, cutmix=1.0)(batch(), draw(seed))
    pasted = (out["image"][0, 0] == 50).float().mean().item()
    assert set(out["image"][0].unique().tolist()) <= {0, 50}
    assert out["label"][0, 2].item() == pytest.approx(pasted, abs=1e-6)
    assert out["image"].dtype == torch.uint8


def test_both_occur_and_prob_zero_leaves_images_alone():
    flat = [Mix(3)(batch(dtype=torch.float32), draw(s))["image"][0].unique().numel() == 1 for s in range(40)]
    assert 5 < sum(flat) < 35
    out = Mix(3, prob=0.0)(batch(), draw())
    assert torch.equal(out["image"], batch()["image"])
    assert torch.equal(out["label"], torch.nn.functional.one_hot(batch()["label"], 3).float())


def test_the_draw_is_a_function_of_the_seed_and_the_input_is_untouched():
    data = batch()
    kept = {k: v.clone() for k, v in data.items()}
    first, again, other = (Mix(3)(data, draw(s)) for s in (1, 1, 2))
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["label"], again["label"])
    assert not torch.equal(first["label"], other["label"])
    assert all(torch.equal(data[k], kept[k]) for k in data)


def test_labels_without_a_class_are_refused():
    with pytest.raises(DataError, match=r"0\.\.1.*\[2\]"):
        Mix(2)(batch(), draw())


def test_check_config():
    sound = {"num_classes": 3, "mixup": 0.8, "cutmix": 1.0, "prob": 1.0, "switch_prob": 0.5}
    assert list(Mix.check_config(sound)) == []
    wrong = {**sound, "mixup": 0, "cutmix": 0, "prob": 2}
    assert [key for key, _ in Mix.check_config(wrong)] == ["mixup", "prob"]
