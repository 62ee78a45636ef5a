"""Bad input through the command line: one clear message that names the thing, no traceback, exit code above 0."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception.cli import main

IMAGES = "image/mae_vit-tiny_digits"
TUNING = "image/finetune_vit-tiny_digits"
GRAPH = "graph/graphmae_gat_digits"
TOWERS = "remote_sensing/clip_tiny_land-cover"
SHORT = ["train_cfg.max_epochs=1"]


@pytest.fixture
def fails(capfd, tmp_path, monkeypatch):
    """Run a command that must fail, and return its message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int) -> str:
        assert main(list(arguments)) == code
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert error.count("perception: ") == 1
        return error.split("perception: ", 1)[1]

    return run


def train(config: str, *overrides: str) -> list[str]:
    return ["train", config, "--out", "run", "--set", *SHORT, *overrides]


# -- data ---------------------------------------------------------------------------------------------------------


def folder_of_images(root: Path, count: int = 12) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        path = root / f"{'ab'[i % 2]}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    return root


def image_folder(root: Path) -> str:
    return f"train_dataloader.dataset={{'type': 'ImageFolder', 'root': '{root}', 'grey': True, 'size': 8}}"


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image(fails, tmp_path, workers):
    root = folder_of_images(tmp_path / "pictures")
    broken = root / "a" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    message = fails(*train(IMAGES, image_folder(root), f"train_dataloader.num_workers={workers}"), code=1)
    assert str(broken) in message and "truncated" in message


def test_empty_folder(fails, tmp_path):
    (tmp_path / "pictures").mkdir()
    message = fails(*train(IMAGES, image_folder(tmp_path / "pictures")), code=2)
    assert str(tmp_path / "pictures") in message and "train_dataloader.dataset.root" in message


def test_npz_with_pickles_is_refused_and_not_run(fails, tmp_path):
    path, canary = tmp_path / "graph.npz", tmp_path / "ran"
    np.savez(path, x=np.array([Payload(canary)], dtype=object), edge_index=np.zeros((2, 1), dtype=int))
    message = fails(*train(GRAPH, graph_file(path)), code=1)
    assert str(path) in message and "pickle" in message
    assert not canary.exists()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def graph_file(path: Path) -> str:
    return f"train_dataloader.dataset={{'type': 'GraphFile', 'path': '{path}'}}"


def write_graph(path: Path, **changed: np.ndarray) -> Path:
    random = np.random.default_rng(0)
    arrays = {"x": random.random((20, 64), dtype=np.float32), "edge_index": random.integers(0, 20, (2, 60))}
    np.savez(path, **{**arrays, **changed})
    return path


def test_edges_out_of_range(fails, tmp_path):
    edges = np.zeros((2, 60), dtype=int)
    edges[1, 7] = 20
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", edge_index=edges))), code=1)
    assert "column 7" in message and "20 nodes" in message


def test_nan_features(fails, tmp_path):
    x = np.zeros((20, 64), dtype=np.float32)
    x[3, 5] = np.nan
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", x=x))), code=1)
    assert "x[3, 5]" in message and "nan" in message


def test_features_of_another_width(fails, tmp_path):
    x = np.ones((20, 9), dtype=np.float32)
    message = fails(*train(GRAPH, graph_file(write_graph(tmp_path / "g.npz", x=x))), code=1)
    assert "9" in message and "64" in message


def test_labels_out_of_range(fails):
    message = fails(*train(TUNING, "model.num_classes=5"), code=1)
    assert "model.num_classes = 5" in message and "out of range" in message


# -- captions and bands -------------------------------------------------------------------------------------------


def captions(root: Path, count: int = 6, changes: dict[str, dict[str, object]] | None = None) -> str:
    """A caption file and its images, ``changes`` by file name; returns what the data set's config begins with."""
    folder_of_images(root / "images", count)
    names = sorted(str(path.relative_to(root / "images")) for path in (root / "images").rglob("*.jpg"))
    records = [{"filename": name, "captions": ["a river", "water"], "label": "river"} for name in names]
    records = [{**record, **(changes or {}).get(record["filename"], {})} for record in records]
    (root / "captions.json").write_text(json.dumps(records))
    return f"'type': 'CaptionFiles', 'file': '{root / 'captions.json'}', 'images': '{root / 'images'}', 'size': 64"


def towers(data: str, *overrides: str) -> list[str]:
    transforms = "[{'type': 'PickCaption'}, {'type': 'MultiCrop', 'size': 64, 'global_views': 1, 'local_views': 0}]"
    dataset = f"train_dataloader.dataset={{{data}, 'transforms': {transforms}}}"
    return train(TOWERS, dataset, "train_dataloader.batch_size=2", "evaluation={}", *overrides)


def test_captions_of_images_that_are_missing(fails, tmp_path):
    data = captions(tmp_path)
    for name in ("a/0.jpg", "b/3.jpg"):
        (tmp_path / "images" / name).unlink()
    message = fails(*towers(data), code=1)
    assert "names 2 images that are not in" in message and "a/0.jpg, b/3.jpg" in message and "'drop'" in message


def test_what_captions_leave_out_is_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    data = captions(tmp_path, changes={"a/2.jpg": {"captions": []}, "a/4.jpg": {"captions": ["a river", " "]}})
    (tmp_path / "images" / "b" / "3.jpg").unlink()
    assert main(towers(f"{data}, 'missing': 'drop', 'empty': 'drop'")) == 0
    out = "".join(capfd.readouterr())
    assert "1 of 6 images are missing: b/3.jpg" in out and "1 of 6 images have no caption: a/2.jpg" in out
    assert "1 of 6 images have an empty caption that was dropped: a/4.jpg" in out
    assert json.loads(Path("run/seed_0/summary.json").read_text())["steps"] == 2  # four images are left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": ["a river", "  "]}, ["1 captions are empty, of b/1.jpg", "empty='drop'"]),
        ({"captions": []}, ["1 images have no caption: b/1.jpg", "empty='drop'"]),
        ({"captions": ["a river", 7]}, ["b/1.jpg"]),
    ],
)
def test_empty_captions(fails, tmp_path, change, words):
    message = fails(*towers(captions(tmp_path, changes={"b/1.jpg": change})), code=1)
    assert str(tmp_path / "captions.json") in message and all(word in message for word in words), message


def test_a_class_outside_the_list(fails, tmp_path):
    data = captions(tmp_path, changes={"b/1.jpg": {"label": "rivr"}})
    message = fails(*towers(f"{data}, 'classes': ['forest', 'river']"), code=1)
    assert "1 images have a class outside the 2 of the list: 'rivr' (1)" in message and "nearest" in message


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_damaged_image_behind_a_caption(fails, tmp_path, in_memory):
    data = captions(tmp_path)
    broken = tmp_path / "images" / "b" / "5.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    message = fails(*towers(f"{data}, 'in_memory': {in_memory}"), code=1)
    assert str(broken) in message and "truncated" in message


def test_views_that_are_no_whole_patches(fails):
    key = "train_dataloader.dataset.transforms.1"
    message = fails("validate", TOWERS, "--set", f"{key}.local_views=2", f"{key}.local_size=40", code=2)
    assert f"{key}.local_size" in message and "'32' or '48'" in message


BANDS = "model.backbone.preprocess.bands"


def test_more_bands_than_the_images_have(fails):
    four = ["model.backbone.in_channels=4", "model.backbone.preprocess.mean=(0.5, 0.5, 0.5, 0.5)"]
    four += ["model.backbone.preprocess.std=(0.2, 0.2, 0.2, 0.2)", f"{BANDS}=('red', 'green', 'blue', 'nir')"]
    message = fails(*train(TOWERS, *four), code=1)
    assert "(64, 3, 64, 64)" in message and "'nir'" in message


def test_bands_that_nobody_knows(fails, tmp_path):
    (tmp_path / "eurosat").mkdir()
    data = f"{{'type': 'EuroSAT', 'root': '{tmp_path / 'eurosat'}', 'bands': ['B04', 'B03', 'B22']}}"
    message = fails("validate", "remote_sensing/simclr_convnet_eurosat-mini", "--set", f"evaluation.val={data}", code=2)
    assert "evaluation.val" in message and "B22" in message
    message = fails("validate", TOWERS, "--set", f"{BANDS}=('red', 'green', 'red')", code=2)
    assert "names a band twice" in message


# -- checkpoints --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("tuning", [TUNING, TOWERS, "remote_sensing/finetune_clip-tiny_land-cover"])
def test_foreign_checkpoint_that_needs_code(fails, tmp_path, tuning):
    foreign, canary = tmp_path / "foreign.pth", tmp_path / "ran"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Payload(canary)}, foreign)
    message = fails(*train(tuning, f"model.backbone.init_from={foreign}"), code=1)
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


# -- disks --------------------------------------------------------------------------------------------------------


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


# -- configs ------------------------------------------------------------------------------------------------------


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


def test_impossible_sizes(fails):
    message = fails(*train(IMAGES, "model.backbone.patch_size=3", "model.backbone.num_heads=7"), code=2)
    assert "model.backbone.image_size" in message and "model.backbone.num_heads" in message
