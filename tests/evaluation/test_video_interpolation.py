"""Errors of interpolation by class, and the tool that prints them."""

from __future__ import annotations

import pytest
import torch
from tiny import same_weights

from perception.config import load_config, plain
from perception.errors import ConfigError
from perception.evaluation.video_interpolation import Interpolation, interpolation_figures
from perception.pretext.masked_video import interpolation_errors
from perception.registry import DATASETS, MODELS

CONFIG = "video/videomae_vit-tiny_moving-digits"


def test_figures_are_means_over_the_clips_of_a_class():
    cfg = plain(load_config(CONFIG))
    torch.manual_seed(0)
    model = MODELS.build(cfg["model"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = DATASETS.build(dict(cfg["evaluation"]["test"], count=12))
    figures = interpolation_figures(model, data, batch_size=5)
    assert [f.name for f in figures] == ["right", "down", "left", "up", "all"]
    assert [f.clips for f in figures] == [3, 3, 3, 3, 12]
    batch = model.backbone.preprocess(data.__getitems__(list(range(12))))
    ours, blend = interpolation_errors(model.pretexts["video_mae"], model.backbone, batch["video"])
    down = batch["label"] == 1
    assert figures[1].model == pytest.approx(ours[down].mean().item(), rel=1e-5)
    assert figures[1].blend == pytest.approx(blend[down].mean().item(), rel=1e-5)
    assert figures[-1].model == pytest.approx(sum(f.model for f in figures[:4]) / 4)
    assert figures[-1].better == pytest.approx((ours < blend).double().mean().item())
    assert model.training and same_weights(before, model.state_dict())


def test_rows_are_in_thousandths_with_the_ratio():
    assert Interpolation("up", 3, 0.0015, 0.002, 2 / 3).row() == ("up", "3", "1.500", "2.000", "0.75", "67 %")
    assert Interpolation("up", 3, 0.0015, 0.0, 0.0).row()[4] == "-"


def test_a_model_that_masks_no_videos_is_refused():
    model = MODELS.build(plain(load_config("image/mae_vit-tiny_digits"))["model"])
    with pytest.raises(ConfigError, match="one pretext that masks videos"):
        interpolation_figures(model, [])


def test_the_tool_prints_every_class(capfd, tmp_path, monkeypatch):
    import interpolation

    from perception.cli import main

    monkeypatch.chdir(tmp_path)
    probe = "evaluation.protocols={'linear': {'type': 'LinearLBFGS', 'penalty': 0.05}}"
    counts = [
        "evaluation.val=None",
        "train_dataloader.dataset.count=64",
        "evaluation.train.count=16",
        "evaluation.test.count=8",
    ]
    assert main(["train", CONFIG, "--out", "run", "--set", "train_cfg.max_epochs=1", probe, *counts]) == 0
    assert interpolation.main(["run"]) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in ("right", "down", "left", "up", "all", "blend", "ratio"))
    with pytest.raises(ConfigError, match=r"no evaluation\.val"):
        interpolation.main(["run", "--split", "val"])
