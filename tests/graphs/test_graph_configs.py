"""Every graph config builds, and those whose data is at hand take a step."""

import os
from pathlib import Path

import pytest
import torch

from perception.config import list_configs, load_config
from perception.registry import DATASETS, MODELS
from perception.validation import validate_config

NAMES = [name for name in list_configs() if name.startswith("graph/graphmae")]
DATA = Path(os.environ.get("PERCEPTION_DATA", "")) / "graph"


def test_all_rows_of_the_papers_are_there():
    rows = "gat_cora gat_citeseer gat_pubmed gat_arxiv gat_ppi gat_reddit gin_imdb-b gin_imdb-m gin_proteins gin_mutag"
    rows += " gin_reddit-b gin_collab gin_nci1 gat_cora_300ep gat_digits"
    assert {f"graph/graphmae_{row}" for row in rows.split()} <= set(NAMES)
    assert {f"graph/graphmae2_gat_{row}" for row in ("cora", "citeseer", "pubmed")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_no_fault_and_builds(name):
    cfg = load_config(name)
    assert validate_config(cfg) == []
    with torch.device("meta"):
        MODELS.build(dict(cfg.model))


@pytest.mark.parametrize("name", ["graph/graphmae_gat_digits", "graph/graphmae_gin_mutag", "graph/graphmae_gin_imdb-b"])
def test_it_takes_a_step(name):
    cfg = load_config(name)
    settings = dict(cfg.train_dataloader.dataset)
    if settings["type"] != "DigitsGraph" and ("PERCEPTION_DATA" not in os.environ or not DATA.is_dir()):
        pytest.skip("PERCEPTION_DATA/graph is not there")
    dataset = DATASETS.build(settings)
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model)).train()
    size = min(len(dataset), cfg.train_dataloader.batch_size)
    total, log = model.parse_losses(model(*model.data_preprocessor(dataset.__getitems__(list(range(size))), True)))
    total.backward()
    assert torch.isfinite(total) and "loss_reconstruction" in log
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_pretraining_on_digits_beats_every_baseline(tmp_path):
    from perception.engine.api import train

    cfg = load_config("graph/graphmae_gat_digits")
    train(cfg, tmp_path / "seed_0", 0)
    import json

    rows = json.loads((tmp_path / "seed_0" / "evaluation.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    value = {row["source"]: row["value"] for row in rows if row["protocol"] == "linear"}
    assert value["trained"] > value["untrained"] + 0.03
    assert value["trained"] > max(value["raw"], value["propagated"])
