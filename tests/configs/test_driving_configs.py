"""Every driving config builds, and the small ones take a step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from perception.config import list_configs, load_config, plain
from perception.engine.api import train
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

NAMES = [name for name in list_configs() if name.startswith("driving/")]
FULL = [name for name in NAMES if name.endswith("_nuscenes")]
SMALL = [name for name in NAMES if name not in FULL]
needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set")


@pytest.fixture(scope="module")
def lidar_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LiDAR branch for configs that learn from one: a step of PRC."""
    folder = tmp_path_factory.mktemp("prc") / "seed_0"
    cfg = load_config(
        "driving/prc_pillars_scenes", ["train_dataloader.dataset.count=4", "train_cfg.max_epochs=1", "evaluation=None"]
    )
    train(cfg, folder, seed=0)
    return folder


@pytest.mark.parametrize("name", FULL)
def test_full_size_configs_lack_nothing_but_data_and_runs(name: str) -> None:
    faults = [str(fault) for fault in validate_config(load_config(name), data_sets=False)]
    assert all("init_from" in fault for fault in faults)


@pytest.mark.parametrize("name", [name for name in FULL if "rad" not in name])
def test_full_size_models_build_on_cells_of_0_8_metres(name: str) -> None:
    cfg = plain(load_config(name))["model"]
    for branch in (cfg["backbone"], cfg["backbone"].get("camera") or {}):
        if branch.get("image_backbone"):
            branch["image_backbone"]["pretrained"] = False
    model = MODELS.build(cfg)
    assert model.backbone.grid.shape == (128, 128)
    assert model.backbone.grid.cell == pytest.approx((0.8, 0.8))


@needs_data
@pytest.mark.parametrize("name", SMALL)
def test_a_step_has_finite_losses_and_gradients(name: str, lidar_run: Path) -> None:
    cfg = load_config(name)
    for pretext in (cfg.model.get("pretexts") or {}).values():
        if "teacher" in pretext:
            pretext.teacher.init_from = str(lidar_run)
    assert validate_config(cfg) == []
    cfg = plain(cfg)
    dataset = cfg["train_dataloader"]["dataset"]
    if dataset["type"] == "DrivingScenes":
        dataset["count"] = 2
    torch.manual_seed(0)
    model = MODELS.build(cfg["model"]).train()
    losses = model(*model.data_preprocessor(DATASETS.build(dataset).__getitems__([0, 1]), True), mode="loss")
    total, logged = model.parse_losses(losses)
    assert torch.isfinite(total) and all(torch.isfinite(torch.as_tensor(v)).all() for v in logged.values())
    total.backward()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    # The last stage of an image backbone whose map nobody reads has no gradient; everything else has.
    silent = [n for n, p in trained if p.grad is None]
    assert not silent, silent
    assert all(torch.isfinite(p.grad).all() for _, p in trained)


def test_a_segmenter_finds_the_road_that_it_was_shown(tmp_path: Path) -> None:
    """The map config end to end: turned sweeps and maps in training, the scenes as they are in the test."""
    scenes = [f"{part}_dataloader.dataset.count=4" for part in ("train", "val", "test")]
    seen = ["test_dataloader.dataset.split=train", "param_scheduler.warmup_steps=5"]
    cfg = load_config("driving/segmenter_pillars_scenes", [*scenes, *seen, "train_cfg.max_iters=60"])
    found = train(cfg, tmp_path, seed=0)["metrics"]["test"]
    layers = ("drivable_area", "ped_crossing", "divider")
    assert {name for name in found if name.startswith("map/iou@best/")} == {f"map/iou@best/{n}" for n in layers}
    # Everything as road, the best that one number for all cells can do, has their share of the cells: below 0.3.
    assert found["map/iou@best/drivable_area"] > 0.5
    assert found["map/miou@best"] >= found["map/miou@0.5"]
