import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.datasets.caption_corpora import CaptionTexts
from perception.datasets.caption_files import CaptionFiles
from perception.datasets.land_cover import LandCover
from perception.datasets.rsicd_mini import RSICDMini
from perception.errors import DataError
from perception.evaluation.leaks import (
    deduplicate,
    find_leaks,
    look_at_dataset,
    look_at_files,
    look_at_folder,
    look_at_list,
)

ROOT = Path(__file__).parents[2]
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


@pytest.fixture
def folders(tmp_path):
    """Ten train tiles, and a test folder with three changed copies of them, a turned one and two other tiles."""
    tiles = LandCover("train", size=96, count=12).images.transpose(0, 2, 3, 1)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    for n in range(10):
        cv2.imwrite(str(tmp_path / "train" / f"tile_{n}.png"), tiles[n])
    test = tmp_path / "test"
    cv2.imwrite(str(test / "again.jpg"), tiles[1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    cv2.imwrite(str(test / "small.png"), cv2.resize(tiles[5], (48, 48), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(test / "bright.png"), cv2.add(tiles[6], (8, 8, 8, 0)))
    cv2.imwrite(str(test / "turned.png"), np.rot90(tiles[7]))
    cv2.imwrite(str(test / "TILE_9.jpg"), tiles[10])  # another picture of a name that occurs
    cv2.imwrite(str(test / "7.png"), tiles[11])
    return tmp_path


def test_changed_copies_are_found(folders):
    leaks = find_leaks(look_at_folder(folders / "train"), look_at_folder(folders / "test"))
    found = {(pair.first, pair.second) for pair in leaks.pairs if pair.distance is not None}
    assert found == {("tile_1.png", "again.jpg"), ("tile_5.png", "small.png"), ("tile_6.png", "bright.png")}
    assert all(pair.distance <= 2 and pair.correlation > 0.98 for pair in leaks.pairs if pair.distance is not None)
    (named,) = [pair for pair in leaks.pairs if pair.same_name]
    assert (named.first, named.second, named.distance) == ("tile_9.png", "TILE_9.jpg", None) and named.correlation < 0.9
    assert leaks.summary() == dict(leaking=4, by_hash=3, by_name=1, by_both=0, leaked_to=4)
    turned = find_leaks(look_at_folder(folders / "train"), look_at_folder(folders / "test"), turns=True)
    assert {pair.first for pair in turned.pairs} - {pair.first for pair in leaks.pairs} == {"tile_7.png"}


def test_lists_and_duplicates_within_one_set(folders):
    (folders / "list.txt").write_text("train/tile_1.png\n\ntest/again.jpg\ntrain/tile_2.png\n")
    leaks = find_leaks(look_at_list(folders / "list.txt"))
    assert [(pair.first, pair.second) for pair in leaks.pairs] == [("test/again.jpg", "train/tile_1.png")]
    assert leaks.second == "itself" and leaks.counts == (3, 3)
    (folders / "list.txt").write_text("train/none.png\n")
    with pytest.raises(DataError, match=r"train/none.png' cannot be read"):
        look_at_list(folders / "list.txt")
    with pytest.raises(DataError, match="names no image"):
        look_at_files([], "nothing")


def test_what_is_found_is_left_out_by_the_data_set(folders):
    rows = [dict(filename=f"tile_{n}.png", captions=["a tile"], split="train") for n in range(10)]
    (folders / "captions.json").write_text(json.dumps(rows))
    args = dict(file=str(folders / "captions.json"), images=str(folders / "train"), size=32)
    train, test = look_at_dataset(CaptionFiles(**args)), look_at_folder(folders / "test")
    names = deduplicate(train, [test, test])
    assert sorted(names) == ["tile_1.png", "tile_5.png", "tile_6.png", "tile_9.png"]
    find_leaks(train, test).save_exclusions(folders / "leaks.txt")
    kept = CaptionFiles(**args, exclude=str(folders / "leaks.txt"))
    assert len(kept) == 6 and kept.left_out == {"excluded": sorted(names)}
    assert not find_leaks(look_at_dataset(kept), test).pairs


def test_numbers_say_nothing_and_grey_pictures_little(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), np.random.default_rng(len(folder)).integers(0, 255, (32, 32, 3)))
    cv2.imwrite(str(tmp_path / "b" / "1.png"), np.full((32, 32, 3), 7, np.uint8))
    leaks = find_leaks(look_at_folder(tmp_path / "a"), look_at_folder(tmp_path / "b"))
    assert not leaks.pairs and leaks.numbers == 1 and leaks.flat == (0, 1)
    assert "1 names of the first are a number alone" in leaks.report() and "of one grey" in leaks.report()
    with pytest.raises(DataError, match="threshold = 33"):
        find_leaks(look_at_folder(tmp_path / "a"), threshold=33)


@needs_data
def test_rsicd_mini_does_not_leak():
    test = look_at_dataset(RSICDMini("test", size=112))
    for split in ("train", "val"):
        leaks = find_leaks(look_at_dataset(RSICDMini(split, size=112)), test, threshold=2)
        assert not leaks.pairs, leaks.report()


@needs_data
def test_names_tell_the_rsitmd_test_images_in_rsicd():
    leaks = find_leaks(look_at_dataset(RSICDMini("test", size=32)), look_at_dataset(CaptionTexts("rsitmd")))
    assert leaks.summary()["by_name"] == 42 and leaks.counts == (1093, 452)  # figure of the retrieval card
    assert leaks.pairs[0].distance is None and leaks.pairs[0].correlation is None


@needs_data
def test_planted_copies_of_real_images_are_found():
    data = RSICDMini("test", size=112)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(data), 200, replace=False))

    def jpeg(image):
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)

    changes = {
        "re-encoded": (jpeg, 0.96),
        "resized": (lambda image: cv2.resize(image, (80, 80), interpolation=cv2.INTER_AREA), 0.98),
        "brightened": (lambda image: cv2.add(image, (12, 12, 12, 0)), 0.98),
    }
    whole = look_at_dataset(data)
    for name, (change, share) in changes.items():
        copies = LandCover("val", size=112, count=200)  # any data set with images and names
        changed = [change(np.ascontiguousarray(data.images[row].transpose(1, 2, 0))) for row in rows]
        copies.images = np.stack(changed).transpose(0, 3, 1, 2)
        copies.names = [f"copy_{row}" for row in rows]
        leaks = find_leaks(whole, look_at_dataset(copies))
        right = {(pair.first, pair.second) for pair in leaks.pairs}
        expected = {(data.names[row], f"copy_{row}") for row in rows}
        assert right <= expected, name  # nothing else is found
        assert len(right) >= share * len(rows), (name, len(right))


def test_the_tool_reports_and_exits_by_what_it_found(folders, capsys):
    spec = importlib.util.spec_from_file_location("leak_check", ROOT / "tools" / "leak_check.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = [folders / "train", folders / "test", "--json", folders / "leaks.json", "--exclude", folders / "leaks.txt"]
    assert tool.main([str(word) for word in words]) == 1
    assert "leaking: 4 of the first, 4 of the second (by hash 3, by name 1, by both 0)" in capsys.readouterr().out
    content = json.loads((folders / "leaks.json").read_text())
    assert content["summary"]["by_hash"] == 3
    assert content["pairs"][0]["first"] in ("tile_1.png", "tile_5.png", "tile_6.png")
    assert "tile_1.png  # again.jpg, " in (folders / "leaks.txt").read_text()
    assert tool.main(["LandCover(split='val', count=24, size=32)", "LandCover(split='test', count=24, size=32)"]) == 0


def test_the_tool_names_what_is_wrong(tmp_path):
    tool = [sys.executable, str(ROOT / "tools" / "leak_check.py")]
    wrong = subprocess.run([*tool, "LandCover(split='tst')"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2 and "Did you mean 'test'" in wrong.stderr and "Traceback" not in wrong.stderr
