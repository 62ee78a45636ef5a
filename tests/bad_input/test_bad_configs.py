"""Bad disks and configs: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from bad_runs import CLIPS, IMAGES, SPEECH, train


def test_run_folder_that_cannot_be_written(fails, monkeypatch):
    # Permissions do not bind the superuser, whom containers run tests as; a refusing system call does.
    real = os.open

    def refuse(path, flags, *rest, **kwargs):
        if "run/seed_0" in str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    message = fails(*train(IMAGES), code=1)
    assert "run/seed_0" in message and "Read-only file system" in message


def test_full_disk_during_a_save(fails, monkeypatch):
    def full(*arguments, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    message = fails(*train(IMAGES), code=1)
    assert "step_" in message and "No space left on device" in message and "MiB free" in message
    assert not list(Path("run/seed_0/checkpoints").glob("*"))


def test_run_folder_with_something_in_it(fails, tmp_path):
    (tmp_path / "run" / "seed_0").mkdir(parents=True)
    (tmp_path / "run" / "seed_0" / "thesis.tex").write_text("years of work")
    assert "not empty" in fails(*train(IMAGES), code=2)
    assert "not emptied" in fails(*train(IMAGES), "--overwrite", code=2)
    assert (tmp_path / "run" / "seed_0" / "thesis.tex").exists()


def test_typos_in_type_keyword_and_value_come_in_one_report(fails, tmp_path):
    message = fails(
        *train(
            IMAGES,
            "model.backbone.type=VIT",
            "train_dataloader.dataset.type=Digit",
            "model.pretexts.mae.mask_ratio=1.5",
        ),
        code=2,
    )
    assert "'ViT'" in message and "'Digits'" in message and "model.pretexts.mae.mask_ratio" in message
    assert not (tmp_path / "run").exists()


def test_typo_in_a_keyword_of_a_file(fails, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("model = dict(type='Classifier', backbone=dict(type='ViT', embed_dims=64), num_classes=3)\n")
    message = fails("validate", str(config), code=2)
    assert "model.backbone.embed_dims" in message and "'embed_dim'" in message


def test_typo_in_an_override(fails):
    message = fails(*train(IMAGES, "optim_wrapper.optimizer.learning_rate=1", "train_cfg.max_epoch=3"), code=2)
    assert "optim_wrapper.optimizer.learning_rate" in message and "'max_epochs'" in message


def test_typo_in_the_config_name(fails):
    assert IMAGES in fails("train", "image/mae_vit-tiny_digit", code=2)


def test_typo_in_the_command(fails):
    assert "'train'" in fails("trian", code=2)


@pytest.mark.parametrize(
    ("config", "changes", "keys"),
    [
        (IMAGES, {"patch_size": 3, "num_heads": 7}, ["image_size", "num_heads"]),
        (CLIPS, {"patch_size": 5, "tubelet": 3, "position": "learned"}, ["image_size", "frames", "position"]),
        (
            SPEECH,
            {"num_heads": 7, "pos_groups": 9, "conv_strides": (5, 2)},
            ["num_heads", "pos_groups", "conv_strides"],
        ),
    ],
)
def test_impossible_sizes(fails, config, changes, keys):
    message = fails(*train(config, *(f"model.backbone.{key}={value}" for key, value in changes.items())), code=2)
    assert all(f"model.backbone.{key}" in message for key in keys)
