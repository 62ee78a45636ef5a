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


# The papers' tables, with the corrections of the published configuration files; "-" where a row has no such value.
HEADER, *ROWS = """
config layers hidden heads mask replace alpha drop_edge lr decay epochs cosine norm residual
graphmae_gat_cora        2  512 4 .5  .05 3 0  1e-3 2e-4 1500 yes -         no
graphmae_gat_cora_300ep  2  512 4 .5  .05 3 0  1e-3 2e-4  300 yes -         no
graphmae_gat_citeseer    2  512 2 .5  .1  1 0  1e-3 2e-5  300 yes -         no
graphmae_gat_pubmed      2 1024 4 .75 0   3 0  1e-3 1e-5 1000 yes -         no
graphmae_gat_arxiv       3 1024 4 .5  0   3 .5 1e-3 0    1000 yes layernorm no
graphmae_gat_ppi         3 1024 4 .5  .1  3 0  1e-4 0    1000 yes layernorm yes
graphmae_gat_reddit      4  512 2 .75 .15 3 .5 1e-3 2e-4  500 yes layernorm yes
graphmae2_gat_cora       2 1024 8 .5  .05 3 0  1e-3 2e-4 2000 yes -         no
graphmae2_gat_citeseer   2 1024 4 .5  .1  1 0  5e-4 2e-5  500 yes -         no
graphmae2_gat_pubmed     2  512 2 .75 0   3 0  5e-3 1e-5 2000 yes -         no
graphmae_gin_imdb-b      2  512 - .5  0   1 0  1.5e-4 0    60 no  batchnorm no
graphmae_gin_imdb-m      3  512 - .5  0   1 0  1.5e-4 0    50 no  batchnorm no
graphmae_gin_proteins    3  512 - .5  0   1 0  1.5e-4 0   100 no  batchnorm no
graphmae_gin_mutag       5   32 - .75 .1  2 0  5e-4   0    20 no  batchnorm no
graphmae_gin_reddit-b    2  512 - .75 .1  2 0  1.5e-4 0   100 yes layernorm no
graphmae_gin_collab      2  256 - .75 0   1 0  1.5e-4 0    20 yes batchnorm no
graphmae_gin_nci1        2  512 - .25 .1  2 0  1e-3   0   300 yes batchnorm no
""".strip().splitlines()
LINEAR_PROBES = {  # rate, weight decay, epochs
    "graphmae_gat_cora": (0.01, 1e-4, 300),
    "graphmae_gat_cora_300ep": (0.01, 1e-4, 300),
    "graphmae_gat_citeseer": (0.01, 0.01, 300),
    "graphmae_gat_pubmed": (0.01, 1e-4, 300),
    "graphmae_gat_arxiv": (0.01, 5e-4, 600),
    "graphmae_gat_reddit": (0.005, 0.0, 500),
    "graphmae_gat_ppi": (0.005, 0.0, 2000),
    "graphmae2_gat_cora": (0.025, 1e-4, 300),
    "graphmae2_gat_citeseer": (0.025, 0.01, 300),
    "graphmae2_gat_pubmed": (0.025, 1e-4, 300),
}
POOLING_AND_BATCH = {
    "imdb-b": ("mean", 32),
    "imdb-m": ("mean", 32),
    "proteins": ("max", 32),
    "mutag": ("sum", 64),
    "reddit-b": ("sum", 8),
    "collab": ("max", 32),
    "nci1": ("mean", 16),
}
LATENT = {"cora": (0.15, 0.0), "citeseer": (0.1, 1.0), "pubmed": (1.0, 0.995)}  # lambda, momentum


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split()[0])
def test_values_are_those_of_the_papers_tables(row):
    want = dict(zip(HEADER.split(), row.split(), strict=True))
    name = want["config"]
    cfg = load_config(f"graph/{name}")
    backbone, pretext, adam = cfg.model.backbone, cfg.model.pretexts.graphmae, cfg.optim_wrapper.optimizer
    gat = want["heads"] != "-"
    assert (backbone.type, pretext.decoder, adam.type) == (("GAT", "gat", "Adam") if gat else ("GIN", "gin", "Adam"))
    found = {
        "layers": backbone.num_layers,
        "hidden": backbone.num_hidden,
        "heads": backbone.get("num_heads", "-"),
        "mask": pretext.mask_ratio,
        "replace": pretext.replace_rate,
        "alpha": pretext.alpha,
        "drop_edge": pretext.get("drop_edge_rate", 0.0),
        "lr": adam.lr,
        "decay": adam.weight_decay,
        "epochs": cfg.train_cfg.max_epochs,
    }
    assert found == {key: want[key] if want[key] == "-" else float(want[key]) for key in found}
    assert (backbone.norm or "-", "yes" if backbone.get("residual") else "no") == (want["norm"], want["residual"])
    assert backbone.in_drop == 0.2 and (not gat or backbone.attn_drop == 0.1) and pretext.loss == "sce"
    assert backbone.activation == ("relu" if name.endswith("collab") else "prelu")
    cosine = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)
    assert cfg.get("param_scheduler") == (cosine if want["cosine"] == "yes" else None)
    if gat:
        probe = cfg.get("evaluation", {}).get("protocols", {}).get("linear")
        assert (probe and (probe.lr, probe.weight_decay, probe.epochs)) == LINEAR_PROBES.get(name)
    else:
        assert (backbone.pooling, cfg.train_dataloader.batch_size) == POOLING_AND_BATCH[name.split("_")[-1]]
        assert (pretext.decoder_norm, pretext.decoder_activation) == (backbone.norm, backbone.activation)
        assert cfg.evaluation.protocols.svm == dict(type="SVMCrossValidation", folds=10)
    if name.startswith("graphmae2"):
        assert pretext.remask == "fixed" and (pretext.latent_weight, pretext.momentum) == LATENT[name.split("_")[-1]]


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
