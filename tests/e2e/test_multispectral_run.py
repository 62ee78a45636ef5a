"""Thirteen bands from GeoTIFF files through pre-training, embedding and the resize-and-normalise benchmark."""

import json

import numpy as np
import pytest
import resize_benchmark
import tifffile
import torch

import perception
from perception.config import load_config
from perception.datasets.eurosat import BANDS, EuroSAT
from perception.engine.api import train
from perception.errors import DataError
from perception.validation import validate_config

# The order of most weights: B8A after B08, while the files have it last.
ORDER = (*BANDS[:8], "B8A", *BANDS[8:12])
CLASSES = ("Forest", "SeaLake")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes of 20 noisy tiles of 16 x 16 pixels; lakes reflect little in every band but blue."""
    monkeypatch.setattr(EuroSAT, "COUNTS", dict.fromkeys(CLASSES, 20))
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        level = np.where(np.array(BANDS) == "B02", 1500, 3000 - 2500 * label)
        for number in range(1, 21):
            path = tmp_path / "EuroSAT_MS" / name / f"{name}_{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tile = (level + random.normal(0, 100, (16, 16, 13))).round().astype(np.uint16)
            tifffile.imwrite(path, tile, photometric="minisblack", planarconfig="contig", metadata=None)
    return tmp_path


def config(root):
    cfg = load_config("image/mae_vit-tiny_digits", ["train_cfg.max_epochs=1", "train_dataloader.batch_size=24"])
    cfg.model.backbone.update(image_size=16, patch_size=4, in_channels=13, embed_dim=32, depth=1, num_heads=2)
    record = dict(type="ImagePreprocess", size=16, bands=ORDER, mean=(0.0,) * 13, std=(1.0,) * 13, value_scale=10_000.0)
    cfg.model.backbone.preprocess = record
    data = dict(type="EuroSAT", root=str(root), bands="msi")
    flip = [dict(type="RandomFlip"), dict(type="RandomResizedCrop", size=16)]
    cfg.train_dataloader.dataset = dict(**data, split="pretrain", transforms=flip)
    cfg.evaluation.update({split: dict(**data, split=split) for split in ("train", "val", "test")})
    cfg.evaluation.protocols = dict(knn=dict(type="KNN", variant="resize-benchmark"))
    cfg.pop("demo")
    return cfg


def test_pretrain_on_thirteen_bands_then_judge_by_name(root, capsys):
    cfg = config(root)
    assert validate_config(cfg) == []
    run = root / "run"
    summary = train(cfg, str(run / "seed_0"), seed=0)
    assert summary["epochs"] == 1 and np.isfinite(summary["losses"]["loss"])

    backbone = perception.load_backbone(run / "seed_0")
    assert backbone.preprocess.bands == ORDER
    batch = EuroSAT(str(root), split="test", bands="msi").fetch(np.arange(8))
    features = backbone.embed(batch)
    by_hand = batch["image"].float()[:, [*range(8), 12, *range(8, 12)]] / 10_000
    with torch.no_grad():
        assert torch.allclose(features, backbone.encode({"image": by_hand}), atol=1e-5)
    shuffled = EuroSAT(str(root), split="test", bands=ORDER[::-1]).fetch(np.arange(8))
    assert torch.allclose(features, backbone.embed(shuffled), atol=1e-5)
    with pytest.raises(DataError, match="the data has no band 'B01', only B04, B03, B02"):
        backbone.embed(EuroSAT(str(root), split="test", bands=["B04", "B03", "B02"]).fetch(np.arange(2)))

    words = ["--data", f"EuroSAT(root={str(root)!r}, bands='msi')", "--sizes", "native", "24", "--divisor", "10000"]
    words += ["--encoders", "statistics", "rcf", str(run), "--seeds", "0", "--protocols", "knn", "knn_scaled"]
    words += ["--normalisations", "divide", "own", "--bands", "B04", "B02", "B03", "--out", str(root / "report")]
    assert resize_benchmark.main(words) == 0
    report = json.loads((root / "report" / "resize_benchmark.json").read_text())
    assert report["statistics"]["bands"] == list(BANDS) and report["statistics"]["dtype"] == "uint16"
    # Reflectance of 24 training tiles: half of them 0.3 in red, half 0.05; 0.15 in blue in all.
    means = dict(zip(BANDS, report["statistics"]["mean"], strict=True))
    assert means["B04"] == pytest.approx(1750, abs=10) and means["B02"] == pytest.approx(1500, abs=10)
    rows = {(row["encoder"], row["normalisation"], row["size"], row["protocol"]): row for row in report["rows"]}
    assert len(rows) == 2 * 2 * 2 + 2 * 2 * 2  # divide for the two that know no weights, and both for the run
    plain = rows["statistics", "divide", 16, "knn"]
    assert plain["record"]["bands"] == ["B04", "B02", "B03"] and plain["record"]["value_scale"] == 10_000
    assert plain["value"] == 1.0 and plain["dims"] == 12 and plain["sizes"] == {"train": 24, "test": 8}
    own = [row for key, row in rows.items() if key[1] == "own"]
    assert own and all(row["record"]["bands"] == list(ORDER) and row["dims"] == 32 for row in own)
    assert "not the published ones" in "".join(capsys.readouterr())


def test_divide_needs_a_divisor_for_reflectance(root, capsys):
    words = ["--data", f"EuroSAT(root={str(root)!r}, bands='msi')", "--sizes", "native", "--encoders", "statistics"]
    assert resize_benchmark.main([*words, "--out", str(root / "report")]) == 1
    assert "divide needs a divisor for uint16 values: 10000 for Sentinel-2's" in capsys.readouterr().err
    assert resize_benchmark.main([*words, "--divisor", "10000", "--bands", "B4", "B88", "--out", str(root / "x")]) == 1
    assert "no band 'B88'" in capsys.readouterr().err
