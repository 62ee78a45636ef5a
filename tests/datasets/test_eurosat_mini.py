import csv
import hashlib
import os

import cv2
import numpy as np
import pytest

from perception.datasets.eurosat_mini import MEAN, STD, EuroSATMini
from perception.errors import ConfigError, DataError

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")
SPLITS = ("train", "train", "val", "test")


def write(folder, **changes):
    """Two classes of four 8 x 8 tiles, one colour each; ``changes`` replaces values of the first row of the index."""
    rows = []
    for label, name in enumerate(("Forest", "River")):
        for number, split in enumerate(SPLITS):
            path = folder / "images" / name / f"{name}_{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = cv2.imencode(".jpg", np.full((8, 8, 3), (10, 20 + number, 100 * label), np.uint8))[1].tobytes()
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            rows.append(dict(path=f"images/{name}/{name}_{number}.jpg", label=label, class_name=name, split=split))
            rows[-1]["sha256"] = digest
    rows[0] |= changes
    with open(folder / "index.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_splits_and_order_of_the_channels(tmp_path):
    write(tmp_path)
    data = EuroSATMini("train", root=str(tmp_path))
    assert data.classes == ("Forest", "River") and data.labels.tolist() == [0, 0, 1, 1]
    assert data.names[3] == "images/River/River_1.jpg"
    batch = data.fetch(np.array([3]))
    colour = batch["image"].float().mean((0, 2, 3))
    assert np.allclose(colour, [100, 21, 10], atol=3)  # red, green, blue; JPEG is lossy
    assert len(EuroSATMini("val", root=str(tmp_path))) == len(EuroSATMini("test", root=str(tmp_path))) == 2
    unlabelled = EuroSATMini("pretrain", root=str(tmp_path))
    assert len(unlabelled) == 4 and "label" not in unlabelled.fetch(np.arange(2))
    assert EuroSATMini("test", size=12, root=str(tmp_path)).images.shape == (2, 3, 12, 12)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(sha256="0" * 64), r"Forest_0\.jpg.*sha256 differs"),
        (dict(label=1), r"index\.csv', line 2: label '1' of class 'Forest' is not 0"),
        (dict(path="images/Forest/none.jpg"), r"none\.jpg', listed in index\.csv, cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, changes, text):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=text):
        EuroSATMini("train", root=str(tmp_path))


def test_a_changed_file_passes_only_unverified(tmp_path):
    write(tmp_path)
    path = tmp_path / "images/Forest/Forest_0.jpg"
    path.write_bytes(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    assert EuroSATMini("train", verify=False, root=str(tmp_path)).images[0].max() < 3
    with pytest.raises(DataError, match="sha256"):
        EuroSATMini("train", root=str(tmp_path))


def test_unknown_split_and_missing_index(tmp_path):
    with pytest.raises(ConfigError, match="'train'"):
        EuroSATMini("trian", root=str(tmp_path))
    with pytest.raises(DataError, match=r"index\.csv"):
        EuroSATMini("train", root=str(tmp_path))
    (tmp_path / "index.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="lacks the columns class_name, split, sha256"):
        EuroSATMini("train", root=str(tmp_path))


@needs_data
def test_the_published_counts_and_statistics():
    train = EuroSATMini("train")
    assert [np.bincount(EuroSATMini(s).labels).tolist() for s in ("train", "val", "test")] == [
        [60] * 10,
        [10] * 10,
        [30] * 10,
    ]
    pixels = train.images.astype(np.float64)
    # The README of the data: 88.04, 97.11, 104.57 and 51.58, 35.35, 29.93.
    assert np.allclose(pixels.mean((0, 2, 3)), [88.04, 97.11, 104.57], atol=0.005)
    assert np.allclose(pixels.std((0, 2, 3)), [51.58, 35.35, 29.93], atol=0.005)
    assert np.allclose(255 * np.array(MEAN), pixels.mean((0, 2, 3)), atol=0.002)
    assert np.allclose(255 * np.array(STD), pixels.std((0, 2, 3)), atol=0.002)


def test_few_labels_are_drawn_class_by_class(tmp_path):
    write(tmp_path)
    one = EuroSATMini("train", per_class=1, root=str(tmp_path))
    assert one.labels.tolist() == [0, 1] and set(one.names) < set(EuroSATMini("train", root=str(tmp_path)).names)
    drawn = {tuple(EuroSATMini("train", per_class=1, split_seed=s, root=str(tmp_path)).names) for s in range(20)}
    assert len(drawn) == 4  # two tiles in each of two classes
    with pytest.raises(DataError, match="per_class = 3, but class 'Forest' has 2 tiles"):
        EuroSATMini("train", per_class=3, root=str(tmp_path))
    given = dict(split="train", size=None, root=str(tmp_path), per_class=0, split_seed=-1)
    assert [key for key, _ in EuroSATMini.check_config(given)] == ["per_class", "split_seed"]


@needs_data
def test_more_labels_hold_the_fewer():
    few, more = (EuroSATMini("train", per_class=count) for count in (5, 25))
    assert np.bincount(few.labels).tolist() == [5] * 10 and set(few.names) < set(more.names)
