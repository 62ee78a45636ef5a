"""The recipes by which cells are taken away, against counts and cells worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from perception.datasets.digits_table import DigitsTable
from perception.datasets.missingness import STRATEGIES, Masker, StoredMasks, importance_order, table_checksum
from perception.datasets.table_rows import TableData, take_away
from perception.errors import ConfigError, DataError
from perception.transforms.table_columns import Column


def table(rows=200, columns=17, split="train", seed=0):
    random = np.random.default_rng(seed)
    cells = random.normal(size=(rows, columns)).astype(np.float32)
    labels = (cells[:, 4] + 0.5 * cells[:, 9] > 0).astype(np.int64)
    names = tuple(Column(f"c{j}") for j in range(columns))
    return TableData(cells, np.zeros(cells.shape, bool), names, labels, ("no", "yes"), split)


def test_random_features_are_those_of_the_reference():
    mask = Masker("RFM", 0.3).fit(table()).mask(table(split="test"))
    assert np.flatnonzero(mask[0]).tolist() == [3, 4, 6, 9, 11]  # the check of the card for seed 2022
    assert (mask == mask[0]).all()


@pytest.mark.parametrize(("rate", "count"), [(0, 0), (0.1, 1), (0.3, 5), (0.5, 8), (0.7, 11), (0.9, 15), (1, 17)])
@pytest.mark.parametrize("strategy", ["RFM", "MIFM", "LIFM"])
def test_whole_columns_are_counted_by_cutting_off(strategy, rate, count):
    masker = Masker(strategy, rate).fit(table())
    masks = [masker.mask(table(split=split, seed=i)) for i, split in enumerate(("train", "val", "test"))]
    assert [m.all(0).sum() for m in masks] == [count] * 3 == [m.any(0).sum() for m in masks]
    assert all(np.array_equal(m[0], masks[0][0]) for m in masks)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_random_values_are_counted_over_the_split(rate):
    masker = Masker("RVM", rate).fit(table())
    train, test = masker.mask(table(203)), masker.mask(table(203, split="test"))
    assert train.sum() == test.sum() == int(203 * 17 * rate)
    assert np.array_equal(train, masker.mask(table(203)))
    if 0 < rate < 1:
        assert not np.array_equal(train, test)
        assert len(np.unique(train, axis=0)) > 10  # rows do not share their holes


def test_random_values_are_those_of_the_reference_seeds():
    for split, seed in (("train", 2021), ("val", 2022), ("test", 2023)):
        flat = np.zeros(10 * 17, bool)
        flat[np.random.RandomState(seed).permutation(170)[:51]] = True  # what choice without replacement draws
        assert np.array_equal(Masker("RVM", 0.3).fit(table()).mask(table(10, split=split)).reshape(-1), flat)


def test_a_seed_of_ones_own_fixes_every_split():
    def masks(seed):
        masker = Masker("RVM", 0.3, seed).fit(table())
        return [masker.mask(table(30, split=split)) for split in ("train", "val", "test", "unlabelled")]

    first = masks(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, masks(5), strict=True))
    assert not any(np.array_equal(first[0], other) for other in (*first[1:], masks(6)[0]))
    # MT19937 seeded by an array, the same in every release: seed 5 and the split's name.
    flat = np.random.RandomState([5, 0x5C66E4A3]).permutation(510)[:153]  # crc32 of "train"
    assert np.array_equal(np.flatnonzero(first[0].reshape(-1)), np.sort(flat))


def test_important_columns_are_nested_and_apart_from_unimportant_ones():
    train = table()

    def gone(strategy, rate):
        return set(np.flatnonzero(Masker(strategy, rate).fit(train).mask(train)[0]).tolist())

    for low, high in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.9)):
        assert gone("MIFM", low) < gone("MIFM", high) and gone("LIFM", low) < gone("LIFM", high)
    for rate in (0.1, 0.3, 0.5):
        assert not gone("MIFM", rate) & gone("LIFM", 1 - rate)
    assert gone("MIFM", 0.15) == {4, 9} and 4 not in gone("LIFM", 0.9)  # the two that the label is made of


def test_the_ranking_is_that_of_a_default_forest_on_labelled_training_rows():
    train = table(60)
    labels = train.labels.copy()
    labels[::7] = -1
    held = TableData(train.table, train.table_missing, train.table_columns, labels, train.classes, "train")
    forest = RandomForestClassifier(random_state=2022).fit(train.table[labels >= 0], labels[labels >= 0])
    assert np.array_equal(importance_order(held), np.argsort(-forest.feature_importances_, kind="stable"))
    bare = TableData(train.table, train.table_missing, train.table_columns, None, (), "train")
    with pytest.raises(DataError, match="training rows have none"):
        Masker("MIFM", 0.3).fit(bare)
    number = TableData(train.table, train.table_missing, train.table_columns, train.table[:, 7] * 3, (), "train")
    assert importance_order(number)[0] == 7


def test_independent_cells_are_missing_at_the_rate():
    mask = Masker("MCAR", 0.3, 1).fit(table()).mask(table(20_000, split="test"))
    assert abs(mask.mean() - 0.3) < 0.003 and np.abs(mask.mean(0) - 0.3).max() < 0.02
    joint = (mask[:, 0] & mask[:, 1]).mean()
    assert abs(joint - 0.09) < 0.01


def test_missing_at_random_depends_on_another_column_that_stays():
    train, test = table(20_000), table(20_000, split="test", seed=1)
    mask = Masker("MAR", 0.4, 1, driver="c2").fit(train).mask(test)
    assert not mask[:, 2].any()
    others = np.delete(mask, 2, axis=1)
    assert abs(others.mean() - 0.4) < 0.01
    low, high = test.table[:, 2] < -1, test.table[:, 2] > 1
    assert others[low].mean() < 0.12 and others[high].mean() > 0.75
    assert Masker("MAR", 1.0, driver="c2").fit(train).mask(test).mean() == pytest.approx(16 / 17)
    assert not Masker("MAR", 0.0).fit(train).mask(test).any()
    with pytest.raises(DataError, match="nearest is 'c2'"):
        Masker("MAR", 0.4, driver="c22").fit(train)


def test_missing_by_value_takes_the_largest_and_the_rarest():
    columns = (Column("x"), Column("kind", "categorical", ("a", "b", "c")))
    cells = np.array([[3, 0], [9, 0], [1, 1], [7, 2], [5, 0]], np.float32)
    data = TableData(cells, np.zeros((5, 2), bool), columns, None, (), "train")
    masker = Masker("MNAR", 0.4).fit(data)
    mask = masker.mask(data)
    assert np.flatnonzero(mask[:, 0]).tolist() == [1, 3]
    assert np.flatnonzero(mask[:, 1]).tolist() == [2, 3]  # b and c occur once, a three times
    holes = np.zeros((5, 2), bool)
    holes[1, 0] = True
    again = masker.mask(TableData(cells, holes, columns, None, (), "test"))
    assert np.flatnonzero(again[:, 0]).tolist() == [3, 4]  # what is missing already comes last


def test_whole_tables_and_whole_images():
    data = table(50, split="test")
    rows = Masker("whole-table", 0.5).fit(table()).mask(data)
    assert rows.all(1).sum() == 25 == rows.any(1).sum()
    masker = Masker("whole-image", 0.3).fit(table())
    assert masker.image_mask(data).sum() == 15 and not masker.mask(data).any()
    for strategy in set(STRATEGIES) - {"whole-image"}:
        assert not Masker(strategy, 0.5).fit(table()).image_mask(data).any()
    assert not Masker("natural", 0.5).fit(table()).mask(data).any()


def test_masks_are_kept_with_the_checksum_of_their_table(tmp_path):
    splits = [table(40, split=name, seed=i) for i, name in enumerate(("train", "val"))]
    masker = Masker("RVM", 0.3, 3).fit(splits[0])
    path = masker.save(tmp_path / "masks" / "rvm.npz", splits)
    stored = StoredMasks(path).fit(splits[0])
    for split in splits:
        assert np.array_equal(stored.mask(split), masker.mask(split)) and not stored.image_mask(split).any()
    with np.load(path, allow_pickle=False) as arrays:
        assert (str(arrays["strategy"]), float(arrays["rate"]), int(arrays["seed"])) == ("RVM", 0.3, 3)
        assert arrays["columns"].tolist() == [f"c{j}" for j in range(17)]
        assert str(arrays["train_checksum"]) == table_checksum(splits[0])
    changed = splits[0].table.copy()
    changed[3, 5] += 1
    other = TableData(changed, splits[0].table_missing, splits[0].table_columns, None, (), "train")
    with pytest.raises(DataError, match="another table"):
        stored.mask(other)
    with pytest.raises(DataError, match=r"no masks of the split 'test', only of train, val"):
        stored.mask(table(40, split="test"))
    assert list(path.parent.iterdir()) == [path]  # no half-written file beside it


def test_a_checksum_does_not_see_what_lies_under_a_hole():
    cells, holes = np.array([[1.0, 2.0]], np.float32), np.array([[False, True]])
    columns = (Column("a"), Column("b"))
    first = table_checksum(TableData(cells, holes, columns))
    assert first == table_checksum(TableData(np.array([[1.0, 7.0]], np.float32), holes, columns))
    assert first != table_checksum(TableData(cells, ~holes, columns))
    assert first != table_checksum(TableData(cells, holes, (Column("a"), Column("c"))))


def test_a_data_set_takes_cells_away_by_its_config():
    whole = DigitsTable("test")
    masked = DigitsTable("test", missing=dict(strategy="RVM", rate=0.5))
    added = Masker("RVM", 0.5).fit(DigitsTable("train")).mask(whole)
    assert added.sum() == int(len(whole) * 10 * 0.5)
    assert np.array_equal(masked.table_missing, whole.table_missing | added)  # natural OR taken away
    assert not masked.table[masked.table_missing].any()  # nothing is left under a hole
    assert np.array_equal(masked.labels, whole.labels)
    assert np.array_equal(DigitsTable("test", missing=dict(strategy="RVM", rate=0.5), seed=9).table, masked.table)
    blind = DigitsTable("test", missing=dict(strategy="whole-image", rate=0.2))
    assert blind.image_missing.sum() == int(0.2 * len(whole)) and not blind.images[blind.image_missing].any()
    assert blind.fetch(np.arange(3))["image_missing"].tolist() == blind.image_missing[:3].tolist()


def test_a_row_loses_the_same_cells_in_a_union_of_splits():
    option = dict(strategy="RVM", rate=0.4)
    union, train = DigitsTable("pretrain", missing=option), DigitsTable("train", missing=option)
    val = DigitsTable("val", missing=option)
    found = np.concatenate([train.table, val.table])
    assert union.table.sum() == pytest.approx(found.sum(), rel=1e-5)
    order, own = (np.lexsort(t.T) for t in (union.table, found))
    assert np.array_equal(union.table[order], found[own])
    ranked = dict(strategy="MIFM", rate=0.5)  # needs labels, which a split for pre-training does not give
    assert "label" not in DigitsTable("pretrain", missing=ranked).fetch(np.arange(2))


def test_strategies_that_learn_need_training_rows():
    data = table(20)
    with pytest.raises(ConfigError, match="learns from training rows"):
        take_away(data, np.full(20, "all"), np.arange(20), dict(strategy="MAR", rate=0.2))
    cells, _ = take_away(data, np.full(20, "all"), np.arange(20), dict(strategy="RFM", rate=0.3))
    assert np.flatnonzero(cells[0]).tolist() == [3, 4, 6, 9, 11]
    with pytest.raises(DataError, match="call fit"):
        Masker("RVM", 0.3).mask(data)
    with pytest.raises(DataError, match="others than those"):
        Masker("RVM", 0.3).fit(data).mask(table(20, columns=12))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (dict(strategy="RWM", rate=0.3), "nearest is 'RVM'"),
        (dict(strategy="RVM", rate=30), "share from 0 to 1"),
        (dict(strategy="RVM", rate=0.3, seed=-1), "whole number from 0"),
        (dict(strategy="RVM", rate=0.3, driver="x"), "is for the strategy MAR"),
        (dict(rate=0.3), "needs the key 'strategy'"),
        (dict(strategy="RVM", share=0.3), "not one of strategy, rate, seed, driver"),
        (dict(file="nowhere.npz"), "does not exist"),
    ],
)
def test_faults_of_an_option(option, text):
    found = list(DigitsTable.check_config(dict(split="train", only=None, missing=option)))
    assert len(found) == 1 and text in found[0][1] and found[0][0].startswith("missing")
    if "strategy" in option and "share" not in option:
        with pytest.raises(ConfigError, match=text):
            Masker(**option)
