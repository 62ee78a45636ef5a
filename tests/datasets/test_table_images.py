"""Tables of one's own: what is read, what is refused, and by which words."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pandas
import pytest
import torch

from perception.datasets.digits_table import DigitsTable, measure
from perception.datasets.dvm_car import DVMCar
from perception.datasets.table_files import infer_kinds, read_table, schema_text
from perception.datasets.table_images import TableImages
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/tabular_image")
HEADER = "sku,photo,colour,weight,kind,split\n"
ROWS = "a1,1.png,red,2.5,shoe,train\na2,2.png,,3,hat,train\na3,3.png,blue,?,shoe,test\na4,4.png,red,1e1,hat,test\n"
KINDS = {"colour": "categorical", "weight": "continuous"}
BASE = dict(image="photo", id="sku", label="kind", columns=KINDS, size=4)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + ROWS)
    for i in range(1, 5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((6, 8, 3), 10 * i, np.uint8))
    return tmp_path


def build(folder, text=None, **changes):
    if text is not None:
        (folder / "t.csv").write_text(text)
    return TableImages(str(folder / "t.csv"), **(BASE | changes))


def test_cells_holes_images_and_labels_of_a_csv(folder):
    data = build(folder)
    batch = data.__getitems__([2, 1])
    assert [c.name for c in data.table_columns] == ["colour", "weight"]
    assert data.table_columns[0].categories == ("blue", "red") and data.classes == ("hat", "shoe")
    assert data.table.tolist() == [[1, 2.5], [0, 3], [0, 0], [1, 10]]
    assert data.table_missing.tolist() == [[False, False], [True, False], [False, True], [False, False]]
    assert batch["table"].dtype == torch.float32 and batch["table_missing"].dtype == torch.bool
    assert batch["image"].shape == (2, 3, 4, 4) and batch["image"][:, 0, 0, 0].tolist() == [30, 20]
    assert batch["label"].tolist() == [1, 0] and batch["index"].tolist() == [2, 1]
    assert batch["table_columns"] is data.table_columns and data.ids == ("a1", "a2", "a3", "a4")
    assert "image" not in build(folder, only="table").fetch(np.arange(2))
    assert "table" not in build(folder, only="image").fetch(np.arange(2))
    lazy = build(folder, keep=False)
    assert torch.equal(lazy.__getitems__([2, 1])["image"], batch["image"])
    assert build(folder, grey=True).images.shape == (4, 1, 4, 4)


def test_splits_share_their_codes(folder):
    test = build(folder, split="test")
    assert test.rows.tolist() == [2, 3] and test.table_columns[0].categories == ("blue", "red")
    assert len(build(folder, split=["train", "test"])) == 4
    with pytest.raises(ConfigError, match="nearest is 'train'"):
        build(folder, split="trian")


@pytest.mark.parametrize("suffix", ["parquet", "npz", "frame"])
def test_other_files_give_the_same(folder, suffix):
    frame = pandas.DataFrame(
        {
            "colour": ["red", None, "blue", "red"],
            "weight": [2.5, 3.0, np.nan, 10.0],
            "kind": ["shoe", "hat", "shoe", "hat"],
        }
    )
    pixels = np.repeat(np.arange(4, dtype=np.uint8), 12).reshape(4, 2, 2, 3)
    options: dict = dict(label="kind", columns=KINDS)
    if suffix == "npz":
        arrays = {name: frame[name].fillna("" if name != "weight" else np.nan).to_numpy() for name in frame}
        arrays = {name: a.astype(str) if name != "weight" else a for name, a in arrays.items()}
        np.savez(folder / "t.npz", image=pixels, **arrays)
        data = TableImages(str(folder / "t.npz"), **options)
        assert data.fetch(np.array([3]))["image"].tolist() == [[[[3, 3], [3, 3]]] * 3]
    elif suffix == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(folder / "t.parquet")
        data = TableImages(str(folder / "t.parquet"), **options)
    else:
        data = TableImages(frame, **options)
    expected = build(folder)
    assert data.table.tolist() == expected.table.tolist() and data.table_columns == expected.table_columns
    assert data.table_missing.tolist() == expected.table_missing.tolist()
    assert data.labels.tolist() == expected.labels.tolist()


def test_whole_numbers_are_the_same_category_in_any_file(folder):
    frame = pandas.DataFrame({"year": [2011.0, np.nan, 2009.0]})  # a hole makes pandas write 2011.0
    (folder / "y.csv").write_text("year\n2011\nNA\n2009\n")
    found = [TableImages(file, columns={"year": "categorical"}) for file in (frame, str(folder / "y.csv"))]
    assert [d.table_columns[0].categories for d in found] == [("2009", "2011")] * 2


def test_a_number_to_predict(folder):
    data = build(folder, label="weight", target="number", columns={"colour": "categorical"}, on_missing_label="drop")
    batch = data.fetch(np.arange(3))
    assert batch["label"].dtype == torch.float32 and batch["label"].tolist() == [2.5, 3, 10] and data.classes == ()
    kept = build(folder, label="weight", target="number", columns={"colour": "categorical"}, on_missing_label="keep")
    assert np.isnan(kept.labels[2]) and len(kept) == 4


def test_kinds_are_guessed_and_printed_to_be_pasted(folder, capsys):
    table = read_table(folder / "t.csv")
    kinds = infer_kinds(table, ("sku", "photo", "kind", "split"))
    assert kinds == KINDS
    text = schema_text(table, kinds)
    assert eval("dict(" + text + ")")["columns"] == KINDS
    assert "2 values, 25.0% missing, such as 'red'" in text
    many = {"code": [f"x{i}" for i in range(80)], "flag": [i % 2 for i in range(80)], "n": list(range(80))}
    guessed = infer_kinds(read_table(pandas.DataFrame(many)))
    assert guessed == {"code": "ignore", "flag": "categorical", "n": "continuous"}
    assert build(folder, columns=None).kinds == KINDS


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        (HEADER + ROWS.replace("2.5", "heavy"), {}, r"row 0, column 'weight': 'heavy' is not a finite number"),
        (HEADER + ROWS.replace("2.5", "inf"), {}, r"row 0, column 'weight': 'inf' is not a finite number"),
        (HEADER + ROWS.replace("a4", "a2"), {}, r"row 3, column 'sku': id 'a2' is already that of row 1"),
        (HEADER + ROWS.replace("a3", ""), {}, r"row 2, column 'sku': the id is missing"),
        (HEADER + ROWS.replace("shoe,test", ",test"), {}, r"row 2, column 'kind': the label is missing \(1 of 4"),
        (HEADER + ROWS.replace("3.png", "9.png"), {}, r"row 2, column 'photo': no file '.*9.png' \(1 of 4"),
        (HEADER + ROWS.replace("3.png", ""), {}, r"row 2, column 'photo': no image is named"),
        (HEADER.replace("weight", "mass") + ROWS, {}, r"has no column 'weight' \(columns\)"),
        (HEADER.replace("colour", "color") + ROWS, {}, r"did you mean 'color'"),
        (HEADER.replace("colour", "sku") + ROWS, {}, r"two columns called 'sku'"),
        (HEADER + ROWS + "a5,1.png,red\n", {}, r"row 4 \(line 6\) has 3 cells, but the header names 6"),
        (HEADER + ROWS + "a5,1.png,red,1,hat,test,x\n", {}, r"row 4 \(line 6\) has 7 cells"),
        (HEADER, {}, "has no rows"),
        (None, dict(columns={"colour": "categoric"}), "nearest is 'categorical'"),
        (None, dict(columns={**KINDS, "kind": "categorical"}), "is the image, id, label or split"),
        (None, dict(columns={"colour": "ignore"}), "no column is left"),
        (None, dict(classes=["hat", "glove"]), r"row 0, column 'kind': class 'shoe'"),
        (None, dict(on_missing_image="skip"), "not one of error, drop, blank"),
        (None, dict(size=None), "image files need a size"),
        (None, dict(only="tables"), "nearest is 'table'"),
    ],
)
def test_what_is_wrong_is_named_by_row_and_column(folder, text, changes, said):
    with pytest.raises((DataError, ConfigError), match=said):
        build(folder, text, **changes)


def test_policies_leave_out_or_blank_and_count(folder, monkeypatch):
    lines = []
    monkeypatch.setattr("perception.datasets.table_images.print_log", lambda text, **_: lines.append(text))
    text = HEADER + ROWS.replace("3.png", "9.png").replace("shoe,train", ",train")
    dropped = build(folder, text, on_missing_image="drop", on_missing_label="drop")
    assert dropped.rows.tolist() == [1, 3]
    assert [line.split(": ")[1] for line in lines] == [
        "left out 1 of 4 rows without a label",
        "left out 1 of 3 rows without an image",
    ]
    kept = build(folder, on_missing_image="blank", on_missing_label="keep")
    assert kept.labels.tolist() == [-1, 0, 1, 0] and kept.image_missing.tolist() == [False, False, True, False]
    batch = kept.fetch(np.array([2, 3]))
    assert not batch["image"][0].any() and batch["image"][1].all() and batch["image_missing"].tolist() == [True, False]


def test_files_that_are_none(folder):
    for name, content, said in (
        ("no.csv", None, "does not exist"),
        ("t.xlsx", b"x", "is not one of .csv"),
        ("latin.csv", "a\nü\n".encode("latin-1"), "not text in UTF-8"),
        ("bad.npz", b"x", "pickled objects, which could run code|not a readable npz"),
        ("bad.parquet", b"x", "cannot be read"),
    ):
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_table(folder / name)
    np.savez(folder / "pickle.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="pickled objects"):
        read_table(folder / "pickle.npz")
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1.png' cannot be decoded"):
        build(folder)


def test_masks_by_config_fit_on_the_training_rows(folder):
    data = build(folder, split="test", missing=dict(strategy="MIFM", rate=0.5))
    assert data.table_missing.sum(0).max() == 2  # one whole column of two
    with pytest.raises(ConfigError, match="learns from training rows"):
        build(folder, missing=dict(strategy="MIFM", rate=0.5))


def test_measurements_of_strokes():
    ring = np.zeros((8, 8))
    ring[1:7, 2:6] = 1
    ring[2:6, 3:5] = 0
    bar = np.zeros((8, 8))
    bar[:, 6] = 1
    codes, values = measure(np.stack([ring, bar]))
    assert codes[:, 0].tolist() == [1, 0]  # loops
    assert values[:, 0].tolist() == [3.5, 6] and values[:, 1].tolist() == [3.5, 3.5]  # centre
    assert values[1, 2] == 0 and values[1, 3] == pytest.approx(np.std(np.arange(8)))
    assert values[:, 4].tolist() == [0.5, 0.5] and values[:, 5].tolist() == [0.5, 0] and values[1, 6] == 0


def test_the_embedded_digits_are_always_the_same():
    data = DigitsTable("train")
    assert len(data) == len(DigitsTable("pretrain")) - len(DigitsTable("val")) and len(DigitsTable("test")) == 450
    assert abs(data.table_missing.mean() - 0.15) < 0.01
    assert data.fetch(np.arange(2))["image"].shape == (2, 1, 8, 8)
    assert [c.kind for c in data.table_columns].count("categorical") == 3
    again = DigitsTable("train")
    assert np.array_equal(data.table, again.table) and np.array_equal(data.images, again.images)


@needs_data
@pytest.mark.parametrize(
    ("name", "sizes", "classes", "columns"),
    [
        ("Fashion24", (2833, 708, 1180), 24, 5),
        ("Leaf99", (594, 99, 297), 99, 16),
        ("CXRMissing", (166, 41, 62), 2, 16),
        ("Houses535", (321, 80, 134), 4, 4),
    ],
)
def test_small_real_sets_have_their_stated_sizes(name, sizes, classes, columns):
    found = [DATASETS.build(dict(type=name, split=split)) for split in ("train", "val", "test")]
    assert tuple(map(len, found)) == sizes
    assert all(len(d.classes) == classes and len(d.table_columns) == columns for d in found)
    pretrain = DATASETS.build(dict(type=name, split="pretrain"))
    assert len(pretrain) == sizes[0] + sizes[1] + (594 if name == "Leaf99" else 0)
    assert "label" not in pretrain.fetch(np.arange(2))
    assert len({c.name for c in pretrain.table_columns}) == columns


@needs_data
def test_small_real_sets_hold_what_their_page_says():
    root = os.path.join(os.environ["PERCEPTION_DATA"], "tabular_image")
    fashion = DATASETS.build(dict(type="Fashion24", split="train"))
    frame = pandas.read_csv(f"{root}/fashion24/table.csv")
    train = frame[frame.split == "train"]
    assert fashion.labels.tolist() == train.label.tolist()  # names in order of the letters are the published numbers
    assert fashion.table[:, 4].tolist() == train.year.tolist()
    colours = np.array(fashion.table_columns[1].categories)[fashion.table[:, 1].astype(int)]
    known = ~fashion.table_missing[:, 1]
    assert colours[known].tolist() == train.baseColour[known].tolist()
    radiographs = DATASETS.build(dict(type="CXRMissing", split="train"))
    empty = [
        c.name for c, gone in zip(radiographs.table_columns, radiographs.table_missing.T, strict=True) if gone.all()
    ]
    assert "leukocyte_count" in empty or radiographs.table_missing[:, -3].mean() > 0.99
    others = DATASETS.build(dict(type="CXRMissing", split="test"))
    assert not set(radiographs.groups) & set(others.groups)
    houses = DATASETS.build(dict(type="Houses535", split="test", label="price"))
    assert houses.labels.dtype == np.float32 and houses.labels.min() > 10_000
    assert {c.name for c in houses.table_columns} == {"zipcode", "bedrooms", "bathrooms", "area"}


@needs_data
def test_a_changed_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"table.csv is not in"):
        DATASETS.build(dict(type="Houses535", root=str(tmp_path)))
    (tmp_path / "table.csv").write_text("house\n1\n")
    with pytest.raises(DataError, match=r"table.csv' differs from its SHA-256"):
        DATASETS.build(dict(type="Houses535", root=str(tmp_path)))


@pytest.fixture
def dvm(tmp_path):
    names = dict(table="{split}.csv", lengths="lengths", paths="{split}_paths", labels="{split}_labels")
    for split, rows in (("train", 6), ("test", 3)):
        lines = [f"{i % 3},{i % 2},{i / 2}" for i in range(rows)]
        lines[1] = "nan,1,"
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{split}_paths.txt").write_text("\n".join(f"{i}.png" for i in range(rows)))
        (tmp_path / f"{split}_labels.json").write_text(json.dumps([i % 2 for i in range(rows)]))
    np.save(tmp_path / "lengths.npy", np.array([3, 2, 1]))
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((5, 5, 3), 20 * i, np.uint8))
    return dict(root=str(tmp_path), size=4, classes=2, **names)


def test_the_layout_of_the_reference_is_read_without_pickles(dvm, tmp_path):
    data = DVMCar("train", **dvm)
    assert [(c.kind, c.size) for c in data.table_columns] == [("categorical", 3), ("categorical", 2), ("continuous", 1)]
    assert data.table_missing.tolist()[1] == [True, False, True] and data.table[3].tolist() == [0, 1, 1.5]
    batch = data.__getitems__([4])
    assert batch["image"].shape == (1, 3, 4, 4) and batch["image"].unique().tolist() == [80] and batch["label"] == 0
    assert "label" not in DVMCar("pretrain", **dvm).fetch(np.arange(1))
    masked = DVMCar("test", missing=dict(strategy="LIFM", rate=0.4), **dvm)
    assert masked.table_missing.all(0).sum() == 1
    assert list(DVMCar.check_config({**dvm, "split": "test", "only": None, "missing": None})) == []
    (tmp_path / "lengths.npy").rename(tmp_path / "lengths.pt")
    with pytest.raises(DataError, match="is a pickle, which is not read"):
        DVMCar("train", **dvm)
    (tmp_path / "lengths.json").write_text("[2, 2, 1]")
    with pytest.raises(DataError, match=r"row 2, column 'categorical_0': 2 is no code from 0 to 1"):
        DVMCar("train", **dvm)
    (tmp_path / "lengths.json").write_text("[3, 2]")
    with pytest.raises(DataError, match="3 columns, but there are 2 lengths"):
        DVMCar("train", **dvm)
