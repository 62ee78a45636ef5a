"""EuroSAT, UC Merced and RESISC45 in small copies of their official layouts."""

import hashlib
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import torch

from perception.datasets import eurosat, uc_merced
from perception.datasets.downloads import RemoteFile
from perception.datasets.eurosat import BANDS, EuroSAT
from perception.datasets.resisc45 import RESISC45
from perception.datasets.uc_merced import UCMerced
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.transforms.image_preprocess import ImagePreprocess
from perception.validation import validate_config

CLASSES = ("AnnualCrop", "Forest", "River")
EACH = 10
NESTED = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"


def msi_tile(label, number):
    """Uniform bands: band b of tile n of class c is 1000 c + 100 n + b."""
    return np.broadcast_to(np.arange(13, dtype=np.uint16) + 1000 * label + 100 * number, (8, 8, 13))


def write_msi(path, tile):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, tile, photometric="minisblack", planarconfig="contig", metadata=None)


def write_rgb(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    image[:] = colour[::-1]  # OpenCV writes blue first
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three classes of ten tiles in both forms, which are all that was "published"."""
    monkeypatch.setattr(EuroSAT, "COUNTS", dict.fromkeys(CLASSES, EACH))
    for label, name in enumerate(CLASSES):
        for number in range(1, EACH + 1):
            write_msi(tmp_path / "EuroSAT_MS" / name / f"{name}_{number}.tif", msi_tile(label, number))
            write_rgb(tmp_path / "EuroSAT_RGB" / name / f"{name}_{number}.jpg", (50 * label, 20 * number, 5))
    return tmp_path


@pytest.fixture
def warnings(monkeypatch):
    """Warnings, as they come."""
    lines = []
    monkeypatch.setattr("perception.datasets.scene_images.warn", lines.append)
    return lines


def write_lists(root, stem="eurosat", suffix=".jpg", **changes):
    """Tiles 1 to 6 of every class are train, 7 and 8 val, 9 and 10 test; ``changes`` replace a whole list."""
    shares = {"train": range(1, 7), "val": range(7, 9), "test": range(9, 11)}
    for part, numbers in shares.items():
        lines = changes.get(part, [f"{name}_{number}{suffix}" for name in CLASSES for number in numbers])
        (root / f"{stem}-{part}.txt").write_text("\n".join(lines) + "\n")


def test_all_bands_in_the_order_of_the_files(root):
    data = EuroSAT(str(root), split="all", bands="msi")
    assert len(data) == 30 and data.classes == CLASSES and data.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.bands == BANDS and data.bands[8:] == ("B09", "B10", "B11", "B12", "B8A")
    assert data.names[:3] == [
        "AnnualCrop/AnnualCrop_1.tif",
        "AnnualCrop/AnnualCrop_10.tif",
        "AnnualCrop/AnnualCrop_2.tif",
    ]
    batch = data.fetch(np.array([11, 0]))  # Forest_10, AnnualCrop_1
    assert batch["image"].dtype == torch.uint16 and batch["image"].shape == (2, 13, 8, 8)
    assert batch["image"][:, :, 0, 0].tolist() == [list(range(2000, 2013)), list(range(100, 113))]
    assert batch["label"].tolist() == [1, 0] and batch["index"].tolist() == [11, 0]
    assert batch["meta"] == {"bands": BANDS, "partition": "all"}


def test_bands_are_chosen_by_name_and_the_record_orders_by_name(root):
    data = EuroSAT(str(root), split="all", bands=["B8A", "red", "b2"])
    assert data.bands == ("B8A", "B04", "B02")
    batch = data.fetch(np.array([0]))
    assert batch["image"][0, :, 0, 0].tolist() == [112, 103, 101]
    record = ImagePreprocess(8, ("B02", "B04"), (0, 0), (1, 1), value_scale=10_000)
    assert torch.allclose(record(batch)["image"][0, :, 0, 0], torch.tensor([0.0101, 0.0103]))
    everything = EuroSAT(str(root), split="all", bands="msi").fetch(np.array([0]))
    assert torch.equal(record(everything)["image"], record(batch)["image"])


def test_the_other_places_of_the_files(root):
    expected = EuroSAT(str(root), split="all", bands="msi").fetch(np.arange(30))["image"]
    (root / NESTED).parent.mkdir(parents=True)
    (root / "EuroSAT_MS").rename(root / NESTED)
    (root / "EuroSAT_RGB").rename(root / "2750")
    for place in (root, root / NESTED):
        data = EuroSAT(str(place), split="all", bands="msi")
        assert torch.equal(data.fetch(np.arange(30))["image"], expected)
    rgb = EuroSAT(str(root), split="all")
    assert rgb.bands == ("B04", "B03", "B02") and rgb.names[0] == "AnnualCrop/AnnualCrop_1.jpg"
    image = rgb.fetch(np.array([12]))["image"]  # Forest_2
    assert image.dtype == torch.uint8 and np.allclose(image[0, :, 4, 4], [50, 40, 5], atol=2)


@pytest.mark.parametrize("bands", ["rgb", "msi"])
def test_published_lists_make_the_splits(root, bands):
    write_lists(root)
    parts = {s: EuroSAT(str(root), split=s, bands=bands) for s in ("pretrain", "train", "val", "test")}
    assert {s: len(d) for s, d in parts.items()} == {"pretrain": 18, "train": 18, "val": 6, "test": 6}
    assert {d.partition for d in parts.values()} == {"torchgeo"}
    stems = [name.rsplit("/")[1].split(".")[0] for name in parts["test"].names]
    assert stems == [f"{name}_{number}" for name in CLASSES for number in (10, 9)]
    assert parts["test"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "label" not in parts["pretrain"].fetch(np.arange(2)) and parts["pretrain"].names == parts["train"].names
    assert parts["val"].fetch(np.arange(2))["meta"]["partition"] == "torchgeo"
    write_lists(
        root,
        "eurosat-spatial",
        train=[f"{n}_{i}.tif" for n in CLASSES for i in range(5, 11)],
        val=[f"{n}_{i}.tif" for n in CLASSES for i in (1, 2)],
        test=[f"{n}_{i}.tif" for n in CLASSES for i in (3, 4)],
    )
    spatial = EuroSAT(str(root), split="val", bands=bands, partition="spatial")
    assert [name.split("_")[1][0] for name in spatial.names] == ["1", "2"] * 3


def test_without_lists_the_draw_is_said_stratified_and_fixed(root, warnings):
    parts = [EuroSAT(str(root), split=s, bands="msi") for s in ("train", "val", "test")]
    assert [np.bincount(d.labels).tolist() for d in parts] == [[6] * 3, [2] * 3, [2] * 3]
    assert sorted(name for d in parts for name in d.names) == sorted(EuroSAT(str(root), split="all", bands="msi").names)
    assert all(d.partition == "drawn" for d in parts)
    assert len(warnings) == 3 and "drawn by a fixed seed" in warnings[0] and "not the published ones" in warnings[0]
    # A draw of its own: the generator's permutations of ten rows, class by class.
    random = np.random.default_rng(0)
    rows = np.concatenate([np.sort(10 * label + random.permutation(10)[:6]) for label in range(3)])
    everything = EuroSAT(str(root), split="all", bands="msi").names
    assert parts[0].names == [everything[row] for row in rows]
    write_lists(root)
    assert EuroSAT(str(root), bands="msi", partition="drawn").names == parts[0].names
    assert EuroSAT(str(root), bands="msi").names != parts[0].names


def test_a_partial_copy_is_an_error_unless_it_is_said_to_be_one(root, warnings):
    write_lists(root)
    for number in (7, 9, 10):
        (root / "EuroSAT_MS" / "Forest" / f"Forest_{number}.tif").unlink()
    text = r"holds 27 of 30 images \(Forest 7 of 10\): complete the copy, or set partial=True"
    with pytest.raises(DataError, match=text):
        EuroSAT(str(root), bands="msi")
    data = EuroSAT(str(root), split="test", bands="msi", partial=True)
    assert data.labels.tolist() == [0, 0, 2, 2] and data.left_out == ["Forest_7.jpg", "Forest_9.jpg", "Forest_10.jpg"]
    assert "Forest 7 of 10): figures do not compare" in warnings[0]
    assert "3 of 30 images that the lists name are not there and are left out: Forest_7.jpg" in warnings[1]
    write_msi(root / "EuroSAT_MS" / "River" / "River_11.tif", msi_tile(2, 11))
    for partial in (False, True):
        with pytest.raises(DataError, match=r"River 11 of 10.*more than were published"):
            EuroSAT(str(root), bands="msi", partial=partial)


def test_faults_of_folders_are_named(root):
    (root / "EuroSAT_MS" / "Forrest").mkdir()
    with pytest.raises(DataError, match=r"Forrest' is none of the 3 classes; did you mean 'Forest'\?"):
        EuroSAT(str(root), bands="msi", partial=True)
    empty = root / "empty" / "EuroSAT_MS" / "Forest"
    empty.mkdir(parents=True)
    (empty / "Forest_1.tif.aux.xml").write_text("beside a GeoTIFF, not an image")
    with pytest.raises(DataError, match=r"EuroSAT_MS' holds no image \(\.tif, \.tiff\)"):
        EuroSAT(str(root / "empty"), bands="msi", partial=True)
    with pytest.raises(DataError, match=r"has no folder EuroSAT_RGB/<class> or 2750/<class>\. See https"):
        EuroSAT(str(root / "empty"))
    (root / "empty" / "EuroSAT_RGB.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"EuroSAT_RGB\.zip is there but not unpacked: download=True"):
        EuroSAT(str(root / "empty"))
    with pytest.raises(DataError, match=r"does not exist\. It must hold EuroSAT_MS\. Unpack https"):
        EuroSAT(str(root / "none"), bands="msi")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(val=["Forest_99.jpg"]), r"eurosat-val\.txt', line 1: there is no image 'Forest_99\.jpg'"),
        (
            dict(val=["Forest_7.jpg", "", "Forest_1.tif"]),
            r"line 3: 'Forest_1\.tif' is also in eurosat-train\.txt, line 7",
        ),
        (dict(val=["Forest_7.jpg"]), r"eurosat-val\.txt' names 1 images, 6 were published"),
    ],
)
def test_faults_of_lists_are_named(root, changes, text):
    write_lists(root, **changes)
    with pytest.raises(DataError, match=text):
        EuroSAT(str(root), bands="msi")


def test_a_missing_list_is_named(root):
    write_lists(root)
    (root / "eurosat-val.txt").unlink()
    with pytest.raises(DataError, match=r"eurosat-val\.txt' cannot be read: No such file"):
        EuroSAT(str(root), bands="msi")
    with pytest.raises(DataError, match=r"eurosat-spatial-train\.txt' cannot be read"):
        EuroSAT(str(root), bands="msi", partition="spatial")


def test_faults_of_files_are_named_when_they_are_read(root):
    msi, rgb = root / "EuroSAT_MS" / "Forest", root / "EuroSAT_RGB" / "Forest"
    cut = (msi / "Forest_1.tif").read_bytes()
    (msi / "Forest_1.tif").write_bytes(cut[:-20])
    write_msi(msi / "Forest_2.tif", msi_tile(1, 2)[..., :12])
    write_msi(msi / "Forest_3.tif", msi_tile(1, 3).astype(np.float32) / 10_000)
    jpeg = (rgb / "Forest_4.jpg").read_bytes()
    (rgb / "Forest_4.jpg").write_bytes(jpeg[:-20])
    (rgb / "Forest_5.jpg").write_bytes(b"no image")
    faults = {1: "is cut off", 2: "has 12 bands, expected 13", 3: "has values of type float32, expected uint16"}
    faults |= {4: "is a truncated JPEG", 5: "cannot be decoded as an image"}
    for number, text in faults.items():
        data = EuroSAT(str(root), split="all", bands="msi" if number < 4 else "rgb")
        row = next(i for i, name in enumerate(data.names) if f"Forest_{number}." in name)
        with pytest.raises(DataError, match=rf"Forest_{number}\.\w+' {text}"):
            data.fetch(np.array([row]))


def test_faults_of_a_config_are_found_before_anything_is_read(root):
    def faults(**changes):
        cfg = {"type": "EuroSAT", "root": str(root), "bands": "msi", **changes}
        return [str(fault) for fault in validate_config({"evaluation": {"test": cfg}}, training=False)]

    write_lists(root)
    assert faults() == faults(bands="rgb") == faults(partition="drawn") == []
    for changes, text in (
        (dict(bands="mis"), "Did you mean 'msi'?"),
        (dict(bands=["B04", "B8B"]), "did you mean 'B8A'?"),
        (dict(bands=["B04", "red"]), "none twice"),
        (dict(split="tset"), "Did you mean 'test'"),
        (dict(partition="torchgoe"), "Did you mean 'torchgeo'"),
        (dict(partition="spatial"), "eurosat-spatial-train.txt' cannot be read"),
        (dict(size=0), "positive number of pixels"),
        (dict(interpolation="area"), "must be one of nearest, bilinear"),
        (dict(root=str(root / "EuroSAT_RGB"), bands="msi"), "holds no image (.tif, .tiff)"),
    ):
        assert len(faults(**changes)) == 1 and text in faults(**changes)[0], (changes, faults(**changes))
    (root / "EuroSAT_MS" / "River" / "River_1.tif").unlink()
    assert "River 9 of 10" in faults()[0] and faults(partial=True) == []
    assert faults(root=str(root / "none"), download=True) == []  # nothing is fetched by a look at a config
    with pytest.raises(ConfigError, match="msi"):
        EuroSAT(str(root), bands="mis")


def publish(path, tmp_path, monkeypatch, wrong=False):
    """Pack ``path`` and let EuroSAT fetch the archive and the lists beside it from there."""
    archive = tmp_path / "EuroSATallBands.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for tile in sorted(path.rglob("*.tif")):
            file.write(tile, f"{NESTED}/{tile.parent.name}/{tile.name}")
    digest = "0" * 32 if wrong else hashlib.md5(archive.read_bytes()).hexdigest()
    source = RemoteFile("EuroSATallBands.zip", archive.as_uri(), f"md5:{digest}")
    monkeypatch.setattr(eurosat, "MSI", replace(eurosat.MSI, archive=source))
    lists = [path.parent / f"eurosat-{part}.txt" for part in ("train", "val", "test")]
    sources = [RemoteFile(p.name, p.as_uri(), f"md5:{hashlib.md5(p.read_bytes()).hexdigest()}") for p in lists]
    monkeypatch.setattr(EuroSAT, "LISTS", {"torchgeo": tuple(sources)})


def test_download_is_asked_for_verified_and_done_once(root, tmp_path, monkeypatch):
    write_lists(root)
    publish(root / "EuroSAT_MS", tmp_path, monkeypatch)
    home = tmp_path / "home"
    with pytest.raises(DataError, match="or set download=True"):
        EuroSAT(str(home), bands="msi")
    data = EuroSAT(str(home), split="test", bands="msi", download=True)
    assert len(data) == 6 and data.partition == "torchgeo" and data.fetch(np.arange(6))["image"].shape == (6, 13, 8, 8)
    assert sorted(path.name for path in home.iterdir()) == [
        "EuroSATallBands.zip",
        "ds",
        "eurosat-test.txt",
        "eurosat-train.txt",
        "eurosat-val.txt",
    ]
    (tmp_path / "EuroSATallBands.zip").unlink()
    assert len(EuroSAT(str(home), split="val", bands="msi", download=True)) == 6
    monkeypatch.setenv("PERCEPTION_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="could not be fetched"):
        EuroSAT(bands="msi", download=True)


def test_a_download_with_another_checksum_is_not_used(root, tmp_path, monkeypatch):
    write_lists(root)
    publish(root / "EuroSAT_MS", tmp_path, monkeypatch, wrong=True)
    with pytest.raises(DataError, match=r"has the md5 [0-9a-f]{32}, but 0{32} was published"):
        EuroSAT(str(tmp_path / "home"), bands="msi", download=True)
    assert list((tmp_path / "home").iterdir()) == []


def test_uc_merced_scales_the_odd_images_to_one_size(tmp_path, monkeypatch):
    monkeypatch.setattr(UCMerced, "COUNTS", {"agricultural": 5, "airplane": 5})
    for label, name in enumerate(UCMerced.COUNTS):
        for number in range(5):
            image = np.full((255 if number else 240, 256, 3), (200 * label, 10 * number, 90), np.uint8)
            path = tmp_path / "UCMerced_LandUse" / "Images" / name / f"{name}{number:02d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, image, photometric="rgb")
    data = UCMerced(str(tmp_path), split="all")
    batch = data.fetch(np.arange(10))
    assert batch["image"].shape == (10, 3, 256, 256) and batch["image"].dtype == torch.uint8
    assert batch["image"][7, :, 100, 100].tolist() == [200, 20, 90] and batch["label"].tolist() == [0] * 5 + [1] * 5
    assert data.bands == ("red", "green", "blue") and data.names[6] == "airplane/airplane01.tif"
    assert [
        image.shape[1] for image in UCMerced(str(tmp_path), split="all", size=None).fetch(np.arange(2))["image"]
    ] == [240, 255]
    shares = {"train": (0, 1, 2), "val": (3,), "test": (4,)}
    for part, numbers in shares.items():
        lines = [f"{name}{number:02d}.tif" for name in UCMerced.COUNTS for number in numbers]
        (tmp_path / f"uc_merced-{part}.txt").write_text("\n".join(lines))
    assert UCMerced(str(tmp_path), split="test").names == ["agricultural/agricultural04.tif", "airplane/airplane04.tif"]
    tifffile.imwrite(tmp_path / "UCMerced_LandUse/Images/airplane/airplane04.tif", image[..., 0])
    with pytest.raises(DataError, match=r"airplane04\.tif' has 1 bands, expected 3"):
        UCMerced(str(tmp_path), split="test").fetch(np.array([1]))


def test_resisc45_in_its_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(RESISC45, "COUNTS", {"sea_ice": 5, "wetland": 5})
    for label, name in enumerate(RESISC45.COUNTS):
        for number in range(1, 6):
            write_rgb(tmp_path / "NWPU-RESISC45" / name / f"{name}_{number:03d}.jpg", (20 * number, 100 * label, 0))
    for part, numbers in {"train": (1, 3, 5), "val": (2,), "test": (4,)}.items():
        lines = [f"{name}_{number:03d}.jpg" for name in RESISC45.COUNTS for number in numbers]
        (tmp_path / f"resisc45-{part}.txt").write_text("\n".join(lines))
    data = RESISC45(str(tmp_path), split="train", size=6)
    assert data.names[3:] == ["wetland/wetland_001.jpg", "wetland/wetland_003.jpg", "wetland/wetland_005.jpg"]
    batch = data.fetch(np.arange(6))
    assert batch["image"].shape == (6, 3, 6, 6) and np.allclose(batch["image"][4, :, 3, 3], [60, 100, 0], atol=2)
    assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1] and data.partition == "torchgeo"


def test_published_numbers():
    assert sum(EuroSAT.COUNTS.values()) == 27_000 and len(EuroSAT.COUNTS) == 10
    assert sum(UCMerced.COUNTS.values()) == 2_100 and len(UCMerced.COUNTS) == 21
    assert sum(RESISC45.COUNTS.values()) == 31_500 and len(RESISC45.COUNTS) == 45
    for cls in (EuroSAT, UCMerced, RESISC45):
        assert list(cls.COUNTS) == sorted(cls.COUNTS)  # labels are places among the sorted names
        assert cls.__name__ in DATASETS.names()
    assert uc_merced.LAYOUT.archive.name == "UCMerced_LandUse.zip"
