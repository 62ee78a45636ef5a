import os

import numpy as np
import pytest
import soundfile

from perception.datasets.fsdd import FSDD, SPEAKERS
from perception.errors import ConfigError
from perception.transforms.speech_preprocess import SpeechPreprocess

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/speech/fsdd")


@pytest.fixture
def recordings(tmp_path):
    """Digits 0 and 1 of all speakers, takes 0 (test) and 7 (train), in the layout of the official repository."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    random = np.random.default_rng(0)
    for digit in (0, 1):
        for i, name in enumerate(SPEAKERS):
            for take in (0, 7):
                wave = random.uniform(-0.5, 0.5, 1000 + 100 * i + take)
                soundfile.write(folder / f"{digit}_{name}_{take}.wav", wave, 8000)
    return str(tmp_path)


def test_splits_of_recordings(recordings):
    train, test = (FSDD(split, root=recordings, sample_rate=8000) for split in ("train", "test"))
    assert len(train) == len(test) == 12 and set(train.takes) == {7} and set(test.takes) == {0}
    batch = train.fetch(np.arange(12))
    assert sorted(batch["audio_length"].tolist()) == sorted(2 * [1007 + 100 * i for i in range(6)])
    assert batch["sample_rate"] == 8000 and batch["audio"].shape == (12, 1507)
    assert (batch["audio"][batch["audio_length"] == 1007][:, 1007:] == 0).all()
    assert sorted(zip(batch["label"].tolist(), batch["speaker"].tolist(), strict=True)) == [
        (d, s) for d in (0, 1) for s in range(6)
    ]
    assert "label" not in FSDD("pretrain", root=recordings).fetch(np.arange(2))
    double = FSDD("train", root=recordings, sample_rate=16000)
    assert double.lengths.tolist() == (2 * train.lengths).tolist()


def test_held_out_speakers_and_labels(recordings):
    train = FSDD("train", held_out_speaker="theo", root=recordings)
    test = FSDD("test", held_out_speaker="theo", root=recordings)
    assert len(train) == 20 and len(test) == 4 and set(test.speakers) == {4} and 4 not in train.speakers
    four = ["jackson", "theo", "lucas", "yweweler"]
    accents = FSDD("test", "accent", ["theo", "lucas"], four, root=recordings)
    assert accents.classes == ("USA", "German")
    assert {(s, a) for s, a in zip(accents.speakers.tolist(), accents.labels.tolist(), strict=True)} == {(4, 0), (2, 1)}


def test_joined_clips_are_clips_of_one_speaker_end_to_end(recordings):
    from perception.datasets.base import SampleKey

    options = {"root": recordings, "sample_rate": 8000, "join_seconds": 0.35, "seed": 3}
    data, plain = FSDD("pretrain", **options), FSDD("train", root=recordings, sample_rate=8000)
    batch = data.__getitems__([SampleKey(i, 1) for i in range(12)])
    assert batch["audio"].shape == (12, 2800) and batch["audio_length"].tolist() == [2800] * 12
    assert batch["speaker"].tolist() == plain.speakers.tolist() and batch["index"].tolist() == list(range(12))
    whole = plain.fetch(np.arange(12))
    clips = [clip[:n].numpy() for clip, n in zip(whole["audio"], whole["audio_length"], strict=True)]
    followers = set()
    for row in range(12):
        left, chain = batch["audio"][row].numpy(), []
        while len(left):
            fits = [i for i, c in enumerate(clips) if np.array_equal(c[: len(left)], left[: len(c)])]
            assert len(fits) == 1
            chain += fits
            left = left[len(clips[fits[0]]) :]
        assert chain[0] == row and len(chain) >= 2 and len(set(plain.speakers[chain])) == 1
        followers.add((row, chain[1]))
    assert any(a != b for a, b in followers)  # the other digit, too
    # What becomes of a clip is its own matter; a longer one gives a window.
    alone, later = data.__getitems__([SampleKey(3, 1)]), data.__getitems__([SampleKey(3, 2)])
    assert (alone["audio"][0] == batch["audio"][3]).all() and not (later["audio"] == alone["audio"]).all()
    short = FSDD("pretrain", **{**options, "join_seconds": 0.1}).__getitems__([SampleKey(3, 1)])["audio"][0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(clips[3], 800)
    assert (windows == short).all(axis=1).sum() == 1
    for wrong, text in (({"split": "train"}, "several labels"), ({"crop_seconds": 0.1}, "replaces crop_seconds")):
        with pytest.raises(ConfigError, match=text):
            FSDD(**{"split": "pretrain", **options, **wrong})


def test_random_windows_depend_on_the_epoch_alone(recordings):
    from perception.datasets.base import SampleKey

    data = FSDD("train", root=recordings, sample_rate=8000, crop_seconds=0.1)
    first = data.__getitems__([SampleKey(i, 1) for i in range(12)])
    assert first["audio"].shape == (12, 800) and first["audio_length"].tolist() == [800] * 12
    again, later = data.__getitems__([SampleKey(3, 1)]), data.__getitems__([SampleKey(3, 2)])
    assert (again["audio"][0] == first["audio"][3]).all() and not (later["audio"] == again["audio"]).all()
    whole = data.fetch(np.array([3]))["audio"][0]
    window = first["audio"][3]
    assert any((whole[a : a + 800] == window).all() for a in range(len(whole) - 799))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(split="valid"), "not a split"),
        (dict(label="digits"), "nearest is 'digit'"),
        (dict(held_out_speaker="Theo"), "nearest is 'theo'"),
        (dict(speakers=["theo"], held_out_speaker="theo"), "leaves no speaker"),
        (dict(sample_rate=16), "at least 1000"),
        (dict(crop_seconds=0.0), "positive"),
    ],
)
def test_faults(recordings, options, text):
    with pytest.raises(ConfigError, match=text):
        FSDD(**{"root": recordings, **options})


@needs_data
def test_baselines_of_the_data_card():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    record = SpeechPreprocess(sample_rate=8000)
    found = {}
    for split in ("train", "test"):
        data = FSDD(split, sample_rate=8000)
        batch = data.fetch(np.arange(len(data)))
        found[split] = (record.baselines(record(batch)), batch["label"], batch["speaker"])

    def accuracy(feature, target):
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        head.fit(found["train"][0][feature].numpy(), found["train"][target].numpy())
        return head.score(found["test"][0][feature].numpy(), found["test"][target].numpy())

    assert len(found["train"][1]) == 1200 and len(found["test"][1]) == 300
    clip = 1 / 300  # one clip more or less: window edges are not told in the card
    assert accuracy("raw", 1) == pytest.approx(0.940, abs=1.01 * clip)
    assert accuracy("segments", 1) == pytest.approx(0.960, abs=1.01 * clip)
    assert accuracy("raw", 2) == pytest.approx(0.990, abs=1.01 * clip)


@needs_data
def test_packed_clips_are_the_wav_files():
    folder = os.path.join(os.environ["PERCEPTION_DATA"], "speech", "fsdd", "wavs")
    data = FSDD("all", sample_rate=8000)
    names = sorted(name for name in os.listdir(folder) if name.endswith(".wav"))
    assert len(names) == 24
    for name in names:
        digit, speaker, take = name[:-4].split("_")
        row = np.flatnonzero(
            (data.labels == int(digit)) & (data.speakers == SPEAKERS.index(speaker)) & (data.takes == int(take))
        )
        wave, rate = soundfile.read(os.path.join(folder, name), dtype="float32")
        assert rate == 8000 and np.array_equal(data.fetch(row)["audio"][0].numpy(), wave)
