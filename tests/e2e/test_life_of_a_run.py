"""From a config to a backbone in somebody's script, through the command line, on embedded data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.cli import main

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "driving": ("driving/prc_pillars_scenes", "driving/finetune_pillars_scenes"),
    "image": ("image/mae_vit-tiny_digits", "image/finetune_vit-tiny_digits"),
    "graph": ("graph/graphmae_gat_digits", None),
    "remote sensing": ("remote_sensing/clip_tiny_land-cover", "remote_sensing/finetune_clip-tiny_land-cover"),
    "speech": ("speech/wav2vec2_tiny_varieties", "speech/finetune_wav2vec2-tiny_varieties"),
    "video": ("video/videomae_vit-tiny_moving-digits", "video/finetune_vit-tiny_moving-digits"),
}
SHORTER = {
    "driving": [
        "train_dataloader.dataset.count=8",
        "evaluation.train.count=12",
        "evaluation.val.count=6",
        "evaluation.test.count=8",
        "evaluation.protocols.regions.dataset.count=2",
    ],
    "remote sensing": ["train_dataloader.dataset.count=128"],
    "speech": [
        "train_dataloader.dataset.speakers=4",
        *(f"evaluation.{split}.speakers=4" for split in ("train", "val", "test")),
        "evaluation.feature=None",
    ],
    "video": [
        "train_dataloader.dataset.count=64",
        *(f"evaluation.{split}.count=40" for split in ("train", "val", "test")),
    ],
}
SHORTER_TUNING = {
    "driving": [
        "train_cfg.max_iters=2",
        *(f"{part}_dataloader.dataset.count=8" for part in ("train", "val", "test")),
    ],
    "speech": [
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        *(f"{part}_dataloader.dataset.speakers=4" for part in ("train", "val", "test")),
    ],
    "video": [
        "train_cfg.max_iters=2",
        "train_dataloader.dataset.per_class=2",
        *(f"{part}_dataloader.dataset.count=40" for part in ("val", "test")),
    ],
}
SCRIPT = """
import sys
import numpy as np
import perception
from perception.registry import DATASETS

backbone = perception.load_backbone(sys.argv[1])
assert not backbone.training
dataset = DATASETS.build(eval(sys.argv[2]))
batch = dataset.__getitems__(range(min(8, len(dataset))))
np.save("rows.npy", backbone.embed(batch).numpy())
"""


@pytest.mark.parametrize("modality", CASES)
def test_pretrain_probe_embed_export_load_finetune(modality, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pretraining, tuning = CASES[modality]
    shorter = ["train_cfg.max_epochs=2", *SHORTER.get(modality, [])]
    assert main(["train", pretraining, "--set", *shorter]) == 0
    run = Path("runs") / pretraining / "seed_0"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 2
    lines = [json.loads(line) for line in (run / "scalars.jsonl").read_text().splitlines()]
    assert any(np.isfinite(line.get("loss", np.nan)) for line in lines)
    checkpoint = torch.load(run / summary["checkpoint"], weights_only=True)
    assert checkpoint["meta"]["epoch"] == 2

    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert {"trained", "untrained", "raw"} <= {row["source"] for row in rows}
    protocol = rows[0]["protocol"]
    assert main(["probe", str(run), "--protocols", protocol]) == 0

    assert main(["embed", str(run), "--data", "test", "--out", "test.npz"]) == 0
    with np.load("test.npz") as arrays:
        assert len(arrays["features"]) == len(arrays["labels"]) == len(arrays["index"])

    assert main(["export", str(run), "--out", "exported"]) == 0
    dataset = json.loads((run / "config.json").read_text())["evaluation"]["test"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCRIPT, "exported", repr(dataset)], check=True, env=environment)
    found = np.load("rows.npy")
    with np.load("test.npz") as arrays:
        # embed keeps only the nodes of the split; image rows are the first eight.
        expected = arrays["features"]
        rows_of = found[arrays["index"]] if modality == "graph" else found
        assert np.allclose(rows_of, expected[: len(rows_of)], atol=1e-5)

    if tuning is not None:
        start = f"model.backbone.init_from={run}"
        assert main(["train", tuning, "--set", start, *SHORTER_TUNING.get(modality, ["train_cfg.max_epochs=1"])]) == 0
        tuned = Path("runs") / tuning / "seed_0"
        metrics = json.loads((tuned / "metrics.json").read_text())
        assert main(["eval", str(tuned)]) == 0
        assert json.loads((tuned / "metrics.json").read_text())["test"] == pytest.approx(metrics["test"])
    assert "Traceback" not in capfd.readouterr().err


def test_fine_tuning_starts_from_the_weights_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretraining, tuning = CASES["image"]
    assert main(["train", pretraining, "--out", "pre", "--set", "train_cfg.max_epochs=1"]) == 0
    frozen = ["model.frozen=True", "model.backbone.init_from=pre", "train_cfg.max_epochs=1"]
    assert main(["train", tuning, "--out", "tuned", "--set", *frozen]) == 0
    before, after = (
        torch.load(next(Path(f"{r}/seed_0/checkpoints").glob("step_*")))["state_dict"] for r in ("pre", "tuned")
    )
    backbone = [key for key in before if key.startswith("backbone.")]
    assert backbone and all(torch.equal(before[key], after[key]) for key in backbone)
