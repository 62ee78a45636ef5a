"""The record of tables with images, and the corruption of tables, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from perception.datasets.digits_table import DigitsTable
from perception.datasets.table_rows import TableData, TableRows
from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.corrupt_table import CorruptTable
from perception.transforms.randomness import SampleRandom
from perception.transforms.table_columns import Column
from perception.transforms.table_image_preprocess import TableImagePreprocess

COLUMNS = (
    Column("weight"),
    Column("colour", "categorical", ("blue", "green", "red")),
    Column("year"),
    Column("empty", "categorical", ()),
)
NAN = float("nan")


def rows():
    """Training rows: weights 1, 3 and a hole, years all 2011, no green."""
    cells = np.array([[1, 0, 2011, 0], [3, 2, 2011, 0], [99, 0, 2011, 0]], np.float32)
    holes = np.zeros((3, 4), bool)
    holes[2, 0] = holes[:, 3] = True
    return TableRows(TableData(cells, holes, COLUMNS, np.array([0, 1, 0]), ("a", "b"), "train"))


def record(**options):
    return TableImagePreprocess(size=2, bands=["grey"], mean=[0.5], std=[0.5], fit=rows(), **options)


def test_statistics_are_those_of_observed_training_cells():
    made = record()
    assert [c.name for c in made.columns] == ["colour", "empty", "weight", "year"]
    assert made.columns[0].categories == ("blue", "red") and made.categories == (2, 1) and made.continuous == 2
    assert made.table_mean == (2.0, 2011.0) and made.table_std == (1.0, 1.0)  # std 0 of the constant column is 1


def test_cells_become_codes_and_scores_in_the_order_of_the_record():
    made = record()
    batch = {"table": torch.tensor([[4.0, 2.0, 2013.0, 0.0], [2.0, 1.0, NAN, 0.0]]), "table_columns": COLUMNS}
    out = made(batch)
    assert out["table"].tolist() == [[1, 0, 2, 2], [0, 0, 0, 0]]
    # 'empty' has no codes, so whatever it holds is missing; green is unseen; NaN is a hole.
    assert out["table_missing"].tolist() == [[False, True, False, False], [True, True, False, True]]
    assert made.unseen["colour"] == 1 and out["table_columns"] == made.columns
    assert "table_missing" not in batch  # the batch that was given stays as it is


def test_columns_are_matched_by_name_in_any_order_and_code():
    given = (Column("year"), Column("extra"), Column("colour", "categorical", ("red", "blue")), *COLUMNS[::3])
    table = torch.tensor([[2012.0, 7.0, 0.0, 5.0, 0.0]])
    out = record()({"table": table, "table_missing": torch.zeros(1, 5, dtype=torch.bool), "table_columns": given})
    assert out["table"].tolist() == [[1, 0, 3, 1]]
    for changed, said in (
        ((Column("color", "categorical", ("red",)), *COLUMNS[::2], COLUMNS[3]), "no column 'colour'.*become 'color'"),
        ((Column("colour"), *COLUMNS[::2], COLUMNS[3]), "'colour' is continuous in the table"),
    ):
        with pytest.raises(DataError, match=said):
            record()({"table": torch.zeros(1, 4), "table_columns": changed})
    with pytest.raises(DataError, match="needs table_columns"):
        record()({"table": torch.zeros(1, 4)})
    with pytest.raises(DataError, match="float32 in the units"):
        record()({"table": torch.zeros(1, 4, dtype=torch.int64), "table_columns": COLUMNS})
    with pytest.raises(DataError, match="table_missing must be bool"):
        record()({"table": torch.zeros(1, 4), "table_missing": torch.zeros(1, 4), "table_columns": COLUMNS})


def test_what_lies_under_a_hole_changes_nothing():
    gone = torch.tensor([[True, True, False, True]])
    outs = [
        record()({"table": torch.tensor([[v, v, 2011.0, v]]), "table_missing": gone, "table_columns": COLUMNS})
        for v in (0.0, 1.0, NAN)
    ]
    assert all(torch.equal(outs[0]["table"], out["table"]) for out in outs)
    assert all(torch.equal(outs[0]["table_missing"], out["table_missing"]) for out in outs)


def test_a_view_of_the_table_is_scaled_like_it():
    batch = {"table": torch.tensor([[4.0, 2.0, 2013.0, 0.0]]), "table_columns": COLUMNS}
    batch["table_view"] = torch.tensor([[1.0, 0.0, 2013.0, 0.0]])
    out = record()(batch)
    assert out["table"].tolist() == [[1, 0, 2, 2]] and out["table_view"].tolist() == [[0, 0, -1, 2]]
    batch["table_view"] = torch.tensor([[1.0, 1.0, 2013.0, 0.0]])  # green, which the record does not know
    assert record()(batch)["table_view"].tolist() == [[1, 0, -1, 2]]


def test_images_go_through_and_missing_ones_are_zero():
    image = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    out = record()({"image": image, "image_missing": torch.tensor([False, True])})
    assert out["image"][0].unique().tolist() == [1] and out["image"][1].unique().tolist() == [0]
    out = record()({"views": [image], "image_missing": torch.tensor([False, True])})
    assert out["views"][0][1].unique().tolist() == [0]
    with pytest.raises(DataError):
        record()({"label": torch.zeros(1)})


def test_a_record_survives_being_written_and_names_what_differs():
    made = record()
    plain = made.record()
    again = PREPROCESSES.build(dict(plain))
    assert again == made and again.record() == plain and "fit" not in plain
    made.require_same(plain, "here")
    close = {**plain, "table_mean": [2.0 + 1e-9, 2011.0]}
    made.require_same(close, "here")
    with pytest.raises(CheckpointError, match="table_mean"):
        made.require_same({**plain, "table_mean": [2.1, 2011.0]}, "here")
    columns = [dict(c) for c in plain["columns"]]
    columns[0]["categories"] = ["blue", "pink", "red"]
    with pytest.raises(CheckpointError, match=r"'colour' had other categories \(3 there, 2 here\)"):
        made.require_same({**plain, "columns": columns}, "here")
    columns[0]["name"] = "color"
    with pytest.raises(CheckpointError, match="column 'color' is not here"):
        made.require_same({**plain, "columns": columns}, "here")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(), "give either columns"),
        (
            dict(columns=[dict(name="a"), dict(name="b", kind="categorical")], table_mean=[0], table_std=[1]),
            "begin with",
        ),
        (dict(columns=[dict(name="a")], table_mean=[0], table_std=[0]), "must be positive"),
        (dict(columns=[dict(name="a")]), "one value for each of the 1"),
        (dict(columns=[dict(name="a"), dict(name="a")], table_mean=[0, 0], table_std=[1, 1]), "two columns are called"),
        (dict(columns=[dict(name="a", kind="number")], table_mean=[0], table_std=[1]), "not one of categorical"),
    ],
)
def test_faults_of_a_record(options, said):
    with pytest.raises((ConfigError, DataError), match=said):
        TableImagePreprocess(size=2, **options)


def test_the_record_is_fitted_by_a_config_without_images(monkeypatch):
    made = TableImagePreprocess(size=8, bands=["g"], mean=[0], std=[1], fit=dict(type="DigitsTable", split="train"))
    data = DigitsTable("train")
    observed = data.table[~data.table_missing[:, 5], 5].astype(np.float64)
    assert made.table_mean[2] == pytest.approx(observed.mean()) and made.table_std[2] == pytest.approx(observed.std())
    out = made(data.__getitems__(range(len(data))))
    scores = out["table"][:, 5][~out["table_missing"][:, 5]]
    assert abs(scores.mean()) < 1e-5 and abs(scores.std(unbiased=False) - 1) < 1e-5
    masked = DigitsTable("train", missing=dict(strategy="RVM", rate=0.5))
    fitted = TableImagePreprocess(size=8, bands=["g"], mean=[0], std=[1], fit=masked)
    seen = masked.table[~masked.table_missing[:, 5], 5]
    assert fitted.table_mean[2] == pytest.approx(seen.mean(dtype=np.float64))
    with pytest.raises(ConfigError, match="has no table"):
        TableImagePreprocess(size=8, fit=dict(type="Digits"))


def test_rows_of_a_user_are_prepared():
    made = record()
    batch = made.prepare_table(
        [
            dict(colour="red", weight="4", year=2013, empty=None, more=1),
            dict(colour="pink", weight=NAN, year="", empty="x"),
        ]
    )
    out = made(batch)
    assert out["table"].tolist() == [[1, 0, 2, 2], [0, 0, 0, 0]]
    assert out["table_missing"].tolist() == [[False, True, False, False], [True, True, True, True]]
    with pytest.raises(DataError, match=r"row 0, column 'weight': 'heavy' is not a number"):
        made.prepare_table([dict(colour="red", weight="heavy", year=1, empty=None)])
    with pytest.raises(DataError, match="no column 'weight'"):
        made.prepare_table([dict(colour="red", year=1, empty=None)])


def test_baselines_need_no_training():
    made = record()
    out = made(
        {
            "table": torch.tensor([[4.0, 2.0, 2013.0, 0.0], [2.0, 1.0, 2011.0, 0.0]]),
            "table_columns": COLUMNS,
            "image": torch.full((2, 1, 2, 2), 255, dtype=torch.uint8),
        }
    )
    found = made.baselines(out)
    assert found["table"].tolist() == [[0, 1, 0, 2, 2], [0, 0, 0, 0, 0]]  # blue, red, 'empty', weight, year
    assert found["mask"].tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]
    assert found["pixels"].tolist() == [[1] * 4] * 2
    assert torch.equal(found["raw"], torch.cat([found["pixels"], found["table"]], dim=1))
    assert list(made.baselines({"image": out["image"]})) == ["raw"]


def corrupted(rate=0.3, probability=1.0, count=2000, columns=10, into="table_view", epoch=0, indices=None):
    random = np.random.default_rng(3)
    cells = random.normal(size=(count, columns)).cumsum(1).astype(np.float32)
    holes = random.random((count, columns)) < 0.1
    holes[:, 7] = True
    names = tuple(Column(f"c{j}") for j in range(columns))
    transform = CorruptTable(rate, probability, into)
    data = TableRows(TableData(cells, holes, names), transforms=[transform])
    indices = np.arange(count) if indices is None else indices
    return data, transform(data.fetch(indices), SampleRandom(0, epoch, indices))


def test_corruption_replaces_the_stated_number_of_cells_by_values_of_their_column():
    data, batch = corrupted()
    old, new, holes = batch["table"].numpy(), batch["table_view"].numpy(), data.table_missing
    changed = old != new
    assert np.array_equal(old, data.table) and not changed[holes].any()
    full = ~np.delete(holes, 7, axis=1).any(1)  # rows without a hole, but for the column without any cell
    assert changed[full].sum(1).max() == 3 and np.isin(changed[full].sum(1), (2, 3)).all()
    assert (changed[full].sum(1) == 2).mean() == pytest.approx(0.3, abs=0.06)  # where the empty column was chosen
    for j in set(range(10)) - {7}:
        seen = ~holes[:, j]
        assert set(new[changed[:, j], j]) <= set(old[seen, j])
        assert ks_2samp(old[seen, j], new[seen, j]).pvalue > 0.01
    before, after = (np.corrcoef(x[~holes[:, :2].any(1), :2].T)[0, 1] for x in (old, new))
    assert after < before - 0.15


def test_corruption_depends_on_seed_epoch_and_index_alone():
    _, whole = corrupted()
    _, part = corrupted(indices=np.array([5, 1999, 3]))
    assert torch.equal(part["table_view"], whole["table_view"][[5, 1999, 3]])
    assert not torch.equal(corrupted(epoch=1)[1]["table_view"], whole["table_view"])


def test_corruption_of_a_share_of_the_samples_in_place():
    data, batch = corrupted(probability=0.8, into="table")
    assert "table_view" not in batch
    rows_changed = (batch["table"].numpy() != data.table).any(1)
    assert abs(rows_changed.mean() - 0.8) < 0.04
    _, same = corrupted(rate=0.0)
    assert torch.equal(same["table"], same["table_view"])
    with pytest.raises(DataError, match="the rows of a data set"):
        CorruptTable()(
            {"table": torch.zeros(1, 2), "table_missing": torch.zeros(1, 2)}, SampleRandom(0, 0, np.arange(1))
        )
    with pytest.raises(DataError, match="needs 'table'"):
        CorruptTable()({"image": torch.zeros(1)}, SampleRandom(0, 0, np.arange(1)))
    with pytest.raises(ConfigError, match="nearest is 'table_view'"):
        CorruptTable(into="tableview")
