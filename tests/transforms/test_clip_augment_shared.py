"""Augmentations that images and clips share: every frame of a clip is treated alike."""

import numpy as np
import pytest
import torch

from perception.registry import TRANSFORMS
from perception.transforms.randomness import SampleRandom


def still(frames=3):
    image = torch.randint(0, 256, (4, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return image, image[:, :, None].repeat(1, 1, frames, 1, 1)


def random():
    return SampleRandom(5, 0, np.arange(4))


@pytest.mark.parametrize("config", [dict(type="RandAugment", magnitude=7, num_ops=4, probability=1.0)])
def test_frames_go_through_the_operations_of_an_image(config):
    image, clips = still()
    alone = TRANSFORMS.build(dict(config))({"image": image}, random())["image"]
    out = TRANSFORMS.build(dict(config))({"video": clips}, random())["video"]
    assert out.shape == clips.shape and not torch.equal(out, clips)
    assert torch.equal(out, alone[:, :, None].expand_as(out))


def test_the_same_rectangle_is_erased_in_every_frame():
    _, clips = still()
    out = TRANSFORMS.build(dict(type="RandomErasing", probability=1.0, area=(0.2, 0.3)))({"video": clips}, random())
    changed = (out["video"] != clips).any(1)  # (n, T, H, W)
    for sample in changed:
        rows, columns = sample.any(0).any(1).nonzero(), sample.any(0).any(0).nonzero()
        box = sample[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.95 and sample.sum() == box.sum()


@pytest.mark.parametrize("options", [dict(mixup=0.8, cutmix=0.0), dict(mixup=0.0, cutmix=1.0)])
def test_clips_are_mixed_as_their_frames_would_be(options):
    image, clips = still()
    label = torch.tensor([0, 1, 2, 0])
    mix = TRANSFORMS.build(dict(type="Mix", num_classes=3, **options))
    alone = mix({"image": image, "label": label}, random())
    out = mix({"video": clips, "label": label}, random())
    assert torch.equal(out["label"], alone["label"])
    assert torch.equal(out["video"], alone["image"][:, :, None].expand_as(clips))
