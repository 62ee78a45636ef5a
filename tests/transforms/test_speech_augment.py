from typing import ClassVar

import numpy as np
import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.registry import TRANSFORMS
from perception.transforms.randomness import SampleRandom
from perception.transforms.speech_augment import (
    SpeechChannel,
    SpeechGain,
    SpeechMask,
    SpeechNoise,
    SpeechSpeed,
    SpeechViews,
)

RATE = 8000
LENGTHS = (4000, 2500, 1200, 3000)


def batch(lengths=LENGTHS, level=0.1):
    audio = torch.zeros(len(lengths), max(lengths))
    for i, n in enumerate(lengths):
        audio[i, :n] = level * torch.randn(n, generator=torch.Generator().manual_seed(n)).clamp(-3, 3)
    return {"audio": audio, "audio_length": torch.tensor(lengths), "sample_rate": RATE}


def random(rows=range(4), epoch=0):
    return SampleRandom(0, epoch, np.array(list(rows)))


EVERY = [
    dict(type="SpeechGain"),
    dict(type="SpeechNoise"),
    dict(type="SpeechChannel"),
    dict(type="SpeechSpeed"),
    dict(type="SpeechMask"),
    dict(type="SpeechViews", crop_seconds=0.2, transforms=[dict(type="SpeechNoise"), dict(type="SpeechSpeed")]),
]


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c["type"])
def test_a_clip_does_not_depend_on_its_batch(config):
    transform = TRANSFORMS.build(dict(config))
    raw = batch()
    before = raw["audio"].clone()
    whole = transform(raw, random())
    assert torch.equal(raw["audio"], before)
    small = batch(LENGTHS[2:3])
    alone = transform({**small, "audio": raw["audio"][2:3, :1200]}, random([2]))
    n = int(alone["audio_length"][0])
    assert int(whole["audio_length"][2]) == n
    assert torch.allclose(whole["audio"][2, :n], alone["audio"][0, :n], atol=1e-5)
    for i, length in enumerate(whole["audio_length"].tolist()):
        assert (whole["audio"][i, length:] == 0).all()
    again, later = transform(batch(), random()), transform(batch(), random(epoch=1))
    assert torch.equal(again["audio"], whole["audio"])
    assert later["audio"].shape != whole["audio"].shape or not torch.equal(later["audio"], whole["audio"])


def test_a_channel_has_lines_between_random_gains():
    """A tone at each of the frequencies is louder by its gain; one half way by the mean of two."""
    at = torch.arange(8000) / RATE
    hertz = torch.tensor([800.0, 1600.0, 2400.0, 2000.0, 3200.0])
    raw = {"audio": 0.05 * torch.sin(2 * torch.pi * hertz[:, None] * at), "sample_rate": RATE}
    stream = SampleRandom(0, 0, np.zeros(5, dtype=np.int64))  # one channel for all
    out = SpeechChannel(decibels=9.0, points=6)(raw, stream)["audio"]
    again = SampleRandom(0, 0, np.zeros(1, dtype=np.int64))
    again.uniform()  # who is changed
    drawn = np.array([again.uniform(-9.0, 9.0)[0] for _ in range(6)])
    gains = drawn - drawn.mean()  # at 0, 800, ..., 4000 Hz
    expected = [gains[1], gains[2], gains[3], (gains[2] + gains[3]) / 2, gains[4]]
    middle = slice(1000, 7000)
    louder = 20 * torch.log10(out[:, middle].std(1) / raw["audio"][:, middle].std(1))
    assert np.ptp(expected) > 5 and louder.numpy() == pytest.approx(expected, abs=0.3)
    flat = SpeechChannel(decibels=0.0)(batch(), random())
    assert torch.allclose(flat["audio"], batch()["audio"], atol=1e-5)
    assert torch.equal(SpeechChannel(probability=0.0)(batch(), random())["audio"], batch()["audio"])


def test_gain_in_decibels():
    raw = batch(level=0.05)
    out = SpeechGain((6.0, 6.0))(raw, random())
    assert torch.allclose(out["audio"], raw["audio"] * 10 ** (6 / 20))
    assert SpeechGain((40.0, 40.0))(raw, random())["audio"].abs().max() == 1
    assert torch.equal(SpeechGain(probability=0.0)(raw, random())["audio"], raw["audio"])


def test_noise_has_the_ratio_asked_for():
    raw = batch()
    added = SpeechNoise((12.0, 12.0))(raw, random())["audio"] - raw["audio"]
    for i, n in enumerate(LENGTHS):
        ratio = raw["audio"][i, :n].square().mean() / added[i, :n].square().mean()
        assert 10 * torch.log10(ratio) == pytest.approx(12, abs=0.01)
    assert abs(np.corrcoef(added[0, :1200], added[2, :1200])[0, 1]) < 0.1
    two = SpeechNoise()(SpeechNoise()(raw, shared := random()), shared)  # two in a row draw different noise
    assert not torch.equal(two["audio"], raw["audio"])


def test_speed_moves_pitch_and_length():
    time = torch.arange(4000) / RATE
    raw = {"audio": 0.5 * torch.sin(2 * torch.pi * 400 * time)[None], "audio_length": torch.tensor([4000])}
    out = SpeechSpeed((1.25,))(raw, random([0]))
    assert out["audio"].shape == (1, 3200) and out["audio_length"].tolist() == [3200]
    spectrum = torch.fft.rfft(out["audio"][0] * torch.hann_window(3200)).abs()
    assert abs(spectrum.argmax() * RATE / 3200 - 500) < 3
    assert torch.equal(SpeechSpeed((1.0,))(batch(), random())["audio"], batch()["audio"])
    counts = np.bincount([len(SpeechSpeed()(batch((900,)), random([i]))["audio"][0]) for i in range(300)])
    assert set(np.flatnonzero(counts)) == {818, 900, 1000} and counts[[818, 900, 1000]].min() > 70


def test_masks_in_time_and_frequency():
    raw = batch((4000,) * 4)
    raw["audio"] = raw["audio"] + 0.7  # nowhere zero
    out = SpeechMask(1, 0.25, 0)(raw, random())["audio"]
    gone = out == 0
    for row in gone:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.int(), [0]])))
        assert len(edges) in (0, 2) and int(row.sum()) <= 1000  # one stretch, at most a quarter
    assert torch.equal(out[~gone], raw["audio"][~gone]) and gone.any()
    same = SpeechMask(0, 0.1, 1, 0.0)(batch(), random())["audio"]
    assert torch.allclose(same, batch()["audio"], atol=1e-5)  # a band of no width
    noise = {**batch((8000,) * 64)}
    stopped = SpeechMask(0, 0.1, 1, 1000.0)(noise, random(range(64)))["audio"]
    power = torch.fft.rfft(stopped).abs().square() / torch.fft.rfft(noise["audio"]).abs().square().clamp_min(1e-12)
    deep = (power.unflatten(1, (-1, 1)).flatten(1)[:, :4000].unfold(1, 40, 40).mean(-1) < 1e-3).float().mean(1) * 4000
    assert float(deep.max()) <= 1000
    lost = 1 - stopped.square().mean(1) / noise["audio"].square().mean(1)
    assert float(lost.mean()) == pytest.approx(500 / 4000, abs=0.025)  # widths are uniform in 0 to 1000 Hz of 4000


def test_views_are_windows_of_the_clip():
    raw = batch()
    out = SpeechViews(0.2, 3)(raw, random())
    assert len(out["views"]) == len(out["view_lengths"]) == 3
    assert out["audio"] is out["views"][0] and out["audio_length"] is out["view_lengths"][0]
    firsts = set()
    for view, length in zip(out["views"], out["view_lengths"], strict=True):
        assert view.shape == (4, 1600) and length.tolist() == [1600, 1600, 1200, 1600]
        assert torch.equal(view[2, :1200], raw["audio"][2, :1200]) and (view[2, 1200:] == 0).all()
        starts = [a for a in range(4000 - 1599) if torch.equal(raw["audio"][0, a : a + 1600], view[0])]
        assert len(starts) == 1
        firsts |= set(starts)
    assert len(firsts) == 3


def test_views_reach_pretexts_with_their_lengths():
    from perception.pretext.shared import encode_views

    class Probe:
        modality = "audio"
        derived_features: ClassVar[dict] = {}

        def feature_choices(self):
            return ("pooled",)

        def encode(self, batch, feature):
            return batch["audio"].sum(1, keepdim=True) / batch["audio_length"][:, None]

    out = SpeechViews(0.2)(batch(), random())
    found = encode_views(Probe(), out, None, "all")
    means = [view.sum(1) / length for view, length in zip(out["views"], out["view_lengths"], strict=True)]
    assert torch.allclose(found[..., 0], torch.stack(means))
    one = encode_views(Probe(), batch())
    assert torch.allclose(one[0, :, 0], batch()["audio"].sum(1) / batch()["audio_length"])


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (dict(type="SpeechGain", decibels=(6, -6)), "rising pair"),
        (dict(type="SpeechNoise", probability=2), r"\[0, 1\]"),
        (dict(type="SpeechSpeed", factors=[3.0]), r"0\.5 to 2"),
        (dict(type="SpeechMask", time_fraction=1.5), r"\[0, 1\]"),
        (dict(type="SpeechViews", crop_seconds=0.0), "positive"),
    ],
)
def test_faults(config, text):
    with pytest.raises(ConfigError, match=text):
        TRANSFORMS.build(dict(config))


def test_batches_without_audio():
    with pytest.raises(DataError, match=r"SpeechGain needs 'audio'.*image"):
        SpeechGain()({"image": torch.zeros(1)}, random([0]))
    with pytest.raises(DataError, match="needs 'sample_rate'"):
        SpeechMask()({"audio": torch.zeros(1, 800)}, random([0]))
