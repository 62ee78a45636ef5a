import time

import numpy as np
import pytest
import torch

from perception.datasets.spoken_varieties import VARIETIES, WORDS, SpokenVarieties
from perception.errors import ConfigError
from perception.transforms.speech_preprocess import SpeechPreprocess

RATE = 8000


def clips(data, rows):
    batch = data.fetch(np.asarray(rows))
    return [clip[:n].numpy() for clip, n in zip(batch["audio"], batch["audio_length"].tolist(), strict=True)]


def test_batches_and_labels():
    data = SpokenVarieties("train", sample_rate=RATE, speakers=8)
    assert len(data) == 8 * 16 and data.classes == VARIETIES
    assert np.bincount(data.labels).tolist() == [32] * 4
    batch = data.__getitems__(range(128))
    assert batch["audio"].dtype == torch.float32 and batch["audio"].abs().max() <= 1
    assert batch["audio_length"].min() > 0.3 * RATE and batch["audio_length"].max() <= RATE
    assert batch["speaker"].tolist() == np.repeat(np.arange(8), 16).tolist()
    assert all(len({data.labels[i] for i in np.flatnonzero(data.speakers == s)}) == 1 for s in range(8))
    words = SpokenVarieties("train", "word", RATE, speakers=8)
    assert words.classes == WORDS and np.bincount(words.labels).tolist() == [16] * 8
    assert "label" not in SpokenVarieties("pretrain", sample_rate=RATE, speakers=8).fetch(np.arange(3))


def test_same_seed_same_clips_and_shorter_sets_begin_longer_ones():
    one = SpokenVarieties("val", sample_rate=RATE, speakers=4)
    more = SpokenVarieties("val", sample_rate=RATE, speakers=20)
    other = SpokenVarieties("val", sample_rate=RATE, speakers=4, world_seed=1)
    assert np.array_equal(one.wave, more.wave[: len(one.wave)])
    assert not np.array_equal(one.wave[:2000], other.wave[:2000])


def test_splits_share_no_clip_but_pretraining_has_those_of_train():
    found = {s: SpokenVarieties(s, sample_rate=RATE, speakers=4) for s in ("train", "val", "test")}
    starts = {clip[:50].tobytes() for data in found.values() for clip in clips(data, range(len(data)))}
    assert len(starts) == 3 * 64
    assert np.array_equal(SpokenVarieties("pretrain", sample_rate=RATE, speakers=4).wave, found["train"].wave)


def test_speakers_are_split_by_takes():
    train, test = (SpokenVarieties(s, "speaker", RATE, speakers=4) for s in ("train", "test"))
    assert len(train) == len(test) == 32 and train.classes == test.classes and len(train.classes) == 4
    assert not {c[:50].tobytes() for c in clips(train, range(32))} & {c[:50].tobytes() for c in clips(test, range(32))}


def test_resonances_lie_where_they_should():
    """Two poles in white noise: the strongest frequencies are those of the formants, scaled by the vocal tract."""
    from perception.datasets.spoken_varieties import _envelope

    found = _envelope(torch.tensor([[[730.0, 1250.0]]]), torch.tensor([1.1]), RATE)[0, 0]
    hertz = torch.linspace(0, RATE / 2, len(found))
    peaks = [float(hertz[i]) for i in range(1, len(found) - 1) if found[i - 1] < found[i] > found[i + 1]]
    assert np.allclose(peaks, [803, 1375, 2750, 3850], atol=40)


def test_free_features_are_neither_useless_nor_perfect():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    record, found, started = SpeechPreprocess(RATE), {}, time.process_time()
    for split in ("train", "test"):
        data = SpokenVarieties(split, sample_rate=RATE)
        found[split] = (record.baselines(record(data.fetch(np.arange(len(data))))), data.labels)
    assert time.process_time() - started < 60  # 2,560 clips; about 6 s of a free core
    for feature, low, high in (("raw", 0.4, 0.6), ("segments", 0.55, 0.75)):
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        head.fit(found["train"][0][feature].numpy(), found["train"][1])
        assert low < head.score(found["test"][0][feature].numpy(), found["test"][1]) < high  # chance is 0.25


def test_without_shift_half_of_the_varieties_sound_alike():
    """Coast and hill then differ in nothing: the same random numbers make the same formants."""
    from perception.datasets.spoken_varieties import _segments

    word = np.arange(8)
    pairs = [[_segments(np.random.default_rng(3), np.full(8, v), word, s) for v in (0, 2)] for s in (0.0, 1.0)]
    assert all(np.array_equal(a, b) for a, b in zip(*pairs[0], strict=True))
    assert not np.array_equal(pairs[1][0][2], pairs[1][1][2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(split="dev"), "not a split"),
        (dict(label="dialect"), "not one of variety"),
        (dict(sample_rate=4000), "at least 8000"),
        (dict(speakers=6), "multiple of four"),
        (dict(shift=2.0), "at most 1.5"),
        (dict(noise=(30, 10)), "rising pair"),
    ],
)
def test_faults(options, text):
    with pytest.raises(ConfigError, match=text):
        SpokenVarieties(**options)
