"""The demo: which configs it runs, what it draws, and a short run of all of it."""

from __future__ import annotations

import json

import pytest

from perception.cli import main
from perception.cli.demo import comparison, demo_configs, draw_curves, latest_pictures
from perception.config import load_config


def test_configs_say_themselves_that_the_demo_runs_them():
    names = demo_configs()
    assert {"image/mae_vit-tiny_digits", "graph/graphmae_gat_digits"} <= set(names)
    for name in names:
        cfg = load_config(name)
        assert cfg.demo["title"]
        assert cfg.demo["protocol"] in cfg.evaluation["protocols"]


def test_comparison_takes_the_protocol_and_marks_what_is_missing(tmp_path):
    rows = [
        {"protocol": "linear", "source": "trained", "value": 0.912},
        {"protocol": "knn", "source": "untrained", "value": 0.5},
        {"protocol": "linear", "source": "raw", "value": 0.5},
    ]
    (tmp_path / "evaluation.json").write_text(json.dumps({"rows": rows}))
    assert comparison(tmp_path, "linear") == ["91.2 %", "-", "50.0 %"]


def test_only_the_latest_picture_of_each_kind_is_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("mae_00000010.png", "mae_00000020.png", "tsne_00000020.png"):
        (tmp_path / "pictures" / name).touch()
    assert [p.name for p in latest_pictures(tmp_path)] == ["mae_00000020.png", "tsne_00000020.png"]


def test_curves_are_a_picture_with_a_panel_a_run(tmp_path):
    import cv2

    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "lr": 0.1}, {"step": 3, "loss": 0.5}]
    (tmp_path / "scalars.jsonl").write_text("\n".join(map(json.dumps, lines)))
    one = cv2.imread(str(draw_curves({"a": tmp_path}, tmp_path / "one.png")))
    two = cv2.imread(str(draw_curves({"a": tmp_path, "b": tmp_path}, tmp_path / "two.png")))
    assert one.std() > 0 and two.shape[1] == 2 * one.shape[1]


def test_unknown_demo_config_is_refused(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "image/mae_vit-tiny_digit"]) == 2
    assert "'image/mae_vit-tiny_digits'" in capfd.readouterr().err


def test_short_demo(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "1", "--out", "out"]) == 0
    printed = capfd.readouterr().out
    assert (tmp_path / "out" / "loss_curves.png").is_file()
    assert "out/loss_curves.png" in printed.replace("\n", "")
    for name in demo_configs():
        assert load_config(name).demo["title"] in printed
    assert main(["demo", "--epochs", "1", "--out", "out"]) == 0  # a second demo replaces the first


@pytest.mark.slow
def test_pre_training_clearly_beats_the_untrained_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "out"]) == 0
    for name in demo_configs():
        run = tmp_path / "out" / name.replace("/", "_") / "seed_0"
        trained, untrained, _ = (float(v.rstrip(" %")) for v in comparison(run, load_config(name).demo["protocol"]))
        assert trained > untrained + 2
