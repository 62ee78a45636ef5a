"""Figures by strategy and rate on the embedded digits with tables: the same masks, known values, hidden cells."""

import numpy as np
import pytest
import torch

from perception.config import load_config, plain
from perception.datasets.missingness import Masker
from perception.errors import ConfigError
from perception.evaluation.hidden_cells import hidden_cell_figures, hidden_cell_picture
from perception.evaluation.metrics import Accuracy
from perception.evaluation.missing_runs import NO_IMAGE, NO_TABLE, MissingFigures, missing_figures, missing_picture
from perception.registry import DATASETS, MODELS

DATA = dict(type="DigitsTable", split="test")


class CountsCells:
    """A model that is right about a row exactly where its first column is observed."""

    def __init__(self):
        self.seen = []

    def eval(self):
        return self

    def test_step(self, batch):
        known = (
            ~batch["table_missing"][:, 0] if "table" in batch else torch.zeros(len(batch["image"]), dtype=torch.bool)
        )
        self.seen.append(known)
        told = torch.where(known, batch["label"], (batch["label"] + 1) % 10)
        logits = torch.nn.functional.one_hot(told, 10).float()
        return [dict(logits=logits, label=batch["label"], index=batch["index"])]


def test_figures_are_those_of_the_masks():
    model = CountsCells()
    rates = (0.0, 0.3, 1.0)
    found = missing_figures(model, DATA, Accuracy(), "accuracy/top1", ("RVM", "MIFM"), rates)
    data = DATASETS.build(DATA)
    train = DATASETS.build(DATA | dict(split="train"))
    for strategy in ("RVM", "MIFM"):
        for k, rate in enumerate(rates):
            mask = Masker(strategy, rate).fit(train).mask(data) | data.table_missing
            assert found.values[strategy][0, k] == pytest.approx(1 - mask[:, 0].mean())
    assert found.alone[NO_TABLE] == [0.0] and found.alone[NO_IMAGE] == found.values["RVM"][0, 0]
    np.testing.assert_allclose(found.losses("RVM"), found.values["RVM"][0, 0] - found.values["RVM"][0])
    again = missing_figures(CountsCells(), DATA, Accuracy(), "accuracy/top1", ("RVM",), rates)
    np.testing.assert_array_equal(again.values["RVM"], found.values["RVM"])
    with pytest.raises(ConfigError, match="accuracy/top1"):
        missing_figures(model, DATA, Accuracy(), "accuracy/top2", ("RVM",), (0.0,))


def test_runs_join_and_rows_are_told(tmp_path):
    parts = [
        MissingFigures(
            "accuracy/top1",
            (0.0, 0.5),
            {"RVM": np.array([[a, b]])},
            {NO_TABLE: np.array([0.5]), NO_IMAGE: np.array([np.nan])},
        )
        for a, b in ((0.8, 0.6), (0.9, 0.4))
    ]
    whole = MissingFigures.join(parts)
    assert whole.rows("tip") == [["tip", "RVM", "85.0 ± 7.1", "50.0 ± 14.1", "50.0 ± 0.0", "-"]]
    np.testing.assert_allclose(whole.losses("RVM"), [0.0, 0.35])
    missing_picture({"tip": whole, "one": parts[0]}, tmp_path / "deep" / "curves.png")
    assert (tmp_path / "deep" / "curves.png").stat().st_size > 5_000


def pretrainer():
    torch.manual_seed(0)
    return MODELS.build(plain(load_config("tabular_image/tip_convnet_digits-table"))["model"])


def test_hidden_cells_of_a_model_that_knows_one_column(tmp_path):
    model = pretrainer()
    train, held_out = (DATASETS.build(DATA | dict(split=split)) for split in ("train", "test"))
    tip = model.pretexts["tip"]
    record = model.backbone.preprocess

    def told(backbone, batch, hidden):
        assert hidden.mask.sum(1).tolist() == [round(0.5 * n) for n in (~batch["table_missing"]).sum(1).tolist()]
        guess = torch.zeros_like(batch["table"])
        guess[:, 1], guess[:, 4] = batch["table"][:, 1], batch["table"][:, 4] + 0.5
        return guess

    tip.tell_cells = told
    found = hidden_cell_figures(model, train, held_out, passes=4)
    assert [c.name for c in found.columns] == [c.name for c in record.columns]
    assert found.value[1] == 1.0 and found.value[3] == pytest.approx(0.0, abs=0.2)
    batch = record(held_out.__getitems__(range(len(held_out))))
    spread = batch["table"][:, 4][~batch["table_missing"][:, 4]].var().item()
    assert found.value[4] == pytest.approx(1 - 0.25 / spread, abs=0.1)
    usual = np.bincount(train.table[~train.table_missing[:, 1], 1].astype(int)).argmax()
    share = (held_out.table[~held_out.table_missing[:, 1], 1] == usual).mean()
    assert found.baseline[1] == pytest.approx(share, abs=0.05)
    ours, base = found.accuracy
    weights = found.count[:3] / found.count[:3].sum()
    assert ours == pytest.approx(float(found.value[:3] @ weights))
    assert base == pytest.approx(float(found.baseline[:3] @ weights))
    assert len(found.rows()) == 11 and found.rows()[-1][0] == "all categorical cells"
    hidden_cell_picture(found, tmp_path / "cells.png")
    assert (tmp_path / "cells.png").stat().st_size > 5_000


def test_hidden_cells_leave_random_states_and_an_untrained_model_tells_nothing():
    model = pretrainer()
    train, held_out = (DATASETS.build(DATA | dict(split=split)) for split in ("train", "val"))
    state = torch.get_rng_state()
    found = hidden_cell_figures(model, train, held_out, passes=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.baseline[:3] > 0.2).all() and (found.value[3:] < 0.1).all()
    model.pretexts["tip"].losses = ("itc",)
    with pytest.raises(ConfigError, match="told by a Pretrainer"):
        hidden_cell_figures(model, train, held_out)
