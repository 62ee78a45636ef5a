import json

import numpy as np
import pytest
import tifffile
import torch

from perception.datasets.bigearthnet import BANDS, BigEarthNet
from perception.datasets.bigearthnet_classes import CLASSES_19, CLASSES_43, FROM_43_TO_19
from perception.errors import ConfigError, DataError
from perception.evaluation.frozen_encoders import find_encoders
from perception.evaluation.frozen_features import Grid, band_statistics, run_grid
from perception.transforms.image_preprocess import ImagePreprocess

PATCHES = {
    "S2A_MSIL2A_20170717T113321_28_87": ["Pastures", "Continuous urban fabric"],
    "S2A_MSIL2A_20170717T113321_28_88": ["Airports", "Burnt areas"],  # none of the 19
    "S2A_MSIL2A_20170717T113321_28_89": ["Sea and ocean", "Estuaries", "Airports"],  # two that became one
    "S2B_MSIL2A_20170924T93020_41_73": ["Rice fields"],
    "S2B_MSIL2A_20170924T93020_41_74": ["Moors and heathland", "Natural grassland"],
}
NAMES = list(PATCHES)


def plane(number, band):
    """Rows rise by 6, columns by 60; the patch and the band can be told from every value."""
    side, place = BANDS[band], list(BANDS).index(band)
    row, column = np.ogrid[:side, :side]
    return (6 * row + 60 * column + 2 * number + 1000 * place).astype(np.uint16)


def write(root, patches=PATCHES):
    for number, (name, labels) in enumerate(patches.items()):
        folder = root / "BigEarthNet-v1.0" / name
        folder.mkdir(parents=True)
        for band in BANDS:
            tifffile.imwrite(folder / f"{name}_{band}.tif", plane(number, band))
        (folder / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": labels, "projection": "UTM"}))
    lists = {"train": NAMES[:3], "val": NAMES[3:4], "test": NAMES[4:]}
    for split, names in lists.items():
        (root / f"{split}.csv").write_text("".join(f"{name},S1A_{name}\n" for name in names))
    return str(root)


def hot(classes, *names):
    return [float(name in names) for name in classes]


def test_labels_and_their_conversion(tmp_path):
    data = BigEarthNet(root=write(tmp_path))
    assert data.names == [NAMES[0], NAMES[2]] and data.classes == CLASSES_19
    batch = data.fetch(np.array([1, 0]))
    assert batch["label"].dtype == torch.float32
    assert batch["label"].tolist() == [hot(CLASSES_19, "Marine waters"), hot(CLASSES_19, "Urban fabric", "Pastures")]
    assert data.left_out == {"without any of the 19 labels": [NAMES[1]]}
    all_labels = BigEarthNet(num_classes=43, root=str(tmp_path))
    assert len(all_labels) == 3 and all_labels.left_out == {}
    assert all_labels.fetch(np.array([1]))["label"].tolist() == [hot(CLASSES_43, "Airports", "Burnt areas")]
    assert [len(BigEarthNet(split, root=str(tmp_path))) for split in ("val", "test", None)] == [1, 1, 4]


def test_the_official_conversion():
    # The authors' label_conversion: for each of the 19 the places of those that went into it.
    official = [[0, 1], [2], [11, 12, 13], [14, 15, 16, 18], [17], [19], [20], [21], [22], [23], [24], [25, 31]]
    official += [[26, 27], [28], [29], [33, 34], [35, 36], [38, 39], [40, 41, 42]]
    assert [np.flatnonzero(column).tolist() for column in FROM_43_TO_19.T] == official
    assert (len(CLASSES_43), len(CLASSES_19)) == (43, 19) and len(set(CLASSES_43)) == 43
    gone = [CLASSES_43[i] for i in np.flatnonzero(FROM_43_TO_19.sum(1) == 0)]
    assert gone[:3] + gone[-3:] == [
        "Road and rail networks and associated land",
        "Port areas",
        "Airports",
        "Bare rock",
        "Burnt areas",
        "Intertidal flats",
    ]
    assert len(gone) == 11


def test_bands_and_upsampling(tmp_path):
    root = write(tmp_path)
    data = BigEarthNet(root=root)
    batch = data.fetch(np.array([0, 1]))
    assert batch["image"].shape == (2, 12, 120, 120) and batch["image"].dtype == torch.uint16
    assert ",".join(batch["meta"]["bands"]) == "B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12"
    image = batch["image"][1].numpy().astype(int)
    assert np.array_equal(image[3], plane(2, "B04"))
    # Pixel i of 120 has its centre at (i + 0.5) / 2 - 0.5 of 60, the edge is repeated; the ramp is 6 and 60 a pixel.
    for place, band, factor in ((4, "B05", 2), (8, "B8A", 2), (0, "B01", 6), (9, "B09", 6)):
        centre = np.clip((np.arange(120) + 0.5) / factor - 0.5, 0, 120 // factor - 1)
        exact = 6 * centre[:, None] + 60 * centre[None] + 4 + 1000 * list(BANDS).index(band)
        assert np.abs(image[place] - exact).max() <= 0.5 + 1e-3, band
    # Pixel (1, 2) of B05: centres 0.25 and 0.75, so 1.5 + 45 + 4 + 4000.
    assert image[4, 1, 2] in (4050, 4051)
    nearest = BigEarthNet(interpolation="nearest", root=root).fetch(np.array([1]))["image"][0].numpy()
    for place, band, factor in ((4, "B05", 2), (0, "B01", 6), (3, "B04", 1)):
        assert np.array_equal(nearest[place], plane(2, band).repeat(factor, 0).repeat(factor, 1))


def test_bands_are_chosen_by_name(tmp_path):
    root = write(tmp_path)
    batch = BigEarthNet(bands=["B8A", "nir", "B9"], interpolation="nearest", root=root).fetch(np.array([0]))
    assert batch["meta"]["bands"] == ("B8A", "B08", "B09")
    assert batch["image"][0, :, 0, 0].tolist() == [8000, 7000, 9000]
    record = ImagePreprocess(120, value_scale=1, mean=(0,) * 3, std=(1,) * 3)  # red, green, blue
    for bands in ("all", "10m", "rgb"):
        image = record(BigEarthNet(bands=bands, root=root).fetch(np.array([0])))["image"]
        assert image[0, :, 0, 0].tolist() == [3000, 2000, 1000]


def test_exclusions_and_missing_patches_are_counted(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("perception.datasets.scene_labels.warn", told.append)
    root = write(tmp_path)
    (tmp_path / "patches_with_seasonal_snow.csv").write_text(NAMES[0] + "\n" + NAMES[4] + "\n")
    (tmp_path / "train.csv").write_text("\n".join([*NAMES[:3], "S2A_gone"]))
    with pytest.raises(
        DataError, match=r"1 of 4 patches are not in .*BigEarthNet-v1\.0': S2A_gone\. Set missing='drop'"
    ):
        BigEarthNet(root=root)
    assert told == []
    data = BigEarthNet(exclude=["patches_with_seasonal_snow.csv"], missing="drop", root=root)
    assert data.names == [NAMES[2]] and data.left_out == {
        "in a list of exclusions": [NAMES[0]],
        "not in the folder": ["S2A_gone"],
        "without any of the 19 labels": [NAMES[1]],
    }
    assert len(told) == 3 and "left out 1 of 4 samples, not in the folder: S2A_gone" in told[1]
    (tmp_path / "patches_with_seasonal_snow.csv").write_text("\n".join(NAMES))
    with pytest.raises(DataError, match="no patch is left"):
        BigEarthNet(exclude=["patches_with_seasonal_snow.csv"], missing="drop", root=root)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"labels": ["Sea and oceans"]}, r"28_89' has the label 'Sea and oceans'.*did you mean 'Sea and ocean'"),
        ({"labels": "Pastures"}, r"28_89_labels_metadata\.json': 'labels' is 'Pastures', expected a list"),
        ({"classes": []}, r"28_89_labels_metadata\.json' is no readable JSON with 'labels'"),
        ([1], "is no readable JSON with 'labels'"),
        (None, "is no readable JSON with 'labels'"),
    ],
)
def test_bad_labels_are_named(tmp_path, content, text):
    root = write(tmp_path)
    path = tmp_path / "BigEarthNet-v1.0" / NAMES[2] / f"{NAMES[2]}_labels_metadata.json"
    path.write_text("{" if content is None else json.dumps(content))
    with pytest.raises(DataError, match=text):
        BigEarthNet(root=root)


def test_bad_images_are_named(tmp_path):
    data = BigEarthNet(root=write(tmp_path))
    path = tmp_path / "BigEarthNet-v1.0" / NAMES[2] / f"{NAMES[2]}_B05.tif"
    whole = path.read_bytes()
    for content in (whole[:3000], b"II*\x00" + whole[4:80], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"28_89_B05\.tif"):
            data.fetch(np.array([0, 1]))
    for values, text in (
        (plane(0, "B02"), r"is uint16 \(120, 120\), expected uint16 \(60, 60\)"),
        (plane(0, "B05").astype(np.int16), r"is int16 \(60, 60\), expected uint16"),
        (np.zeros((3, 60, 60), np.uint16), "has 3 bands, expected 1"),
    ):
        tifffile.imwrite(path, values, photometric="minisblack")
        with pytest.raises(DataError, match=text):
            data.fetch(np.array([1]))
    path.unlink()
    with pytest.raises(DataError, match=r"28_89_B05\.tif' cannot be read: No such file"):
        data.fetch(np.array([1]))
    assert len(data.fetch(np.array([0]))["image"]) == 1


def test_bad_lists(tmp_path):
    root = write(tmp_path)
    with pytest.raises(DataError, match=r"train\.csv in .* has the md5 .*623e501b38ab7b12fe44f0083c00986d"):
        BigEarthNet(verify=True, root=root)
    for content, text in (
        (f"{NAMES[0]}\n{NAMES[0]},x", "1 names more than once"),
        ("\n", "is empty"),
        ("a/b", "folders"),
    ):
        (tmp_path / "train.csv").write_text(content)
        with pytest.raises(DataError, match=text):
            BigEarthNet(root=root)
    (tmp_path / "splits").mkdir()
    (tmp_path / "train.csv").rename(tmp_path / "bigearthnet-train.csv").write_text(NAMES[0])
    (tmp_path / "test.csv").rename(tmp_path / "splits/test.csv")
    assert BigEarthNet(root=root).names == NAMES[:1] and BigEarthNet("test", root=root).names == NAMES[4:]


def test_check_config(tmp_path):
    def check(**options):
        defaults = dict(
            split="train", num_classes=19, bands="all", interpolation="bilinear", exclude=(), missing="error"
        )
        return list(BigEarthNet.check_config(defaults | dict(root=str(tmp_path)) | options))

    with pytest.raises(DataError, match=r"the folder BigEarthNet-v1\.0 is not in .*zenodo\.org/records/12687186"):
        check()
    write(tmp_path)
    assert check() == check(split=None, bands="10m", num_classes=43) == []
    for wrong, text in (
        (dict(split="trian"), "Did you mean 'train'"),
        (dict(num_classes=20), "not a number of labels; there are 19, 43"),
        (dict(bands=["B10"]), "no band 'B10'"),
        (dict(interpolation="nearst"), "Did you mean 'nearest'"),
        (dict(exclude="snow.csv"), "must be a list"),
    ):
        with pytest.raises(ConfigError, match=text):
            check(**wrong)
    with pytest.raises(DataError, match=r"the list snow\.csv is not in .*bigearth\.net"):
        check(exclude=["snow.csv"])
    (tmp_path / "val.csv").unlink()
    with pytest.raises(
        DataError, match=r"none of val\.csv, bigearthnet-val\.csv, splits/val\.csv is in .*git\.tu-berlin"
    ):
        check(split="val")


def test_the_benchmark_of_frozen_features_runs_on_twelve_bands(tmp_path):
    root = write(tmp_path, PATCHES | {"S2B_MSIL2A_20170924T93020_41_75": ["Pastures"]})
    train, test = BigEarthNet(None, root=root), BigEarthNet("test", root=root)
    statistics = band_statistics(train)
    assert statistics.dtype == "uint16" and statistics.size == (120, 120) and statistics.bands[8] == "B8A"
    # B04 of the patches 0, 2, 3, 4 and 5: ramps with mean 59.5 (6 + 60), plus 2 a patch, plus 3000.
    assert statistics.mean[3] == pytest.approx(59.5 * 66 + 2 * 14 / 5 + 3000, abs=1e-9)
    grid = Grid(find_encoders(["statistics"]), ("native",), ("divide", "for_seco"), ("knn",), (0,), divisor=10000)
    rows = run_grid(grid, train, test, statistics)
    assert [row["dims"] for row in rows] == [48, 48] and {row["metric"] for row in rows} == {"ap_micro"}
    # The bank has five patches, so all of them vote: Pastures gets 2 of 5, five other labels 1 of 5, among them the
    # two of the test patch: precision 2 / 6 where both are found.
    assert all(row["value"] == pytest.approx(2 / 6) for row in rows)
