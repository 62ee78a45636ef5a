"""Bad captions and bands: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_runs import TOWERS, folder_of_images, train

from perception.cli import main


def captions(root: Path, count: int = 6, changes: dict[str, dict[str, object]] | None = None) -> str:
    """A caption file and its images, ``changes`` by file name; returns what the data set's config begins with."""
    folder_of_images(root / "images", count)
    names = sorted(str(path.relative_to(root / "images")) for path in (root / "images").rglob("*.jpg"))
    records = [{"filename": name, "captions": ["a river", "water"], "label": "river"} for name in names]
    records = [{**record, **(changes or {}).get(record["filename"], {})} for record in records]
    (root / "captions.json").write_text(json.dumps(records))
    return f"'type': 'CaptionFiles', 'file': '{root / 'captions.json'}', 'images': '{root / 'images'}', 'size': 64"


def towers(data: str, *overrides: str) -> list[str]:
    transforms = "[{'type': 'PickCaption'}, {'type': 'MultiCrop', 'size': 64, 'global_views': 1, 'local_views': 0}]"
    dataset = f"train_dataloader.dataset={{{data}, 'transforms': {transforms}}}"
    return train(TOWERS, dataset, "train_dataloader.batch_size=2", "evaluation={}", *overrides)


def test_captions_of_images_that_are_missing(fails, tmp_path):
    data = captions(tmp_path)
    for name in ("a/0.jpg", "b/3.jpg"):
        (tmp_path / "images" / name).unlink()
    message = fails(*towers(data), code=1)
    assert "names 2 images that are not in" in message and "a/0.jpg, b/3.jpg" in message and "'drop'" in message


def test_what_captions_leave_out_is_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    data = captions(tmp_path, changes={"a/2.jpg": {"captions": []}, "a/4.jpg": {"captions": ["a river", " "]}})
    (tmp_path / "images" / "b" / "3.jpg").unlink()
    assert main(towers(f"{data}, 'missing': 'drop', 'empty': 'drop'")) == 0
    out = "".join(capfd.readouterr())
    assert "1 of 6 images are missing: b/3.jpg" in out and "1 of 6 images have no caption: a/2.jpg" in out
    assert "1 of 6 images have an empty caption that was dropped: a/4.jpg" in out
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 2  # four images are left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": ["a river", "  "]}, ["1 captions are empty, of b/1.jpg", "empty='drop'"]),
        ({"captions": []}, ["1 images have no caption: b/1.jpg", "empty='drop'"]),
        ({"captions": ["a river", 7]}, ["b/1.jpg"]),
    ],
)
def test_empty_captions(fails, tmp_path, change, words):
    message = fails(*towers(captions(tmp_path, changes={"b/1.jpg": change})), code=1)
    assert str(tmp_path / "captions.json") in message and all(word in message for word in words), message


def test_a_class_outside_the_list(fails, tmp_path):
    data = captions(tmp_path, changes={"b/1.jpg": {"label": "rivr"}})
    message = fails(*towers(f"{data}, 'classes': ['forest', 'river']"), code=1)
    assert "1 images have a class outside the 2 of the list: 'rivr' (1)" in message and "nearest" in message


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_behind_a_caption(fails, tmp_path, in_memory):
    data = captions(tmp_path)
    broken = tmp_path / "images" / "b" / "5.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    message = fails(*towers(f"{data}, 'in_memory': {in_memory}"), code=1)
    assert str(broken) in message and "truncated" in message


def test_views_that_are_no_whole_patches(fails):
    key = "train_dataloader.dataset.transforms.1"
    message = fails("validate", TOWERS, "--set", f"{key}.local_views=2", f"{key}.local_size=40", code=2)
    assert f"{key}.local_size" in message and "'32' or '48'" in message


BANDS = "model.backbone.preprocess.bands"


def test_more_bands_than_the_images_have(fails):
    four = ["model.backbone.in_channels=4", "model.backbone.preprocess.mean=(0.5, 0.5, 0.5, 0.5)"]
    four += ["model.backbone.preprocess.std=(0.2, 0.2, 0.2, 0.2)", f"{BANDS}=('red', 'green', 'blue', 'nir')"]
    message = fails(*train(TOWERS, *four), code=1)
    assert "(64, 3, 64, 64)" in message and "'nir'" in message


def test_bands_that_nobody_knows(fails, tmp_path):
    (tmp_path / "eurosat").mkdir()
    data = f"{{'type': 'EuroSAT', 'root': '{tmp_path / 'eurosat'}', 'bands': ['B04', 'B03', 'B22']}}"
    message = fails("validate", "remote_sensing/simclr_convnet_eurosat-mini", "--set", f"evaluation.val={data}", code=2)
    assert "evaluation.val" in message and "B22" in message
    message = fails("validate", TOWERS, "--set", f"{BANDS}=('red', 'green', 'red')", code=2)
    assert "names a band twice" in message
