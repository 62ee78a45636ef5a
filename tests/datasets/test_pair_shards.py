import importlib.util
import io
import json
import os
import re
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from perception.cli._datasets import build_dataset
from perception.datasets.caption_files import CaptionFiles
from perception.datasets.land_cover import LandCover
from perception.datasets.pair_shards import PairShards
from perception.datasets.shard_index import index_file, read_index
from perception.datasets.shard_writer import write_shards
from perception.engine.sampler import ResumableSampler
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.transforms.base import identity_collate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source():
    return LandCover("val", size=16, count=30, languages=["en", "zh"])


@pytest.fixture
def folder(tmp_path, source):
    write_shards(source, tmp_path / "shards", per_shard=12)
    return tmp_path / "shards"


@pytest.fixture
def said(monkeypatch):
    """What the log is told: mmengine's logger writes to the stream that was current when it was made."""
    lines = []
    for module in ("pair_shards", "shard_index"):
        monkeypatch.setattr(f"perception.datasets.{module}.print_log", lambda text, **_: lines.append(text))
    return lines


def tar(path, files):
    """A shard of ``files``: (name, bytes) in order."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def png(level=0):
    return cv2.imencode(".png", np.full((9, 9, 3), level, np.uint8))[1].tobytes()


def text(*captions, **more):
    return json.dumps(dict(captions=captions, **more)).encode()


def test_what_goes_in_comes_out(folder, source):
    data = PairShards(str(folder), size=None)
    assert sorted(p.name for p in folder.glob("*.tar")) == [f"pairs-00000{n}.tar" for n in range(3)]
    rows = np.array([29, 0, 11, 12, 0])
    found, expected = data.fetch(rows), source.fetch(rows)
    assert found.keys() == expected.keys() and found["captions"] == expected["captions"]
    for key in ("image", "label", "index"):
        assert torch.equal(found[key], expected[key])
    assert data.names == source.names and data.classes == source.classes and data.sources == source.sources
    assert (
        data.languages == ("en", "zh")
        and list(data.captions) == source.captions
        and data.captions[-1] == source.captions[-1]
    )
    assert data.captions[1:3] == source.captions[1:3]


def test_packing_is_deterministic_and_never_overwrites(folder, source, tmp_path):
    write_shards(source, tmp_path / "again", per_shard=12)
    for shard in sorted(folder.glob("*.tar")):
        assert shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes()
    with pytest.raises(DataError, match=r"holds pairs-000000.tar already"):
        write_shards(source, folder)


def test_files_are_packed_as_they_are(tmp_path):
    (tmp_path / "images" / "sea").mkdir(parents=True)
    names = ["sea/a.jpg", "sea/b.png"]
    for level, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((20, 30, 3), 90 * level, np.uint8))
    rows = [dict(filename=name, captions=["a"], split="train", label="sea") for name in names]
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    data = CaptionFiles(str(tmp_path / "texts.json"), str(tmp_path / "images"), size=None)
    (shard,) = write_shards(data, tmp_path / "out", image_format="copy")
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["000000000.jpg", "000000000.json", "000000001.png", "000000001.json"]
        assert archive.extractfile("000000000.jpg").read() == (tmp_path / "images" / names[0]).read_bytes()
    shards = PairShards(str(shard), size=None)
    assert torch.equal(shards.fetch(np.arange(2))["image"], data.fetch(np.arange(2))["image"]) and shards.names == names
    with pytest.raises(DataError, match="size=None"):
        sized = CaptionFiles(str(tmp_path / "texts.json"), str(tmp_path / "images"), size=8)
        write_shards(sized, tmp_path / "other", image_format="copy")


def test_an_interrupted_epoch_goes_on_where_it_was(folder):
    data = PairShards(str(folder), size=8, transforms=[dict(type="PickCaption")], seed=3)

    def epoch(start, workers=0):
        sampler = ResumableSampler(data, shuffle=True, seed=1)
        sampler.set_epoch(4, start)
        loader = DataLoader(data, batch_size=5, sampler=sampler, num_workers=workers, collate_fn=identity_collate)
        return list(loader)

    whole, rest = epoch(0), epoch(15, workers=2)
    assert len(whole) == 6 and len(rest) == 3
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one["image"], other["image"]) and one["text"] == other["text"]
        assert torch.equal(one["index"], other["index"])


def test_the_index_is_written_once_and_made_anew_when_the_shard_changes(folder):
    shard = sorted(folder.glob("*.tar"))[0]
    file = index_file(shard)
    before = file.stat().st_mtime_ns
    assert len(read_index(shard)) == 12 and file.stat().st_mtime_ns == before
    tar(shard, [("a.png", png()), ("a.txt", b"new")])
    os.utime(shard, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert read_index(shard).keys.tolist() == ["a"] and file.stat().st_mtime_ns != before
    file.write_bytes(b"damaged")
    assert len(read_index(shard)) == 1 and file.stat().st_size > 100
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_processes_may_race_for_the_index(folder):
    shard = sorted(folder.glob("*.tar"))[1]
    index_file(shard).unlink()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_index(shard), range(16)))
    assert all(np.array_equal(index.images, found[0].images) for index in found)


def test_an_index_that_cannot_be_kept_is_said(folder, tmp_path, said):
    for file in folder.glob("*.npz"):
        file.unlink()
    data = PairShards(str(folder), index_dir=str(tmp_path / "indices"))
    assert len(data) == 30 and len(list((tmp_path / "indices").iterdir())) == 3 and not list(folder.glob("*.npz"))
    shard = sorted(folder.glob("*.tar"))[0]
    (tmp_path / "file").write_text("")
    assert len(read_index(shard, tmp_path / "file")) == 12
    assert "is made anew in every process" in said[0]


def test_shards_of_the_webdataset_tools(tmp_path):
    files = [("x/1.seg.png", b"skip"), ("x/1.jpg", png(50)), ("x/1.txt", b"A port .\n"), ("x/1.cls", b"port")]
    files += [("x/2.PNG", png(90)), ("x/2.json", json.dumps(dict(caption="Sea", label="sea")).encode())]
    tar(tmp_path / "a.tar", files)
    data = PairShards(str(tmp_path / "*.tar"), language="de", text_form="no_stop", size=4)
    assert list(data.captions) == [[("de", "A port")], [("de", "Sea")]] and data.names == ["x/1", "x/2"]
    assert data.classes == ("port", "sea") and data.labels.tolist() == [0, 1] and data.languages == ("de",)
    assert data.fetch(np.arange(2))["image"].float().mean((1, 2, 3)).tolist() == [50, 90]
    with pytest.raises(DataError, match=r"outside the 1 of the list: 'sea' \(1\)"):
        PairShards(str(tmp_path / "a.tar"), classes=["port"])


@pytest.mark.parametrize(
    ("files", "message", "policy", "left"),
    [
        ([("a.txt", b"one")], "1 of 2 samples have no image: a. Set missing='drop'", "missing", ["b"]),
        ([("a.png", png())], "1 of 2 samples have no text: a. Set empty='drop'", "empty", ["b"]),
        ([("a.png", png()), ("a.json", text())], "have no text: a", "empty", ["b"]),
        ([("a.png", png()), ("a.txt", b"  ")], "have an empty caption: a. Set empty='drop'", "empty", ["b"]),
        ([("a.png", png()), ("a.json", text(" ", "sea"))], "have an empty caption: a", "empty", ["a", "b"]),
        ([("a.png", png()), ("a.json", text(7))], "have a caption that is no text: a", None, None),
        ([("a.png", png()), ("a.json", b"{")], "neither UTF-8 nor json as expected: a", None, None),
        ([("a.png", png()), ("a.txt", b"\xff\xfe")], "neither UTF-8 nor json as expected: a", None, None),
    ],
)
def test_faulty_samples_are_counted_and_named(tmp_path, said, files, message, policy, left):
    tar(tmp_path / "a.tar", [*files, ("b.png", png()), ("b.txt", b"fine")])
    with pytest.raises(DataError) as error:
        PairShards(str(tmp_path))
    assert message in str(error.value)
    for argument in ("missing", "empty"):
        if argument == policy:
            data = PairShards(str(tmp_path), **{argument: "drop"})
            assert data.names == left and data.left_out and all(data.captions)
            assert "1 of 2 samples have" in "".join(said)
        else:
            with pytest.raises(DataError):
                PairShards(str(tmp_path), **{argument: "drop"})


def test_exclusions_and_keys_in_two_shards(tmp_path):
    tar(
        tmp_path / "a.tar",
        [("1.png", png()), ("1.json", text("a", filename="sea_1.jpg")), ("2.png", png()), ("2.txt", b"b")],
    )
    assert PairShards(str(tmp_path), exclude=["sea_1.jpg"]).names == ["2"]
    assert PairShards(str(tmp_path), exclude=["2"]).left_out == {"are excluded": ["2"]}
    with pytest.raises(DataError, match="no sample is left"):
        PairShards(str(tmp_path), exclude=["1", "2"])
    tar(tmp_path / "b.tar", [("1.png", png()), ("1.txt", b"c")])
    with pytest.raises(DataError, match="1 keys occur in several shards: 1"):
        PairShards(str(tmp_path))


def test_damaged_shards_are_named(tmp_path, folder):
    shard = sorted(folder.glob("*.tar"))[0]
    whole = shard.read_bytes()
    for damaged, message in ((whole[: len(whole) // 2], "cut off|unexpected end"), (b"x" * 2000, "no readable tar")):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=message) as error:
            PairShards(str(folder))
        assert shard.name in str(error.value)
    with tarfile.open(tmp_path / "z.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match="it is compressed: unpack it"):
        PairShards(str(tmp_path / "z.tar"))
    tar(tmp_path / "z.tar", [("a.png", png()), ("b.png", png()), ("a.txt", b"a")])
    with pytest.raises(DataError, match="files of sample 'a' do not follow each other"):
        PairShards(str(tmp_path / "z.tar"))
    tar(tmp_path / "z.tar", [("a.png", png()[:-20]), ("a.txt", b"a")])
    with pytest.raises(DataError, match=r"image 'a' of shard .*z.tar' is a truncated PNG"):
        PairShards(str(tmp_path / "z.tar")).fetch(np.array([0]))
    with pytest.raises(DataError, match=r"none.tar' does not exist"):
        PairShards(str(tmp_path / "none.tar"))
    with pytest.raises(ConfigError, match="nearest is 'drop'"):
        DATASETS.build(dict(type="PairShards", shards=str(folder), missing="drp"))


def test_the_tool_packs_a_data_set_written_as_a_call(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("make_shards", ROOT / "tools" / "make_shards.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = ["LandCover(split='val', count=6, size=8, languages=['fr'])", "--out", str(tmp_path), "--format", "jpg"]
    assert tool.main(words) == 0 and "6 samples -> 1 shards" in capsys.readouterr().out
    assert PairShards(str(tmp_path), size=None).languages == ("fr",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LandCover(splt='val')", "Did you mean 'split'"),
        ("LandCovr", "Did you mean 'LandCover'"),
        ("LandCover('val')", "every argument by name"),
        ("LandCover(size=open('x'))", "not a python literal"),
        ("LandCover(", "write it as Name"),
        ("LandCover(**{})", "has no meaning"),
    ],
)
def test_calls_that_write_no_data_set(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_dataset(text)
