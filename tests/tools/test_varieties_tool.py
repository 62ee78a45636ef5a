"""The analysis of a trained classifier, end to end on digits, with the writer's place in the data as the group."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perception.config import load_config
from perception.engine.api import train
from perception.errors import DataError
from perception.evaluation.varieties import order_of


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("varieties", Path(__file__).parents[2] / "tools" / "varieties.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_and_pictures_of_a_run(tmp_path, tool, capsys):
    cfg = load_config("image/joint_vit-tiny_digits", ["train_cfg.max_epochs=2"])
    summary = train(cfg, tmp_path / "run", seed=0)
    order = "9,8,7,6,5,4,3,2,1,0"
    assert tool.main([str(tmp_path / "run"), "--group", "index", "--order", order, "--out", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "run"
    figures = json.loads((folder / "varieties.json").read_text())
    counts = np.array(figures["confusion"])
    assert counts.shape == (10, 10) and counts.sum() == figures["samples"] == figures["groups"]
    assert figures["accuracy"][0] == pytest.approx(np.trace(counts) / counts.sum())
    assert figures["accuracy"][0] == pytest.approx(summary["metrics"]["test"]["accuracy/top1"])
    f1 = [2 * counts[i, i] / (counts[i].sum() + counts[:, i].sum()) for i in range(10)]
    assert list(figures["f1"].values()) == pytest.approx(f1)
    assert figures["macro_f1"][0] == pytest.approx(np.mean(f1))
    names = {"confusion.png", "f1.png", "centroids.png", "map_pca.png", "map_tsne.png"}
    assert {file.name for file in folder.glob("*.png")} == names
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in folder.glob("*.png"))
    assert "macro_f1 over" in capsys.readouterr().out


def test_the_order_is_the_given_one_or_that_of_the_data():
    places = SimpleNamespace(classes=("centre", "north", "south"), order=[1, 0, 2])
    assert order_of(places) == ["north", "centre", "south"]
    assert order_of(places, ["south", "centre", "north"]) == ["south", "centre", "north"]
    assert order_of(SimpleNamespace(classes=("b", "a"))) == ["b", "a"]
    with pytest.raises(DataError, match="missing: \\['south'\\]"):
        order_of(places, ["north", "centre"])
