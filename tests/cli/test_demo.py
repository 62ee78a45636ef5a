"""The demo: which configs it runs, what it draws, a short run of one and a full one of all of them."""

from __future__ import annotations

import json

import pytest

from perception.cli import main
from perception.cli.demo import comparison, demo_configs, draw_curves, latest_pictures
from perception.config import load_config
from perception.validation import validate_config


def test_configs_say_themselves_that_the_demo_runs_them():
    names = demo_configs()
    assert {"image/mae_vit-tiny_digits", "graph/graphmae_gat_digits"} <= set(names)
    for name in names:
        cfg = load_config(name)
        assert cfg.demo["title"]
        assert cfg.demo["protocol"] in cfg.evaluation["protocols"]
        assert validate_config(load_config(name, ["train_cfg.max_epochs=1"])) == []  # --epochs 1


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


def test_short_demo_of_one_config(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "graph/graphmae_gat_digits"  # the cheapest; the slow test below runs all of them
    short = ["demo", name, "--epochs", "1", "--out", "out"]
    assert main(short) == 0
    run = tmp_path / "out" / name.replace("/", "_") / "seed_0"
    assert "-" not in comparison(run, load_config(name).demo["protocol"])
    told_of(capfd.readouterr().out, [name], tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["graph_graphmae_gat_digits"]
    steps = json.loads((run / "summary.json").read_text())["steps"]
    (run / "of_the_first").touch()
    assert main(short) == 0  # a second demo replaces the first
    assert not (run / "of_the_first").exists()
    assert json.loads((run / "summary.json").read_text())["steps"] == steps


def told_of(printed, names, folder):
    """The demo has drawn and named the curves of its runs, and told what they are."""
    assert (folder / "out" / "loss_curves.png").is_file()
    assert "out/loss_curves.png" in printed.replace("\n", "")
    for name in names:
        assert load_config(name).demo["title"] in printed


@pytest.mark.slow
def test_pre_training_clearly_beats_the_untrained_encoder(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "out"]) == 0
    told_of(capfd.readouterr().out, demo_configs(), tmp_path)
    for name in demo_configs():
        run = tmp_path / "out" / name.replace("/", "_") / "seed_0"
        trained, untrained, _ = (float(v.rstrip(" %")) for v in comparison(run, load_config(name).demo["protocol"]))
        assert trained > untrained + 2
