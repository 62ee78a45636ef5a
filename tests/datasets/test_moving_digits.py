"""Labels are what the pixels do, and nothing that stands still tells them."""

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from perception.backbones.video_vit import VideoViT
from perception.datasets.moving_digits import COUNTS, MEAN, STD, TASKS, MovingDigits, draw_clips
from perception.errors import ConfigError
from perception.transforms.video_preprocess import VideoPreprocess


def step_of(ink):
    """Steps in pixels, (n, T - 1, 2) in y and x, of what is bright in clips (n, T, S, S).

    By the phase of the slowest wave along each axis: a cyclic shift by d pixels turns it by -2 pi d / S.
    """
    size = ink.shape[-1]
    spectrum = np.fft.fft2(ink.astype(np.float64))
    waves = np.stack([spectrum[..., 1, 0], spectrum[..., 0, 1]], axis=-1)
    return -np.angle(waves[:, 1:] * waves[:, :-1].conj()) * size / (2 * np.pi)


def plain(task, **options):
    data = MovingDigits("test", task=task, texture=0.0, count=120, **options)
    grey = data.clips.astype(np.float64)
    return data, step_of(np.clip(grey - 150, 0, None)), step_of(np.clip(106 - grey, 0, None))


def turned(steps):
    """Angle of the mean step, clockwise from the right."""
    mean = steps.mean(1)
    return np.arctan2(mean[:, 0], mean[:, 1])


def apart(angle, target):
    return np.abs((angle - target + np.pi) % (2 * np.pi) - np.pi)


def test_directions_and_their_names():
    data, bright, _ = plain("direction")
    expected = np.array([[0, 3], [3, 0], [0, -3], [-3, 0]])  # y, x: right, down, left, up
    assert data.classes == ("right", "down", "left", "up") and np.bincount(data.labels).tolist() == [30] * 4
    np.testing.assert_allclose(bright.mean(1), expected[data.labels], atol=0.35)
    _, bright, _ = plain("direction", size=64, speed=2.0)
    np.testing.assert_allclose(np.linalg.norm(bright.mean(1), axis=1), 4.0, atol=0.4)  # 32nds of 64


def test_the_other_labels_are_what_the_digits_do():
    # Digits that cross each other hide parts: most clips, not all, can be read so simply.
    data, bright, dark = plain("relative")
    assert (apart(turned(dark) - turned(bright), data.labels * np.pi / 2) < 0.4).mean() > 0.85
    assert len(np.unique(np.round(turned(bright) / (np.pi / 4)) % 8)) == 8
    data, bright, _ = plain("turn")
    before, after = turned(bright[:, :3]), turned(bright[:, 3:])  # steps into frames 1 to 3, and 4 to 7
    assert (apart(after - before, np.where(data.labels == 0, np.pi / 2, -np.pi / 2)) < 0.6).mean() > 0.95
    data, bright, _ = plain("speed")
    speed = np.linalg.norm(bright, axis=2).mean(1)
    np.testing.assert_allclose(speed, np.array([1.5, 3.0, 6.0])[data.labels], atol=0.9)


def score(train, test, labels, truth):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return probe.fit(train, labels).score(test, truth)


def pooled(clips):
    n, frames, size, _ = clips.shape
    return clips.reshape(n, frames, 8, size // 8, 8, size // 8).mean((3, 5), dtype=np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_static_pixels_are_at_chance(task):
    train, test = MovingDigits("train", task=task, count=1200), MovingDigits("test", task=task, count=600)
    a, b = pooled(train.clips), pooled(test.clips)
    chance = 1 / len(TASKS[task])
    bound = chance + 3.5 * np.sqrt(chance * (1 - chance) / len(test))
    for name, pick in {
        "mean over time": lambda x: x.mean(1),
        "first frame": lambda x: x[:, 0],
        "middle frame": lambda x: x[:, 4],
        "last frame": lambda x: x[:, -1],
    }.items():
        found = score(pick(a).reshape(len(a), -1), pick(b).reshape(len(b), -1), train.labels, test.labels)
        assert found < bound, f"{name}: {found:.3f}"


@pytest.mark.slow
def test_an_untrained_encoder_stays_below_sixty_percent():
    train, test = MovingDigits("train", count=1200), MovingDigits("test", count=600)
    torch.manual_seed(0)
    record = VideoPreprocess(size=32, frames=8, mean=MEAN, std=STD)
    encoder = VideoViT(32, 8, 8, 2, embed_dim=192, depth=4, num_heads=4, preprocess=record).eval()

    def features(data):
        with torch.no_grad():
            parts = [encoder.encode(record(data.fetch(rows))) for rows in np.array_split(np.arange(len(data)), 8)]
        return torch.cat(parts).numpy()

    found = score(features(train), features(test), train.labels, test.labels)
    assert 0.25 < found < 0.60


def test_batches():
    data = MovingDigits("train", count=300)
    batch = data.__getitems__([5, 250])
    assert batch["video"].shape == (2, 3, 8, 32, 32) and batch["video"].dtype == torch.uint8
    assert torch.equal(batch["video"][:, 0], torch.from_numpy(data.clips[[5, 250]]))
    assert batch["video"].is_contiguous() and (batch["video"] == batch["video"][:, :1]).all()
    assert batch["label"].tolist() == [1, 2] and batch["index"].tolist() == [5, 250]
    assert "label" not in MovingDigits("pretrain", count=8).__getitems__([0])
    few = MovingDigits("train", per_class=10)
    assert len(few) == 40 and np.bincount(few.labels).tolist() == [10] * 4
    assert np.array_equal(few.clips, data.clips[:40])  # the first of a longer set
    assert COUNTS == {"pretrain": 4000, "train": 2000, "val": 400, "test": 800}


def test_clips_follow_from_the_seed_of_the_world_and_the_split():
    draw_clips.cache_clear()
    first = MovingDigits("val", count=60).clips
    draw_clips.cache_clear()
    assert np.array_equal(MovingDigits("val", count=60, seed=5).clips, first)
    for other in (MovingDigits("val", count=60, world_seed=1), MovingDigits("test", count=60)):
        assert (other.clips != first).mean() > 0.9


def test_statistics_and_speed_of_drawing():
    start = time.process_time()
    data = MovingDigits("train", count=600, world_seed=77)
    assert time.process_time() - start < 3.0  # 0.3 s on an idle core
    values = data.clips / 255
    assert abs(values.mean() - MEAN[0]) < 0.01 and abs(values.std() - STD[0]) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "Did you mean 'train'"),
        ({"task": "directions"}, "nearest is 'direction'"),
        ({"frames": 1}, "at least 2"),
        ({"size": 8}, "at least 16"),
        ({"per_class": 0}, "at least 1"),
        ({"roughness": 0}, "positive"),
        ({"noise": 200}, "at most 127"),
    ],
)
def test_faults_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MovingDigits(**options)
