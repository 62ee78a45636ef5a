"""Trees on tables with holes, pixels and both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from perception.datasets.digits_table import MEAN, STD, DigitsTable
from perception.datasets.table_rows import TableData, TableRows
from perception.errors import ConfigError
from perception.evaluation.forest import RandomForest, raw_inputs, tree_baselines
from perception.evaluation.protocol import EvaluationError, Features, Splits
from perception.transforms.table_columns import Column
from perception.transforms.table_image_preprocess import TableImagePreprocess


@pytest.fixture(scope="module")
def digits():
    train, test = DigitsTable("train"), DigitsTable("test")
    return train, test, TableImagePreprocess(size=8, bands=["g"], mean=MEAN, std=STD, fit=train)


def test_inputs_have_holes_where_cells_are_missing(digits):
    train, _, record = digits
    found, y = raw_inputs(train, record)
    assert np.array_equal(
        np.isnan(found["codes"]), train.table_missing
    )  # the columns are in the record's order already
    assert np.array_equal(found["mask"], train.table_missing.astype(np.float32)) and np.array_equal(y, train.labels)
    assert found["table"].shape == (len(train), 9 + 7) and found["pixels"].shape == (len(train), 64)
    codes = found["table"][:, :3]
    assert np.array_equal(codes.sum(1), ~train.table_missing[:, 0])  # one column for every number of loops
    assert np.array_equal(np.isnan(found["table"][:, 9:]), train.table_missing[:, 3:])


def test_neither_the_table_nor_the_image_is_enough(digits):
    train, test, record = digits
    rows = tree_baselines(train, test, record, models=("forest",), trees=100)
    value = {row["input"]: row["value"] for row in rows}
    assert value["pixels + table"] > max(value["pixels"], value["table"]) + 0.04
    assert 0.55 < value["table"] < 0.7 and 0.65 < value["pixels"] < 0.8
    assert value["mask"] < 0.17  # the holes tell nothing
    assert all(row["n"] == 450 and row["metric"] == "accuracy" for row in rows)


def test_figures_are_those_of_scikit_learn(digits):
    train, test, record = digits
    (row,) = tree_baselines(train, test, record, ("table",), ("boosting",), seed=3)
    x, y = raw_inputs(train, record)
    judge = HistGradientBoostingClassifier(random_state=3, categorical_features=[0, 1, 2]).fit(x["codes"], y)
    assert row["value"] == judge.score(raw_inputs(test, record)[0]["codes"], test.labels)
    with pytest.raises(ConfigError, match="nearest is 'forest'"):
        tree_baselines(train, test, record, models=("forests",))
    with pytest.raises(EvaluationError, match="gives no labels"):
        tree_baselines(DigitsTable("pretrain"), test, record)


def test_numbers_are_predicted_by_regression():
    cells = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    data = TableData(cells, np.zeros((300, 2), bool), (Column("a"), Column("b")), cells[:, 0] * 4 + 1)
    halves = [TableRows(data.take(np.arange(i, 300, 2))) for i in (0, 1)]
    record = TableImagePreprocess(size=1, fit=halves[0])
    rows = tree_baselines(*halves, record, trees=50)
    assert {(row["model"], row["metric"]) for row in rows if row["input"] == "table"} == {
        ("forest", "r2"),
        ("boosting", "r2"),
    }
    assert min(row["value"] for row in rows if row["input"] == "table") > 0.85


def test_the_protocol_judges_any_features():
    x = torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    train, test = Features(x[:80], y[:80], torch.arange(80)), Features(x[80:], y[80:], torch.arange(40))
    (outcome,) = RandomForest(trees=40).run(Splits(train=train, test=test), seed=1)
    order = train.canonical()
    forest = RandomForestClassifier(40, random_state=1).fit(order.x.numpy(), order.y.numpy())
    assert outcome.value == forest.score(x[80:].numpy(), y[80:].numpy()) and outcome.n == 40
    shuffled = train.take(torch.randperm(80, generator=torch.Generator().manual_seed(1)))
    assert RandomForest(trees=40).run(Splits(train=shuffled, test=test), seed=1)[0].value == outcome.value
    assert list(RandomForest.check_config({"trees": 0}))
