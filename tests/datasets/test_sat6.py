import os

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from perception.datasets.sat6 import CLASSES, SAT6
from perception.errors import ConfigError, DataError
from perception.evaluation.frozen_features import band_statistics

COUNT = {"train": 12, "test": 7}


def truth(split):
    """Tiles as MATLAB has them, (28, 28, 4, n): row, column, band and number can be told from every value."""
    row, column, band, number = np.ogrid[:28, :28, :4, : COUNT[split]]
    return ((3 * row + 5 * column + 40 * band + number) % 256).astype(np.uint8)


def labels(split):
    return np.arange(COUNT[split]) * 5 % 6


def arrays():
    found = {}
    for split in COUNT:
        found[f"{split}_x"] = truth(split)
        found[f"{split}_y"] = np.eye(6)[labels(split)].T  # (6, n), MATLAB's doubles
    return found


def write_mat(folder, compressed=True, **changes):
    found = {name: values for name, values in (arrays() | changes).items() if values is not None}
    savemat(folder / "sat-6-full.mat", found, do_compression=compressed)


def write_csv(folder, **changes):
    for split in COUNT:
        table = truth(split).transpose(3, 0, 1, 2).reshape(COUNT[split], -1)
        np.savetxt(folder / f"X_{split}_sat6.csv", table, fmt="%d", delimiter=",")
        np.savetxt(folder / f"y_{split}_sat6.csv", np.eye(6)[labels(split)], fmt="%d", delimiter=",")
    for name, text in changes.items():
        (folder / f"{name}_sat6.csv").write_text(text)


@pytest.mark.parametrize("write", [write_mat, write_csv])
def test_both_layouts_give_the_same_tiles(tmp_path, write):
    write(tmp_path)
    for split in ("train", "test"):
        data = SAT6(split, root=str(tmp_path))
        assert len(data) == COUNT[split] and data.labels.tolist() == labels(split).tolist()
        batch = data.fetch(np.array([4, 0, 4]))
        assert batch["image"].shape == (3, 4, 28, 28) and batch["image"].dtype == torch.uint8
        assert batch["image"].is_contiguous() and batch["meta"]["bands"] == ("red", "green", "blue", "nir")
        # Band 2, row 9, column 20 of tile 4: 27 + 100 + 80 + 4.
        assert batch["image"][0, 2, 9, 20] == 211 and batch["image"][1, 2, 9, 20] == 207
        assert np.array_equal(batch["image"][0].numpy(), truth(split)[..., 4].transpose(2, 0, 1))
        assert batch["label"].tolist() == [2, 0, 2]  # 4 * 5 % 6
    assert len(CLASSES) == 6


def test_bands_are_chosen_by_name_and_told(tmp_path):
    write_mat(tmp_path, compressed=False)
    data = SAT6(bands=["nir", "B04"], root=str(tmp_path))
    image = data.fetch(np.array([1]))["image"][0].numpy()
    assert data.bands == ("nir", "red") and np.array_equal(image, truth("train")[..., 1].transpose(2, 0, 1)[[3, 0]])
    assert SAT6(bands="rgb", root=str(tmp_path)).images.shape == (12, 3, 28, 28)
    found = band_statistics(data)
    pixels = truth("train").astype(np.float64)
    assert np.allclose(found.mean, [pixels[:, :, 3].mean(), pixels[:, :, 0].mean()]) and found.bands == ("nir", "red")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(train_x=None), "lacks the arrays train_x"),
        (dict(train_x=truth("train")[:, :, :3]), r"'train_x' of .* is uint8 \(28, 28, 3, 12\), expected uint8 \(28,"),
        (dict(train_x=truth("train").astype(np.float64)), r"is float64 \(28, 28, 4, 12\), expected uint8"),
        (dict(train_y=np.eye(6)[:, :5]), "has 5 rows for 12 tiles"),
        (dict(train_y=np.eye(6)[labels("train")]), r"'train_y' of .* has shape \(6, 12\), expected \(n, 6\)"),
        (dict(train_y=np.ones((6, 12))), "12 of 12 rows are not one-hot; the first is row 0"),
    ],
)
def test_bad_arrays_are_named(tmp_path, changes, text):
    write_mat(tmp_path, **changes)
    with pytest.raises(DataError, match=text):
        SAT6(root=str(tmp_path))


def test_damaged_and_foreign_matlab_files(tmp_path):
    path = tmp_path / "sat-6-full.mat"
    write_mat(tmp_path)
    whole = path.read_bytes()
    # A byte of the compressed tiles; the file's first 128 bytes are its header, the next 8 a tag.
    start = 128 + 8
    assert whole[start : start + 2] == b"x\x9c"  # zlib's
    damaged = bytearray(whole)
    damaged[start + 40] ^= 255
    for data in (bytes(damaged), whole[: len(whole) // 3], b"", os.urandom(500)):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"sat-6-full\.mat' cannot be read as a MATLAB file"):
            SAT6(root=str(tmp_path))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["train_x"] = truth("train").T
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + path.read_bytes()[128:])
    with pytest.raises(DataError, match=r"is a MATLAB 7\.3 file; the official one is of version 5"):
        SAT6(root=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(X_train=",".join(["1"] * 3135) + "\n"), "has 3135 columns, expected 3136"),
        (dict(X_train=",".join(["1"] * 3135 + ["256"]) + "\n"), "X_train_sat6.csv' cannot be read as a table.*'256'"),
        (dict(X_train=",".join(["1"] * 3135 + ["nan"]) + "\n"), "cannot be read as a table.*'nan'"),
        (dict(y_train="1,0,0,0,0,0\n1,0\n"), "y_train_sat6.csv' cannot be read as a table"),
        (dict(y_train="1,0,0,0,0,0\n"), "y_train_sat6.csv' has 1 rows for 12 tiles"),
        (dict(y_train="0,0,0,0,0,2\n"), "1 of 1 rows are not one-hot"),
    ],
)
def test_bad_tables_are_named(tmp_path, changes, text):
    write_csv(tmp_path, **changes)
    with pytest.raises(DataError, match=text):
        SAT6(root=str(tmp_path))


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_an_empty_table_is_named(tmp_path):
    write_csv(tmp_path, X_train="")
    with pytest.raises(DataError, match=r"X_train_sat6\.csv' is empty"):
        SAT6(root=str(tmp_path))


def test_check_config(tmp_path):
    def check(**options):
        return list(SAT6.check_config(dict(split="train", bands="rgbn", root=str(tmp_path)) | options))

    with pytest.raises(DataError, match=r"neither sat-6-full\.mat nor X_train_sat6\.csv and y_train.*crawford/deepsat"):
        check()
    write_mat(tmp_path)
    assert check() == []
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        check(split="tset")
    with pytest.raises(ConfigError, match="no band 'swir'"):
        check(bands=["red", "swir"])
    with pytest.raises(DataError, match=r"does not exist.*DeepSat"):
        check(root=str(tmp_path / "none"))
