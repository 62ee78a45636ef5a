"""Bad checkpoints: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from bad_runs import FUSION, IMAGES, SHORT, TOWERS, TUNING, TUNING_CLIPS, TUNING_SPEECH, Payload, train

from perception.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder of one epoch."""
    out = tmp_path_factory.mktemp("trained")
    assert main(["train", IMAGES, "--out", str(out), "--set", *SHORT]) == 0
    return out / "seed_0"


def checkpoint_of(run: Path) -> Path:
    return next((run / "checkpoints").glob("step_*.pth"))


def test_checkpoint_of_another_architecture(fails, trained):
    message = fails(*train(TUNING, f"model.backbone.init_from={trained}", "model.backbone.depth=4"), code=1)
    assert "blocks.3.attn.qkv.weight" in message and str(trained) in message


def test_checkpoint_of_another_width(fails, trained):
    message = fails(*train(TUNING, f"model.backbone.init_from={trained}", "model.backbone.embed_dim=32"), code=1)
    assert "32" in message and "shape" in message


def test_truncated_checkpoint(fails, trained, tmp_path):
    broken = tmp_path / "broken.pth"
    whole = checkpoint_of(trained).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    message = fails(*train(TUNING, f"model.backbone.init_from={broken}"), code=1)
    assert str(broken) in message and "damaged" in message


STARTS = [
    (TUNING, "model.backbone.init_from"),
    (TUNING_CLIPS, "model.backbone.init_from"),
    (TUNING_SPEECH, "model.backbone.init_from"),
    (TOWERS, "model.backbone.init_from"),
    ("remote_sensing/finetune_clip-tiny_land-cover", "model.backbone.init_from"),
    ("driving/finetune_pillars_scenes", "model.backbone.init_from"),
    (FUSION, "model.backbone.camera.init_from"),
    ("driving/rad_lift-splat_scenes", "model.pretexts.rad.teacher.init_from"),
]


@pytest.mark.parametrize(("config", "key"), STARTS)
def test_foreign_checkpoint_that_needs_code(fails, tmp_path, config, key):
    foreign, canary = tmp_path / "foreign.pth", tmp_path / "ran"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Payload(canary)}, foreign)
    message = fails("train", config, "--out", "run", "--set", f"{key}={foreign}", code=1)
    assert str(foreign) in message and "mkdir" in message and "trust=True" in message
    assert not canary.exists()


def test_a_bare_pickle_is_no_checkpoint(fails, tmp_path):
    foreign, canary = tmp_path / "foreign.pth", tmp_path / "ran"
    foreign.write_bytes(pickle.dumps(Payload(canary)))
    message = fails("export", str(foreign), "--out", "out", code=1)
    assert str(foreign) in message
    assert not canary.exists()


def test_a_checkpoint_that_is_not_there(fails):
    message = fails(*train(TUNING, "model.backbone.init_from=nowhere/run"), code=2)
    assert "model.backbone.init_from" in message and "nowhere/run" in message
