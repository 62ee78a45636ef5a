import math

import numpy as np
import pytest
import torch

from perception.errors import CheckpointError, ConfigError, DataError
from perception.layers.log_mel import log_mel, mean_and_deviation, mel_filters, segment_means
from perception.registry import PREPROCESSES
from perception.transforms.speech_preprocess import SpeechPreprocess

RATE = 8000


def batch(lengths=(4000, 2500, 300), rate=RATE, offset=0.2):
    generator = torch.Generator().manual_seed(0)
    audio = torch.rand(len(lengths), max(lengths), generator=generator) - 0.5 + offset
    length = torch.tensor(lengths)
    audio[torch.arange(max(lengths)) >= length[:, None]] = 0
    return {"audio": audio, "audio_length": length, "sample_rate": rate}


def test_utterances_get_mean_0_and_variance_1_over_real_samples():
    raw = batch()
    before = raw["audio"].clone()
    out = PREPROCESSES.build(dict(type="SpeechPreprocess", sample_rate=RATE, normalize="utterance"))(raw)
    for row, n in enumerate(raw["audio_length"].tolist()):
        clip = out["audio"][row]
        assert abs(clip[:n].mean()) < 1e-6 and abs(clip[:n].var(correction=0) - 1) < 1e-4
        assert (clip[n:] == 0).all()
    assert torch.equal(raw["audio"], before)


def test_normalisation_is_that_of_transformers():
    from transformers import Wav2Vec2FeatureExtractor

    raw = batch()
    clips = [clip[:n].numpy() for clip, n in zip(raw["audio"], raw["audio_length"].tolist(), strict=True)]
    clips[1] = clips[1] * 1e-4  # so soft that the epsilon counts
    raw["audio"][1] *= 1e-4
    theirs = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True)(
        clips, sampling_rate=RATE, padding=True, return_tensors="pt"
    )
    ours = SpeechPreprocess(RATE, "utterance")(raw)
    assert torch.allclose(ours["audio"], theirs["input_values"], atol=2e-5)


def test_plain_record_zeroes_padding_and_fills_in_lengths():
    raw = batch()
    raw["audio"][2, 300:] = 9.0  # whatever lies there
    out = SpeechPreprocess(RATE)(raw)
    assert torch.equal(out["audio"][0], raw["audio"][0]) and (out["audio"][2, 300:] == 0).all()
    alone = SpeechPreprocess(RATE)({"audio": raw["audio"]})
    assert alone["audio_length"].tolist() == [4000] * 3


def test_long_clips_lose_their_end_and_it_is_counted():
    out = SpeechPreprocess(RATE, max_seconds=0.25)(batch())
    assert out["audio"].shape == (3, 2000) and out["audio_length"].tolist() == [2000, 2000, 300]
    assert out["cut_samples"].tolist() == [2000, 500, 0]


def test_views_are_prepared_as_clips_are():
    raw = batch()
    other = raw["audio"].flip(0)
    record = SpeechPreprocess(RATE, "utterance")
    lengths = [raw["audio_length"], torch.tensor([300, 2500, 4000])]
    out = record({**raw, "views": [raw["audio"], other], "view_lengths": lengths})
    assert out["audio"] is out["views"][0]
    single = record({"audio": other, "audio_length": lengths[1]})
    assert torch.equal(out["views"][1], single["audio"]) and torch.equal(out["view_lengths"][1], lengths[1])
    only = record({"views": [other]})
    assert "audio" not in only and only["view_lengths"][0].tolist() == [4000] * 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(sample_rate=16000), r"16000 Hz.*8000 Hz.*sample_rate=8000"),
        (dict(audio=torch.zeros(3, 2, 8)), "mono"),
        (dict(audio=torch.zeros(3, 8, dtype=torch.int16)), "float32"),
        (dict(audio=None), "needs 'audio'"),
        (dict(audio_length=torch.tensor([1, 2])), "whole numbers"),
        (dict(audio_length=torch.tensor([1, 2, 5000])), "1 to 4000"),
        (dict(audio_length=torch.tensor([1, 2, 0])), "1 to 4000"),
    ],
)
def test_faults_of_batches(change, text):
    with pytest.raises(DataError, match=text):
        SpeechPreprocess(RATE)({**batch(), **change})


def test_faults_of_records():
    with pytest.raises(ConfigError, match="nearest is 'utterance'"):
        SpeechPreprocess(normalize="utterances")
    with pytest.raises(ConfigError, match="at least 1000"):
        SpeechPreprocess(sample_rate=16)
    with pytest.raises(ConfigError, match="positive"):
        SpeechPreprocess(max_seconds=0.0)
    record = SpeechPreprocess(normalize="utterance")
    record.require_same(SpeechPreprocess(normalize="utterance", max_seconds=3.0).record(), "weights")
    with pytest.raises(CheckpointError, match=r"normalize.*sample_rate|sample_rate"):
        record.require_same(SpeechPreprocess(8000, "utterance").record(), "weights")


def test_mel_filters():
    filters = mel_filters(RATE, 256, 40)
    assert filters.shape == (129, 40) and filters.min() == 0 and filters.max() <= 1
    hertz = torch.linspace(0, RATE / 2, 129)
    centre = 700 * (10 ** (2595 * math.log10(1 + 4000 / 700) * 20 / 41 / 2595) - 1)  # of the 20th of 40 bands
    assert abs((filters[:, 19] * hertz).sum() / filters[:, 19].sum() - centre) < 20


def test_log_mel_against_a_loop():
    raw = batch()
    spectra, frames = log_mel(raw["audio"], raw["audio_length"], RATE)
    assert frames.tolist() == [(n - 256) // 80 + 1 for n in (4000, 2500, 300)]
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    filters = mel_filters(RATE, 256, 40).numpy().astype(float)
    for row, n in enumerate((4000, 2500, 300)):
        wave = raw["audio"][row, :n].double().numpy()
        own = [
            np.log(np.abs(np.fft.rfft(wave[t : t + 256] * taper)) ** 2 @ filters + 1e-10) for t in range(0, n - 255, 80)
        ]
        assert np.allclose(spectra[row, : len(own)].numpy(), own, atol=1e-3)
        pooled = mean_and_deviation(spectra, frames)[row].numpy()
        assert np.allclose(pooled, np.concatenate([np.mean(own, 0), np.std(own, 0)]), atol=1e-3)
        parts = segment_means(spectra, frames)[row].numpy().reshape(8, 40)
        for i in range(8):
            start = min(i * len(own) // 8, len(own) - 1)
            end = max((i + 1) * len(own) // 8, start + 1)
            assert np.allclose(parts[i], np.mean(own[start:end], 0), atol=1e-3)


def test_baselines_do_not_depend_on_the_batch():
    raw, record = batch((4000, 100)), SpeechPreprocess(RATE)  # the second is shorter than a window
    together = record.baselines(record(raw))
    alone = record.baselines(record({"audio": raw["audio"][1:, :100]}))
    assert together["raw"].shape == (2, 80) and together["segments"].shape == (2, 320)
    for name in ("raw", "segments"):
        assert torch.allclose(together[name][1:], alone[name], atol=1e-5) and alone[name].isfinite().all()
