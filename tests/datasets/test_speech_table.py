import csv

import numpy as np
import pytest
import soundfile

from perception.datasets.audio_files import BadAudioError
from perception.datasets.speaker_split import geographic_order, require_disjoint, speaker_disjoint_split
from perception.datasets.speech_table import SpeechTable
from perception.errors import ConfigError, DataError

RATE = 8000


def make(folder, rows, seconds=0.5, name="table.csv"):
    """A csv of ``rows``, with a file for each, whose sample k is ``k / 100000``."""
    for row in rows:
        count = round(seconds * RATE)
        soundfile.write(folder / row["path"], np.arange(count, dtype=np.float32) / 1e5, RATE, subtype="FLOAT")
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / name)


def cities(regions=("north", "south"), speakers=4, clips=2, **more):
    return [
        dict(path=f"{r}{s}{c}.wav", label=r, speaker=f"{r}-{s}", **more)
        for r in regions
        for s in range(speakers)
        for c in range(clips)
    ]


def test_nobody_speaks_in_two_splits(tmp_path):
    table = make(tmp_path, cities())
    parts = {split: SpeechTable(table, split, sample_rate=RATE) for split in ("train", "val", "test")}
    voices = {name: set(data.speakers) for name, data in parts.items()}
    assert sum(len(data) for data in parts.values()) == 16
    assert not voices["train"] & voices["test"] and not voices["train"] & voices["val"]
    assert not voices["val"] & voices["test"]
    for data in parts.values():
        assert data.classes == ("north", "south") and set(data.labels) == {0, 1}
        assert [data.speaker_names[s].split("-")[0] for s in data.speakers] == [data.classes[c] for c in data.labels]
    assert len(parts["train"]) == 8  # of four speakers two are left for training


def test_split_properties_of_many_draws():
    random = np.random.default_rng(0)
    for seed in range(30):
        speakers = random.integers(0, 40, 600)
        labels = speakers % 5 if seed % 2 else random.integers(0, 5, 600)  # one label each, or all of them
        parts = speaker_disjoint_split(labels, speakers, (0.6, 0.2), seed)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(600))
        people = [set(speakers[rows]) for rows in parts]
        assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
        assert all(set(labels[rows]) == set(range(5)) for rows in parts)
        shares = np.array([len(p) for p in people]) / len(set(speakers))
        assert np.abs(shares - [0.6, 0.2, 0.2]).max() < 0.11
        again = speaker_disjoint_split(labels, speakers, (0.6, 0.2), seed)
        assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_too_few_speakers_and_none(tmp_path):
    rows = cities(("north", "south"), 3) + cities(("west",), 2)
    with pytest.raises(DataError, match="'west' has 2"):
        SpeechTable(make(tmp_path, rows))
    for row in rows:
        del row["speaker"]
    table = make(tmp_path, rows)
    with pytest.raises(DataError, match="no column 'speaker'"):
        SpeechTable(table)
    assert len(SpeechTable(table, "all")) == 16
    with pytest.raises(DataError, match="needs speakers"):
        speaker_disjoint_split(np.zeros(4), None, (0.5,))


def test_given_splits_are_checked(tmp_path):
    rows = [dict(row, split=("train", "train", "val", "test")[i // 2 % 4]) for i, row in enumerate(cities())]
    assert len(SpeechTable(make(tmp_path, rows), "test")) == 4
    rows[0]["split"] = "test"
    with pytest.raises(DataError, match="1 speakers are in more than one split: 'north-0' in train and test"):
        SpeechTable(make(tmp_path, rows), "test")
    rows[0]["split"] = "testing"
    with pytest.raises(DataError, match=r"line 2 .*nearest is 'test'"):
        SpeechTable(make(tmp_path, rows), "test")
    require_disjoint({"a": np.array([1, 2]), "b": np.array([3])}, "x")


def test_parts_segments_and_rests(tmp_path):
    row = dict(path="a.wav", label="x", speaker="s", start="0.5", end="2.75")
    table = make(tmp_path, [row], seconds=3.0)
    data = SpeechTable(table, "all", sample_rate=RATE, segment_seconds=1.0, min_seconds=0.3)
    assert data.lengths.tolist() == [8000, 8000]  # the rest of 0.25 s is left out
    batch = data.fetch(np.arange(2))
    assert np.allclose(batch["audio"][:, 0], [0.04, 0.12], atol=1e-6) and batch["audio_length"].tolist() == [8000, 8000]
    kept = SpeechTable(table, "all", sample_rate=RATE, segment_seconds=1.0, min_seconds=0.2)
    assert kept.lengths.tolist() == [8000, 8000, 2000]
    windows = SpeechTable(table, "all", sample_rate=RATE, crop_seconds=0.1)
    wave = windows.__getitems__([0])["audio"][0].numpy()
    assert len(wave) == 800 and np.allclose(np.diff(wave), 1e-5, atol=1e-7) and 0.04 <= wave[0] <= 0.22
    double = SpeechTable(table, "all", sample_rate=2 * RATE, crop_seconds=0.1)
    assert double.__getitems__([0])["audio_length"].tolist() == [1600]


def test_joined_rows_go_on_with_clips_of_the_same_speaker(tmp_path):
    table = make(tmp_path, cities())
    levels = {row["path"]: 0.01 * (i + 1) for i, row in enumerate(cities())}  # a file is known by its level
    for name, level in levels.items():
        soundfile.write(tmp_path / name, np.full(4000, level, dtype=np.float32), RATE, subtype="FLOAT")
    data = SpeechTable(table, "pretrain", sample_rate=RATE, join_seconds=1.2)
    batch = data.__getitems__(range(len(data)))
    assert batch["audio"].shape == (8, 9600) and batch["audio_length"].tolist() == [9600] * 8 and "label" not in batch
    for row, wave in enumerate(batch["audio"].numpy()):
        heard = [wave[0], wave[4000], wave[8000]]
        assert np.array_equal(wave, np.repeat(np.array(heard, np.float32), [4000, 4000, 1600]))
        names = [next(n for n, v in levels.items() if abs(v - level) < 1e-6) for level in heard]
        assert names[0] == data.records[row].path.name
        assert {f"{n[:5]}-{n[5]}" for n in names} == {data.speaker_names[data.speakers[row]]}
    with pytest.raises(ConfigError, match="several labels"):
        SpeechTable(table, "train", join_seconds=1.2)


def test_what_is_left_out_is_told(tmp_path):
    rows = cities(clips=1)
    table = make(tmp_path, rows)
    soundfile.write(tmp_path / rows[0]["path"], np.zeros(4000), RATE)
    (tmp_path / rows[5]["path"]).unlink()
    data = SpeechTable(table, "all", on_error="skip")
    assert len(data) == 6 and sorted(key.split("/")[-1][:-1] for key in data.dropped) == ["north00.wav", "south10.wav"]
    with pytest.raises(DataError, match="1 of 8 clips cannot be used"):
        SpeechTable(table, "all")


def cut_flac(path):
    with open(path, "wb") as file:
        soundfile.write(file, 0.3 * np.sin(np.arange(4000) / 5), RATE, format="FLAC")
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda path: soundfile.write(path, np.zeros(4000), RATE), "silent"),
        (lambda path: soundfile.write(path, np.full(4000, np.nan), RATE, subtype="FLOAT"), "not finite"),
        (cut_flac, "damaged"),
    ],
)
def test_what_only_shows_in_reading_names_the_file_and_the_cure(tmp_path, spoil, kind):
    rows = cities(clips=1)
    table = make(tmp_path, rows)
    broken = tmp_path / rows[0]["path"]
    sound = broken.read_bytes()
    spoil(broken)
    with pytest.raises(BadAudioError, match=r"on_error='skip' leaves such clips out") as caught:
        SpeechTable(table, "all").__getitems__([0])
    assert caught.value.kind == kind and str(broken) in str(caught.value)
    assert len(SpeechTable(table, "all", on_error="skip")) == len(rows) - 1
    broken.write_bytes(sound)
    data = SpeechTable(table, "all", on_error="skip")
    spoil(broken)
    with pytest.raises(BadAudioError, match="has changed since") as caught:
        data.__getitems__([0])
    assert str(broken) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(label=""), "line 2 .*has no label"),
        (dict(start="x"), "line 2 .*must be seconds"),
        (dict(start="2", end="1"), "no part of a recording"),
        (dict(neighbours="north;sud"), "'sud' is no class"),
    ],
)
def test_bad_rows(tmp_path, change, text):
    rows = [dict(row, start="", end="", neighbours="") for row in cities()]
    rows[0] |= change
    with pytest.raises(DataError, match=text):
        SpeechTable(make(tmp_path, rows), "all")


def test_bad_tables_and_arguments(tmp_path):
    rows = [{"file": row["path"], **row} for row in cities()]
    table = make(tmp_path, rows)
    text = (tmp_path / "table.csv").read_text().replace("label", "labels")
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=r"no column 'label'.*nearest is 'labels'"):
        SpeechTable(table, "all")
    with pytest.raises(ConfigError, match="two positive shares"):
        SpeechTable(table, parts=(0.9, 0.2))
    with pytest.raises(DataError, match="cannot be read"):
        SpeechTable(str(tmp_path / "no.csv"))


def test_order_by_geography(tmp_path):
    chain = {"d": ["a"], "a": ["c"], "c": ["b"]}
    assert [("abcd")[i] for i in geographic_order("abcd", chain)] == ["b", "c", "a", "d"]
    assert geographic_order(("p", "q", "r"), {}) == [0, 1, 2]
    two = {"a": ["z"], "z": ["b"], "m": ["n"]}
    assert [("abmnz")[i] for i in geographic_order("abmnz", two)] == ["a", "z", "b", "m", "n"]
    rows = [dict(row, neighbours="b" if row["label"] == "c" else "") for row in cities(("a", "b", "c"))]
    assert SpeechTable(make(tmp_path, rows), "all").order == [0, 1, 2]
