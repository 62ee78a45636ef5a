import json

import numpy as np
import pytest
import tifffile
import torch
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from perception.datasets.treesatai import BANDS, CLASSES, TreeSatAI
from perception.errors import ConfigError, DataError
from perception.evaluation.frozen_encoders import find_encoders
from perception.evaluation.frozen_features import Grid, band_statistics, run_grid
from perception.transforms.image_preprocess import ImagePreprocess

SHARES = {
    "Abies_alba_1.tif": [["Abies", 0.93], ["Tilia", 0.07]],
    "Acer_2.tif": [["Acer", 1.0]],
    "Alnus_3.tif": [["Alnus", 0.5], ["Betula", 0.45], ["Quercus", 0.05]],
    "Cleared_4.tif": [["Cleared", 0.0], ["Fagus", 1.0]],
    "Fagus_5.tif": [["Fagus", 0.04], ["Fagus", 0.04], ["Larix", 0.06]],
    "Pinus_6.tif": [["Pinus", 0.71234]],
}
TRAIN, TEST = list(SHARES)[:4], list(SHARES)[4:]


def pixels(number, sensor, size):
    """Band b of image n: 100 n + 1000 (b + 1) at the first pixel, rising by one along the rows."""
    ramp = np.arange(size * size).reshape(size, size) % 97
    found = 100 * number + 1000 * (np.arange(len(BANDS[sensor]))[:, None, None] + 1) + ramp
    return found.astype(np.uint16) if sensor == "s2" else -found.astype(np.float32)


def save(path, bands):
    tifffile.imwrite(path, bands, planarconfig="separate", photometric="minisblack")


def write(root, shares=SHARES, train=TRAIN, test=TEST):
    for sensor, patch, size in (("s2", "60m", 6), ("s2", "200m", 20), ("s1", "60m", 6)):
        folder = root / sensor / patch
        folder.mkdir(parents=True)
        for number, name in enumerate(SHARES):
            tifffile.imwrite(
                folder / name, pixels(number, sensor, size), planarconfig="separate", photometric="minisblack"
            )
    (root / "aerial/60m").mkdir(parents=True)
    for number, name in enumerate(SHARES):
        image = np.full((304, 304, 4), (10, 20, 30, 40 + number), np.uint8)
        tifffile.imwrite(root / "aerial/60m" / name, image, planarconfig="contig", photometric="minisblack")
    (root / "labels").mkdir()
    (root / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(shares))
    (root / "train_filenames.lst").write_text("\n".join(train) + "\n")
    (root / "test_filenames.lst").write_text("\r\n".join(test))
    return str(root)


def expected(*genera):
    return [float(name in genera) for name in CLASSES]


def test_official_layout_labels_and_bands_in_file_order(tmp_path):
    data = TreeSatAI(root=write(tmp_path))
    assert len(data) == 4 and data.names == TRAIN and len(TreeSatAI("test", root=str(tmp_path))) == 2
    batch = data.fetch(np.array([2, 0]))
    assert batch["image"].shape == (2, 12, 20, 20) and batch["image"].dtype == torch.uint16
    assert np.array_equal(batch["image"][0].numpy(), pixels(2, "s2", 20))
    assert ",".join(batch["meta"]["bands"]) == "B02,B03,B04,B08,B05,B06,B07,B8A,B11,B12,B01,B09"
    assert batch["label"].dtype == torch.float32 and len(CLASSES) == 15
    assert batch["label"].tolist() == [expected("Alnus", "Betula", "Quercus"), expected("Abies", "Tilia")]
    assert data.fetch(np.array([3]))["label"].tolist() == [expected("Fagus")]  # a share of 0 is not above 0
    assert TreeSatAI(patch="60m", root=str(tmp_path)).fetch(np.array([1]))["image"].shape == (1, 12, 6, 6)


@pytest.mark.parametrize(
    ("threshold", "genera"),
    [(0.0, ("Fagus", "Larix")), (0.05, ("Fagus", "Larix")), (0.06, ("Fagus",)), (0.07, ("Fagus",)), (0.08, ())],
)
def test_a_genus_counts_above_the_threshold(tmp_path, threshold, genera):
    # Fagus comes twice with 0.04; a share that equals the threshold does not pass.
    data = TreeSatAI("test", threshold=threshold, root=write(tmp_path))
    assert data.fetch(np.array([0]))["label"].tolist() == [expected(*genera)]
    assert data.shares[0, CLASSES.index("Fagus")] == 0.08 and data.shares[1].sum() == 0.71234


def test_sensors_and_bands_by_name(tmp_path):
    root = write(tmp_path)
    s1 = TreeSatAI(sensor="s1", patch="60m", bands=["VH"], root=root).fetch(np.array([1]))
    assert s1["meta"]["bands"] == ("VH",) and np.array_equal(s1["image"][0, 0].numpy(), pixels(1, "s1", 6)[1])
    aerial = TreeSatAI(sensor="aerial", patch="60m", bands="rgb", root=root).fetch(np.array([3]))
    assert aerial["image"].dtype == torch.uint8 and aerial["image"].shape == (1, 3, 304, 304)
    assert aerial["image"][0, :, 0, 0].tolist() == [43, 20, 30]  # the files hold nir, green, blue, red
    rgb = TreeSatAI(bands="rgb", root=root).fetch(np.array([0]))
    assert rgb["image"][0, :, 0, 0].tolist() == [3000, 2000, 1000] and rgb["meta"]["bands"] == ("B04", "B03", "B02")
    record = ImagePreprocess(20, ("B8A", "B01", "blue"), (0,) * 3, (1,) * 3, value_scale=1)
    for bands in ("all", ["B1", "B2", "B8A"]):
        assert record(TreeSatAI(bands=bands, root=root).fetch(np.array([0])))["image"][0, :, 0, 0].tolist() == [
            8000,
            11000,
            1000,
        ]


def test_odd_sizes_are_errors_unless_a_size_is_given(tmp_path):
    root = write(tmp_path)
    odd = np.arange(12 * 40 * 20, dtype=np.uint16).reshape(12, 40, 20)
    save(tmp_path / "s2/200m" / TRAIN[1], odd)
    with pytest.raises(DataError, match=r"Acer_2\.tif' has \(40, 20\) pixels, expected \(20, 20\): set size="):
        TreeSatAI(root=root).fetch(np.arange(3))
    image = TreeSatAI(size=20, root=root).fetch(np.arange(3))["image"]
    assert np.array_equal(image[1].numpy(), odd[:, 1::2])  # centres at 2 i + 1 of 40 rows
    assert np.array_equal(image[0].numpy(), pixels(0, "s2", 20))


def test_damaged_images_are_named(tmp_path):
    root = write(tmp_path)
    path = tmp_path / "s2/200m" / TRAIN[2]
    whole = path.read_bytes()
    data = TreeSatAI(root=root)
    for content in (whole[:200], b"II*\x00" + whole[4:60], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"Alnus_3\.tif"):
            data.fetch(np.arange(4))
    save(path, pixels(2, "s2", 20)[:10])
    with pytest.raises(DataError, match=r"Alnus_3\.tif' has 10 bands, expected 12"):
        data.fetch(np.array([2]))
    save(path, pixels(2, "s2", 20).astype(np.int16))
    with pytest.raises(DataError, match=r"holds images of several types: torch\.int16, torch\.uint16"):
        data.fetch(np.array([1, 2]))
    radar = pixels(0, "s1", 6)
    radar[1, 2, 3] = np.nan
    path = tmp_path / "s1/60m" / TRAIN[0]
    save(path, radar)
    with pytest.raises(DataError, match=r"Abies_alba_1\.tif' has 1 values that are not finite"):
        TreeSatAI(sensor="s1", patch="60m", root=root).fetch(np.array([0]))


def test_samples_without_image_or_labels_are_counted(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("perception.datasets.scene_labels.warn", told.append)
    monkeypatch.setattr("perception.datasets.treesatai.warn", told.append)
    shares = {name: pairs for name, pairs in SHARES.items() if name != TRAIN[3]} | {"Tilia_9.tif": [["Tilia", 1]]}
    root = write(tmp_path, shares)
    (tmp_path / "s2/200m" / TRAIN[0]).unlink()
    text = r"lists 4 samples, of them 1 without image in s2/200m: Abies_alba_1\.tif; 1 without labels: Cleared_4\.tif"
    with pytest.raises(DataError, match=text):
        TreeSatAI(root=root)
    assert told == []
    data = TreeSatAI(missing="drop", root=root)
    assert data.names == TRAIN[1:3] and data.labels.sum(1).tolist() == [1, 3]
    assert data.left_out == {"without image in s2/200m": [TRAIN[0]], "without labels": [TRAIN[3]]}
    assert len(told) == 3 and "left out 1 of 4 samples, without image in s2/200m: Abies_alba_1.tif" in told[0]
    assert "names 1 images that are not in s2/200m, none of them listed in train: Tilia_9.tif" in told[2]
    with pytest.raises(DataError, match="no sample is left"):
        (tmp_path / "train_filenames.lst").write_text("none.tif")
        TreeSatAI(missing="drop", root=root)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([["Querkus", 1.0]], r"'Acer_2\.tif' of labels/.* has the label 'Querkus', none of .*did you mean 'Quercus'"),
        ([["Acer", 1.5]], r"'Acer_2\.tif' has \[\['Acer', 1\.5\]\], expected"),
        ([["Acer", float("nan")]], "expected a list of"),
        ([["Acer"]], "expected a list of"),
        (["Acer", 0.5], "expected a list of"),
        ({"Acer": 0.5}, "expected a list of"),
    ],
)
def test_bad_labels_are_named(tmp_path, pairs, text):
    with pytest.raises(DataError, match=text):
        TreeSatAI(root=write(tmp_path, SHARES | {"Acer_2.tif": pairs}))


def test_bad_lists_and_label_files(tmp_path):
    root = write(tmp_path)
    with pytest.raises(DataError, match=r"train_filenames\.lst in .* has the md5 .*a1a0148e8120b0268f76d2e98a68436f"):
        TreeSatAI(verify=True, root=root)
    for content, text in ((TRAIN[0] + "\n" + TRAIN[0], "has 1 names more than once: Abies"), ("", "is empty")):
        (tmp_path / "train_filenames.lst").write_text(content)
        with pytest.raises(DataError, match=text):
            TreeSatAI(root=root)
    (tmp_path / "train_filenames.lst").write_text("../secret.tif")
    with pytest.raises(DataError, match="without folders"):
        TreeSatAI(root=root)
    for content in ("{", "[1]"):
        (tmp_path / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(content)
        with pytest.raises(DataError, match=r"TreeSatBA_v9_60m_multi_labels\.json' (is not readable|must hold)"):
            TreeSatAI("test", root=root)


def test_check_config(tmp_path):
    def check(**options):
        defaults = dict(split="train", sensor="s2", patch="200m", bands="all", missing="error", size=None, threshold=0)
        return list(TreeSatAI.check_config(defaults | dict(root=str(tmp_path)) | options))

    with pytest.raises(DataError, match=r"is not in .*zenodo\.org/records/6780578"):
        check()
    write(tmp_path)
    assert check() == check(sensor="aerial", patch="60m", bands="rgb") == []
    with pytest.raises(ConfigError, match=r"2 faults\n.*threshold = 1\.0: must lie in \[0, 1\)[^\n]*\n.*size = 0"):
        check(threshold=1.0, size=0)
    for wrong, text in (
        (dict(split="trian"), "Did you mean 'train'"),
        (dict(sensor="areal"), "Did you mean 'aerial'"),
        (dict(sensor="aerial"), "patch = '200m': not an extent of aerial images; there are 60m"),
        (dict(bands=["B10"]), "no band 'B10'"),
        (dict(missing="skip"), "not a policy; there are error, drop"),
    ):
        with pytest.raises(ConfigError, match=text):
            check(**wrong)
    with pytest.raises(DataError, match=r"s1/200m is not in .*: unpack s1\.zip"):
        check(sensor="s1")


def test_the_benchmark_of_frozen_features_runs_on_several_labels(tmp_path):
    random = np.random.default_rng(0)
    names = [f"tree_{i:02d}.tif" for i in range(40)]
    shares = {name: [[CLASSES[i % 3], 0.6], [CLASSES[3 + i % 2], 0.4]] for i, name in enumerate(names)}
    root = write(tmp_path, shares, names[:28], names[28:])
    for i, name in enumerate(names):
        image = random.integers(0, 500, (12, 20, 20)) + 300 * np.array([i % 3, i % 2] * 6)[:, None, None]
        path = tmp_path / "s2/200m" / name
        save(path, image.astype(np.uint16))
    train, test = TreeSatAI(root=root), TreeSatAI("test", root=root)
    grid = Grid(find_encoders(["statistics", "rcf"]), ("native",), ("divide",), ("knn",), (0,), divisor=10000)
    rows = run_grid(grid, train, test, band_statistics(train))
    assert [(row["encoder"], row["dims"]) for row in rows] == [("statistics", 48), ("rcf", 512)]
    # By hand: mean, deviation (n - 1), maximum and minimum of every band, five neighbours, one vote each.
    features = []
    for data in (train, test):
        x = data.fetch(np.arange(len(data)))["image"].numpy().astype(np.float64) / 10000
        parts = [x.mean((2, 3)), x.std((2, 3), ddof=1), x.max((2, 3)), x.min((2, 3))]
        features.append(np.concatenate(parts, axis=1))
    neighbours = NearestNeighbors(n_neighbors=5).fit(features[0]).kneighbors(features[1], return_distance=False)
    scores = train.labels[neighbours].mean(1)
    value = average_precision_score(test.labels, scores, average="micro")
    assert rows[0]["metric"] == "ap_micro" and rows[0]["value"] == pytest.approx(value, abs=1e-9) and value > 0.5
