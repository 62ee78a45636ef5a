"""The subcommands on run folders, as a user calls them."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_config
from toy import ToyBackbone

from perception.checkpoint import load_checkpoint, save_checkpoint
from perception.cli import main
from perception.cli.report import BEGIN, END
from perception.engine.api import train
from perception.exporting import load_backbone

SPLIT = {"type": "ToyDataset", "size": 60}
SECTION = {
    **{name: {**SPLIT, "split": name} for name in ("train", "val", "test")},
    "protocols": {"knn": {"type": "KNN", "k": 5}, "linear": {"type": "LinearLBFGS", "penalty": 0.1}},
}


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a run with a backbone and an evaluation section."""
    for seed in (0, 1):
        folder = tmp_path / "runs" / "toy" / f"seed_{seed}"
        backbone = {"type": "ToyBackbone", "width": 6}
        config = {
            "model": {"type": "Pretrainer", "backbone": {**backbone, "init_from": "/gone"}, "pretexts": {}},
            "evaluation": SECTION,
        }
        torch.manual_seed(seed)
        state = {f"backbone.{k}": v for k, v in ToyBackbone(width=6).state_dict().items()}
        meta = {
            "step": 5,
            "seed": seed,
            "config": json.dumps(config),
            "preprocess": {"type": "ToyPreprocess", "scale": 1.0},
        }
        save_checkpoint({"meta": meta, "state_dict": state}, folder / "checkpoints" / "step_00000005.pth")
        (folder / "config.json").write_text(json.dumps(config))
        lines = [{"step": s, "epoch": s, "loss": 1 / s, "probe/knn": 0.1 * s} for s in (1, 2, 3)]
        (folder / "scalars.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    return tmp_path / "runs" / "toy"


def rows(file) -> list[dict]:
    return json.loads(file.read_text())["rows"]


def test_probe_of_seeds_is_aggregated(runs, capsys):
    assert main(["probe", str(runs)]) == 0
    seeds = [rows(runs / f"seed_{s}" / "evaluation.json") for s in (0, 1)]
    merged = rows(runs / "evaluation.json")
    assert len(seeds[0]) == 6 and len(merged) == 6
    for row in merged:
        mine = [
            r["value"] for run in seeds for r in run if all(r[k] == row[k] for k in ("protocol", "source", "metric"))
        ]
        assert row["value"] == pytest.approx(np.mean(mine)) and row["std"] == pytest.approx(np.std(mine, ddof=1))
    assert "mean ± std over seeds" in capsys.readouterr().out
    assert len(list((runs / "seed_0" / "features").glob("*.npz"))) == 3  # this twin has the same weights


def test_probe_with_changes_leaves_the_evaluation_alone(runs, capsys):
    assert main(["probe", str(runs / "seed_1"), "--protocols", "knn", "--set", "evaluation.protocols.knn.k=3"]) == 0
    assert not (runs / "seed_1" / "evaluation.json").exists()
    assert {r["settings"]["k"] for r in rows(runs / "seed_1" / "probe.json")} == {3}
    assert main(["probe", str(runs / "seed_1"), "--protocols", "kn"]) == 2
    assert "no protocol 'kn'" in capsys.readouterr().err
    assert main(["probe", str(runs / "seed_1"), "--set", "evaluation.protocols.knn.kk=3"]) == 2
    assert "kk" in capsys.readouterr().err


def test_probe_of_a_config_and_of_an_export(runs, tmp_path):
    fresh = json.loads((runs / "seed_0" / "config.json").read_text())
    del fresh["model"]["backbone"]["init_from"]
    (tmp_path / "fresh.json").write_text(json.dumps(fresh))
    out = tmp_path / "out.json"
    assert main(["probe", str(tmp_path / "fresh.json"), "--untrained", "--seed", "1", "--out", str(out)]) == 0
    assert {r["source"] for r in rows(out)} == {"untrained", "raw"}
    assert main(["export", str(runs / "seed_1"), "--out", str(tmp_path / "x")]) == 0
    assert main(["probe", str(tmp_path / "x")]) == 2
    again = tmp_path / "again.json"
    assert main(["probe", str(tmp_path / "x"), "--config", str(tmp_path / "fresh.json"), "--out", str(again)]) == 0
    # The run's weights are those of an untrained backbone of seed 1.
    values = [
        {(r["protocol"], r["value"]) for r in rows(f) if r["source"] == s}
        for f, s in ((out, "untrained"), (again, "trained"))
    ]
    assert values[0] == values[1]


def test_export_then_embed(runs, tmp_path, capsys):
    assert main(["export", str(runs), "--out", str(tmp_path / "x")]) == 1
    assert "2 runs" in capsys.readouterr().err
    assert main(["export", str(runs), "--seed", "1", "--out", str(tmp_path / "x")]) == 0
    data = "dict(type='ToyDataset', split='test', size=9, unlabelled=2)"
    assert (
        main(["embed", str(tmp_path / "x"), "--data", data, "--out", str(tmp_path / "e.npz"), "--batch-size", "4"]) == 0
    )
    with np.load(tmp_path / "e.npz", allow_pickle=False) as found:
        assert found["features"].shape == (9, 6) and found["features"].dtype == np.float32
        assert found["labels"].tolist()[:3] == [-1, -1, 2] and found["index"].tolist() == list(range(9))
        from toy import ToyDataset

        whole = load_backbone(runs / "seed_1").embed(
            ToyDataset("test", 9)[0] | ToyDataset("test", 9).fetch(np.arange(9))
        )
        np.testing.assert_allclose(found["features"], whole.numpy(), atol=1e-6)
    assert main(["embed", str(runs / "seed_0"), "--data", "val", "--out", str(tmp_path / "v.npz")]) == 0
    with np.load(tmp_path / "v.npz") as found:
        assert len(found["features"]) == 60


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ToyDatase", "Did you mean 'ToyDataset'"),
        ("dict(type='ToyDataset', spit='test')", "spit"),
        ("dict(type=open('/etc/passwd'))", "not a python literal"),
        ("{'split': 'test'}", "the key 'type'"),
        ("all", "no evaluation section with 'all'"),
    ],
)
def test_embed_refuses_what_is_no_data(runs, tmp_path, capsys, data, message):
    assert main(["embed", str(runs / "seed_0"), "--data", data, "--out", str(tmp_path / "e.npz")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "e.npz").exists()


def test_report_table_readme_and_pictures(runs, tmp_path, capsys):
    assert main(["report", str(runs)]) == 1
    assert "no evaluation.json" in capsys.readouterr().err
    main(["probe", str(runs)])
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{BEGIN}\nold\n{END}\nrest\n")
    pictures = tmp_path / "pictures"
    assert main(["report", str(runs), "--readme", str(readme), "--pictures", str(pictures)]) == 0
    text = readme.read_text()
    assert text.startswith(f"# Title\n{BEGIN}\n| run |") and text.endswith(f"{END}\nrest\n") and "old" not in text
    merged = {(r["protocol"], r["source"]): r for r in rows(runs / "evaluation.json")}
    knn = next(line for line in text.splitlines() if line.startswith("| toy | knn"))
    for source in ("trained", "untrained", "raw"):
        row = merged["knn", source]
        spread = f" ± {100 * row['std']:.1f}" if row["std"] > 1e-12 else ""  # no seed changes raw pixels
        assert f"{100 * row['value']:.1f}{spread}" in knn
    assert f"| raw {100 * merged['knn', 'raw']['value']:.1f} |" in knn
    assert sorted(f.name for f in pictures.iterdir()) == ["toy_loss.png", "toy_pca.png"]
    assert main(["report", str(runs), "--readme", str(readme)]) == 0
    assert readme.read_text() == text  # twice is once
    readme.write_text("no markers")
    assert main(["report", str(runs), "--readme", str(readme)]) == 2
    assert readme.read_text() == "no markers"


def test_report_updates_the_lines_of_its_runs_alone(runs, tmp_path):
    main(["probe", str(runs)])
    old = [
        "| run | figure | seeds | trained | untrained | chance | test samples | 95 % of one run |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| other | knn accuracy | 3 | 1.0 ± 0.0 | - | 0.1 | 7 | ± 3.0 |",
        "| toy | long gone | 1 | 2.0 | - | - | 8 | - |",
        "| toy | knn accuracy | 1 | 2.0 | - | - | 8 | - |",
        "| third | knn accuracy | 1 | 3.0 | - | - | 9 | - |",
    ]
    readme = tmp_path / "README.md"
    readme.write_text("\n".join((BEGIN, *old, "", "A note.", END)) + "\n")
    for _ in range(2):  # twice is once
        assert main(["report", str(runs), "--readme", str(readme), "--update", "--brief"]) == 0
        lines = readme.read_text().splitlines()
        columns = "run | figure | seeds | trained | untrained | chance | beside it | test samples | 95 % of one run"
        assert lines[1] == f"| {columns} |"
        named = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("|")][2:]
        assert named == ["other", *["toy"] * named.count("toy"), "third"] and named.count("toy") >= 1
        assert "| other | knn accuracy | 3 | 1.0 ± 0.0 | - | 0.1 | - | 7 | ± 3.0 |" in lines
        assert "long gone" not in readme.read_text() and lines.count("A note.") == 1
    protocols = [line.split(" | ")[1].split()[0] for line in lines if line.startswith("| toy")]
    assert len(set(protocols)) == len(protocols)  # the headline of each


def test_eval_repeats_the_test_of_the_run(tmp_path, capsys):
    folder = tmp_path / "seed_4"
    test = {"batch_size": 16, "dataset": {"type": "TinyVectors", "size": 50}}
    cfg = tiny_config(epochs=2, test_dataloader=test, test_evaluator={"type": "TinyAccuracy"})
    from perception.config import save_config

    save_config(cfg, folder)
    train(cfg, folder, seed=4)
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    assert main(["eval", str(folder)]) == 0
    assert json.loads((folder / "metrics.json").read_text())["test"] == before["test"]

    # A checkpoint whose head was never trained: its test would be a random figure.
    file = max((folder / "checkpoints").glob("step_*.pth"))
    checkpoint = load_checkpoint(file)
    body = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("head")}
    save_checkpoint({**checkpoint, "state_dict": body}, tmp_path / "body.pth")
    assert main(["eval", str(folder), "--checkpoint", str(tmp_path / "body.pth")]) == 1
    assert "randomly initialised head" in capsys.readouterr().err


def test_eval_without_a_test_loop_points_to_the_probe(runs, capsys):
    assert main(["eval", str(runs / "seed_0")]) == 2
    assert "perception probe" in capsys.readouterr().err
