import multiprocessing
import pickle
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from perception.datasets.so2sat import CLASSES, S1_BANDS, S2_BANDS, So2Sat
from perception.errors import ConfigError, DataError
from perception.evaluation.frozen_encoders import find_encoders
from perception.evaluation.frozen_features import Grid, band_statistics, run_grid
from perception.registry import DATASETS
from perception.transforms.base import identity_collate
from perception.transforms.image_preprocess import ImagePreprocess

COUNT = 34


def arrays(count=COUNT, seed=0):
    """Row i has class i % 17. Pixels of band b are (class + 1) / 10 + b / 1000 plus a little noise; s1 is negative."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 17
    noise = random.random((count, 32, 32, 18)) / 1e4
    base = (label[:, None, None, None] + 1) / 10 + noise
    sen1 = -base[..., :8] - np.arange(8) / 1000
    sen2 = base[..., 8:] + np.arange(10) / 1000
    return {"sen1": sen1, "sen2": sen2, "label": np.eye(17)[label]}


def write(path, found=None, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in ((found or arrays()) | changes).items():
            if values is not None:
                file[name] = values
    return path


def build(folder, split="train", version="2", **options):
    return So2Sat(split, version, root=str(folder), **options)


def test_official_layout_and_values(tmp_path):
    for number, name in enumerate(("training", "validation", "testing")):
        write(tmp_path / f"{name}.h5", arrays(17 * (3 - number), number))
    for number, name in enumerate(("random", "block", "culture_10")):
        write(tmp_path / name / "training.h5", arrays(18 + number))
        write(tmp_path / name / "testing.h5", arrays(5 + number))
    assert [len(build(tmp_path, split)) for split in ("train", "val", "test")] == [51, 34, 17]
    for number, name in enumerate(("3_random", "3_block", "3_culture_10")):
        assert len(build(tmp_path, "train", name)) == 18 + number and len(build(tmp_path, "test", name)) == 5 + number

    truth = arrays(51, 0)
    batch = build(tmp_path).fetch(np.array([40, 3, 3, 17]))  # neither sorted nor unique
    assert batch["image"].shape == (4, 10, 32, 32) and batch["image"].dtype == torch.float32
    assert batch["meta"]["bands"] == S2_BANDS and batch["label"].tolist() == [6, 3, 3, 0]
    expected = truth["sen2"][[40, 3, 3, 17]].transpose(0, 3, 1, 2)
    assert np.array_equal(batch["image"].numpy(), expected.astype(np.float32))
    assert batch["index"].tolist() == [40, 3, 3, 17] and len(CLASSES) == 17


def test_bands_are_chosen_by_name(tmp_path):
    truth = write(tmp_path / "training.h5") and arrays()
    data = build(tmp_path, bands=["red", "S1_B5", "B8A", "B2"])
    assert data.bands == ("B04", "S1_B5", "B8A", "B02")
    image = data.fetch(np.array([1]))["image"][0].numpy()
    for place, (name, band) in enumerate((("sen2", 2), ("sen1", 4), ("sen2", 7), ("sen2", 0))):
        assert np.array_equal(image[place], truth[name][1, ..., band].astype(np.float32))
    assert build(tmp_path, bands="all").bands == S1_BANDS + S2_BANDS
    assert build(tmp_path, bands="s1").fetch(np.arange(2))["image"].max() < 0
    # A Preprocess record finds its bands by name, whatever order the data set gives.
    record = ImagePreprocess(32, ("B11", "red"), (0, 0), (1, 1), value_scale=1)
    one, other = (record(build(tmp_path, bands=b).fetch(np.array([5])))["image"] for b in ("s2", ["B04", "B11", "B12"]))
    assert torch.equal(one, other) and torch.equal(one[0, 0], torch.from_numpy(truth["sen2"][5, ..., 8]).float())


def test_only_the_arrays_asked_for_must_be_there(tmp_path):
    write(tmp_path / "training.h5", sen1=None)
    assert len(build(tmp_path)) == COUNT
    with pytest.raises(DataError, match=r"training\.h5' lacks the arrays sen1; it holds label, sen2"):
        build(tmp_path, bands="all")


def one_row(values):
    label = np.eye(17)[np.arange(COUNT) % 17]
    label[20] = values
    return label


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(label=None), "lacks the arrays label"),
        (dict(sen2=None), "lacks the arrays sen2; it holds label, sen1"),
        (dict(sen2=np.zeros((COUNT, 32, 32, 13))), r"'sen2' of .* expected numbers of shape \(34, 32, 32, 10\)"),
        (dict(sen2=np.zeros((COUNT - 1, 32, 32, 10))), r"float64 \(33, 32, 32, 10\), expected .* \(34, "),
        (dict(label=np.zeros((COUNT, 10))), r"'label' of .* expected numbers of shape \(34, 17\)"),
        (dict(label=one_row(0)), "1 of 34 rows are not one-hot; the first is row 20, "),
        (dict(label=one_row([1, 1] + [0] * 15)), "the first is row 20"),
        (dict(label=one_row([0.5, 0.5] + [0] * 15)), "the first is row 20"),
        (dict(label=one_row([1, -1] + [0] * 15)), "the first is row 20"),
        (dict(label=one_row(np.nan)), "the first is row 20"),
    ],
)
def test_bad_files_are_named(tmp_path, changes, text):
    write(tmp_path / "training.h5", **changes)
    with pytest.raises(DataError, match=text):
        build(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_with_their_row(tmp_path, value):
    sen2 = arrays()["sen2"]
    sen2[7, 3, 4, 5] = sen2[9, 0, 0, 0] = value
    write(tmp_path / "training.h5", sen2=sen2)
    data = build(tmp_path)
    assert len(data.fetch(np.arange(7))["image"]) == 7
    with pytest.raises(DataError, match=r"row 7 of .*training\.h5' has values that are not finite"):
        data.fetch(np.array([9, 2, 7]))
    assert build(tmp_path, bands=["B02"]).fetch(np.array([7]))["image"].isfinite().all()  # another band was not


def test_damaged_or_absent_files_and_a_wrong_sum(tmp_path):
    path = write(tmp_path / "training.h5")
    with pytest.raises(DataError, match=r"has the md5 [0-9a-f]{32}, but 702bc6a9368ebff4542d791e53469244 was"):
        build(tmp_path, verify=True)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"training\.h5' cannot be read as an HDF5 file"):
        build(tmp_path)
    with pytest.raises(DataError, match=r"random/training\.h5 is not in '[^']*0'\. .*mediaTUM 1613658"):
        build(tmp_path, version="3_random")


def test_a_damaged_block_is_named_with_its_rows(tmp_path):
    path = tmp_path / "training.h5"
    with h5py.File(write(path, sen2=None), "a") as file:
        chunked = file.create_dataset("sen2", data=arrays()["sen2"], chunks=(2, 32, 32, 10), compression="gzip")
        start = chunked.id.get_chunk_info(6).byte_offset  # of the rows 12 and 13
    content = bytearray(path.read_bytes())
    content[start : start + 50] = bytes(50)
    path.write_bytes(content)
    data = build(tmp_path)
    assert len(data.fetch(np.array([30, 2, 11, 14]))["image"]) == 4
    with pytest.raises(DataError, match=r"'sen2' of .*training\.h5', rows 2 to 30: "):
        data.fetch(np.array([30, 2, 13]))


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "training.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"training\.h5 needs the package h5py: pip install h5py"):
        build(tmp_path)


def faults(folder, **options):
    from perception.validation import validate_config

    cfg = dict(type="So2Sat", root=str(folder), version="2") | options
    from perception.config import load_config

    whole = load_config("image/mae_vit-tiny_digits")
    whole.train_dataloader.dataset = cfg
    return "\n".join(str(fault) for fault in validate_config(whole) if "dataset" in fault.path)


def test_validation_names_what_is_wrong(tmp_path):
    write(tmp_path / "training.h5")
    assert "version = '3_rnd': not a version of So2Sat" in faults(tmp_path, version="3_rnd")
    assert "Did you mean '3_random'" in faults(tmp_path, version="3_rnd")
    text = faults(tmp_path, version="3_random", split="val")
    assert "split = 'val': not a split of version 3_random; there are train, test" in text
    assert "no band 'B10'" in faults(tmp_path, bands=["B04", "B10"])
    assert "bands = 'rbg': not a set of bands" in faults(tmp_path, bands="rbg")
    assert "testing.h5 is not in" in faults(tmp_path, split="test")
    assert "mediaTUM" in faults(tmp_path / "none")
    write(tmp_path / "testing.h5", label=None)
    assert "lacks the arrays label" in faults(tmp_path, split="test")
    assert faults(tmp_path) == ""
    with pytest.raises(ConfigError, match="'train'"):
        build(tmp_path, "trian")


def test_copies_and_forks_open_the_file_by_themselves(tmp_path):
    write(tmp_path / "training.h5")
    data = DATASETS.build(dict(type="So2Sat", version="2", root=str(tmp_path)))
    mine = data.fetch(np.arange(20))["image"]  # the parent has the file open before it forks
    assert torch.equal(pickle.loads(pickle.dumps(data)).fetch(np.arange(20))["image"], mine)
    loader = DataLoader(
        data, 5, num_workers=2, collate_fn=identity_collate, multiprocessing_context=multiprocessing.get_context("fork")
    )
    theirs = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(theirs[:20], mine) and len(theirs) == COUNT
    assert torch.equal(data.fetch(np.arange(20))["image"], mine)


def test_the_benchmark_of_frozen_features_runs_on_ten_bands(tmp_path):
    write(tmp_path / "culture_10/training.h5", arrays(170, 0))
    write(tmp_path / "culture_10/testing.h5", arrays(34, 1))
    train, test = (build(tmp_path, split, "3_culture_10") for split in ("train", "test"))
    statistics = band_statistics(train)
    truth = arrays(170, 0)["sen2"].astype(np.float32)
    assert statistics.bands == S2_BANDS and statistics.dtype == "float32" and statistics.size == (32, 32)
    assert np.allclose(statistics.mean, truth.mean((0, 1, 2), dtype=np.float64), rtol=1e-9)
    assert np.allclose(statistics.mean, 0.9 + np.arange(10) / 1000 + 5e-5, atol=2e-6)  # the classes' mean is 9 / 10
    grid = Grid(find_encoders(["statistics", "rcf"]), ("native",), ("divide",), ("knn", "linear"), (0,), divisor=1)
    rows = run_grid(grid, train, test, statistics)
    assert {(row["encoder"], row["dims"]) for row in rows} == {("statistics", 40), ("rcf", 512)}
    knn = [row["value"] for row in rows if row["protocol"] == "knn"]
    assert knn == [1.0, 1.0]  # classes are 0.1 apart, noise is 0.0001
