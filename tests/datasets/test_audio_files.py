import numpy as np
import pytest
import soundfile
import torch

from perception.datasets.audio_clips import pad_clips, resample
from perception.datasets.audio_files import AudioRecord, BadAudioError, read_audio, usable
from perception.errors import DataError


def tone(rate, seconds=0.5, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats_and_rates(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, tone(22050), 22050)
    clip = read_audio(AudioRecord(path), 16000)
    assert clip.dtype == np.float32 and len(clip) == 8000
    spectrum = np.abs(np.fft.rfft(clip[1000:7000] * np.hanning(6000)))
    assert abs(spectrum.argmax() * 16000 / 6000 - 440) < 3  # the pitch does not move
    assert np.abs(clip[2000:6000]).max() == pytest.approx(0.5, abs=0.02)


def test_stereo_is_averaged(tmp_path):
    left, right = tone(8000), 0.5 * tone(8000)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    assert np.allclose(read_audio(AudioRecord(tmp_path / "s.wav"), 8000), 0.75 * left, atol=1e-6)


def test_parts_are_in_seconds(tmp_path):
    ramp = np.linspace(0.1, 0.9, 8000, dtype=np.float32)
    soundfile.write(tmp_path / "r.wav", ramp, 8000, subtype="FLOAT")
    part = read_audio(AudioRecord(tmp_path / "r.wav", 0.25, 0.5), 8000)
    assert np.array_equal(part, ramp[2000:4000])


def bad_files(folder):
    """Path of every kind of bad file, by what the report calls it."""
    good = tone(8000, 1.0)
    for name, wave in (
        ("silent", 0 * good),
        ("empty", good[:0]),
        ("too short", good[:80]),
        ("not finite", np.where(np.arange(8000) == 9, np.nan, good)),
    ):
        soundfile.write(folder / f"{name}.wav", wave.astype(np.float32), 8000, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", good, 8000)
    data = (folder / "whole.flac").read_bytes()
    (folder / "cut.flac").write_bytes(data[: len(data) // 2])
    (folder / "damaged.wav").write_bytes(b"RIFF no audio at all")
    soundfile.write(folder / "cut off.wav", good, 8000)
    (folder / "cut off.wav").write_bytes((folder / "cut off.wav").read_bytes()[:9000])
    kinds = {
        kind: folder / f"{kind}.wav" for kind in ("silent", "empty", "too short", "not finite", "damaged", "cut off")
    }
    return {**kinds, "missing": folder / "nowhere.wav"}


def test_wavs_of_streams_do_not_know_their_length_and_are_whole(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(8000), 8000)
    data = bytearray((tmp_path / "whole.wav").read_bytes())
    at = data.index(b"data") + 4
    assert int.from_bytes(data[at : at + 4], "little") == 8000
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        data[at : at + 4] = size.to_bytes(4, "little")
        (tmp_path / "stream.wav").write_bytes(data)
        whole, stream = (read_audio(AudioRecord(tmp_path / f"{name}.wav"), 8000) for name in ("whole", "stream"))
        assert np.array_equal(whole, stream)
    data[at : at + 4] = (8002).to_bytes(4, "little")  # a single sample is missing
    (tmp_path / "stream.wav").write_bytes(data)
    with pytest.raises(BadAudioError, match=r"stream\.wav' is cut off: 8000 of the 8002 bytes"):
        read_audio(AudioRecord(tmp_path / "stream.wav"), 8000)
    (tmp_path / "nothing.wav").write_bytes(b"")
    with pytest.raises(BadAudioError, match="no bytes") as caught:
        read_audio(AudioRecord(tmp_path / "nothing.wav"), 8000)
    assert caught.value.kind == "empty"


def test_every_fault_is_named_and_counted(tmp_path):
    files = bad_files(tmp_path)
    soundfile.write(tmp_path / "good.wav", tone(8000), 8000)
    records = [AudioRecord(path) for path in [*files.values(), tmp_path / "good.wav", tmp_path / "cut.flac"]]
    good, places, dropped = usable(records, "skip", 0.1, "Test")
    assert good == [7] and places.tolist() == [[8000, 0, 4000]] and len(dropped) == 8
    for kind, path in files.items():
        assert str(path) in dropped[str(AudioRecord(path))], kind
    with pytest.raises(DataError, match=r"5 of 9 clips cannot be used \(.*1 empty.*on_error='skip'") as error:
        usable(records, "raise", 0.1, "Test")  # headers only: silence is found when it is read
    assert str(files["empty"]) in str(error.value)
    for kind in ("silent", "not finite", "damaged", "missing", "empty", "cut off"):
        with pytest.raises(BadAudioError) as error:
            read_audio(AudioRecord(files[kind]), 8000)
        assert error.value.kind == kind and str(files[kind]) in str(error.value)
    with pytest.raises(BadAudioError, match=r"cut\.flac"):
        read_audio(AudioRecord(tmp_path / "cut.flac"), 8000)
    with pytest.raises(DataError, match="none of 1 clips"):
        usable(records[:1], "skip", 0.1, "Test")


def test_parts_outside_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    with pytest.raises(BadAudioError, match=r"0\.500 s") as error:
        read_audio(AudioRecord(tmp_path / "a.wav", 0.2, 0.9), 8000)
    assert error.value.kind == "outside"


def test_padding():
    audio, length = pad_clips([np.ones(2, np.float32), np.full(4, 2, np.float32)])
    assert audio.tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]] and length.tolist() == [2, 4]
    assert audio.dtype == torch.float32 and length.dtype == torch.int64


def test_resampling_stays_within_full_scale():
    square = np.sign(tone(8000)).astype(np.float32)
    out = resample(square, 8000, 16000)
    assert len(out) == 8000 and np.abs(out).max() == 1.0 and out.dtype == np.float32
    assert resample(square, 8000, 8000) is square
