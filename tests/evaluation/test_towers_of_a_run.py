"""A dual encoder from its config to the tables: validation, training with an online probe, probe, report."""

import json

import pytest
from tiny import tiny_config
from toy_towers import Colours

from perception.cli import main
from perception.cli.report import BEGIN, END
from perception.engine.api import train
from perception.errors import ConfigError
from perception.validation import validate_config

SETS = {split: {"type": "Colours", "split": split} for split in ("train", "val", "test")}
PROTOCOLS = {
    "knn": {"type": "KNN", "k": 3},
    "retrieval": {"type": "Retrieval"},
    "zero_shot": {"type": "ZeroShot", "prompts": ["a photo of {}."]},
}


def config(**changes):
    backbone = changes.pop("backbone", {"type": "ColourTowers", "width": 3})
    hooks = changes.pop("hooks", [])
    return tiny_config(
        epochs=4,
        model={"type": "Pretrainer", "backbone": backbone, "pretexts": {"agree": {"type": "Agree"}}},
        train_dataloader={"batch_size": 8, "num_workers": 0, "dataset": SETS["train"]},
        evaluation={**SETS, "protocols": PROTOCOLS, **changes},
        custom_hooks=hooks,
    )


def faults(cfg) -> list[str]:
    return [str(fault) for fault in validate_config(cfg)]


def rows(file) -> list[dict]:
    return json.loads(file.read_text())["rows"]


def test_faults_that_would_show_after_all_the_training():
    assert faults(config()) == []
    (text,) = faults(config(backbone={"type": "ColourImages"}, protocols={"r": {"type": "Retrieval"}}))
    assert text.startswith("evaluation.protocols.r = 'Retrieval': Retrieval judges an image and a text tower, but")
    assert "ColourImages has no text tower" in text
    (text,) = faults(config(backbone={"type": "ColourTowers", "preprocess": {"type": "WordlessPreprocess"}},
                            protocols={"z": {"type": "ZeroShot"}}))  # fmt: skip
    assert text.startswith("model.backbone.preprocess = 'WordlessPreprocess'") and "ImageTextPreprocess has one" in text
    alone = {"type": "ColoursAlone"}
    (text,) = faults(config(test=alone))
    assert text.startswith("evaluation.test = 'ColoursAlone': the protocol 'retrieval' reads captions")
    own = {"r": {"type": "Retrieval", "dataset": alone}}
    (text,) = faults(config(protocols=own))
    assert text.startswith("evaluation.protocols.r.dataset = 'ColoursAlone'")
    own["r"]["dataset"] = SETS["val"]
    assert faults(config(protocols=own, test=None)) == []  # it brings its own data
    (text,) = faults(config(protocols={"r": {"type": "Retrieval"}}, test=None))
    assert text.startswith("evaluation.test = None: the protocol 'r' needs this data set")
    found = faults(config(protocols={"r": {"type": "Retrieval", "rules": "remote-clip", "tile": 0, "ks": [0]}}))
    assert [text.split(" = ")[0].rsplit(".", 1)[-1] for text in found] == ["rules", "ks", "tile"]
    assert "nearest is 'remoteclip'" in found[0]
    found = faults(config(protocols={"z": {"type": "ZeroShot", "prompts": "clip-rsic", "dataset": {"type": "Colour"}}}))
    assert any("nearest is 'clip-rsicd'" in text or "Did you mean 'Colours'" in text for text in found)


def test_online_probes_are_checked_too():
    hook = {"type": "OnlineProbe", "interval": 1, "protocol": {"type": "Retrieval"}}
    assert faults(config(hooks=[hook])) == []
    (text,) = faults(config(hooks=[hook], backbone={"type": "ColourImages"}, protocols={"knn": PROTOCOLS["knn"]}))
    assert text.startswith("custom_hooks.0.protocol") and "no text tower" in text
    (text,) = faults(config(hooks=[hook], val={"type": "ColoursAlone"}))
    assert text.startswith("evaluation.val = 'ColoursAlone'") and "reads captions" in text


def logged(folder, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


def test_a_run_with_an_online_probe(tmp_path, capsys):
    hooks = [
        {"type": "OnlineProbe", "interval": 2, "protocol": {"type": "Retrieval"}, "max_samples": 12},
        {"type": "OnlineProbe", "interval": 4, "protocol": PROTOCOLS["zero_shot"], "name": "zero"},
    ]
    plain, probed = tmp_path / "plain" / "seed_1", tmp_path / "probed" / "seed_1"
    train(config(), plain, 1)
    capsys.readouterr()
    summary = train(config(hooks=hooks), probed, 1)
    assert logged(plain, "loss") == logged(probed, "loss")  # training does not notice
    steps = [step for step, _ in logged(probed, "probe/retrieval")]
    assert steps == [6, 12] and [step for step, _ in logged(probed, "probe/retrieval/t2i_R@5")] == steps
    assert [step for step, _ in logged(probed, "probe/zero")] == [12]
    assert summary["sources"] == ["Colours of the World"]
    out = capsys.readouterr().out
    assert "note: Colours test: trained on the same corpus (Colours of the World)" in out
    found = rows(probed / "evaluation.json")
    assert found == summary["evaluation"]
    assert {row["source"] for row in found} == {"trained", "untrained", "raw", "chance", "ceiling"}
    pictures = sorted(file.name for file in (probed / "pictures").iterdir())
    assert pictures == ["retrieval_sheet.png", "zero_shot_confusion.png"]
    before = [row for row in found if row["source"] == "trained"]
    assert main(["probe", str(probed)]) == 0  # from the stored weights: the same figures and notes
    again = [row for row in rows(probed / "evaluation.json") if row["source"] == "trained"]
    assert [(r["value"], r["notes"]) for r in before] == [(r["value"], r["notes"]) for r in again]


def test_seeds_report_and_readme(tmp_path, capsys):
    folder = tmp_path / "runs" / "colours"
    for seed in (0, 1):
        train(config(), folder / f"seed_{seed}", seed)
    assert main(["probe", str(folder)]) == 0
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main(["report", str(folder), "--readme", str(readme), "--pictures", str(tmp_path / "pictures")]) == 0
    lines = {line.split(" | ")[1]: line for line in readme.read_text().splitlines() if line.startswith("| colours")}
    head = readme.read_text().splitlines()[1]
    assert "| trained | untrained | beside it |" in head
    merged = {(r["protocol"], r["metric"], r["source"]): r for r in rows(folder / "evaluation.json")}
    trained, chance = (merged["retrieval", "mean recall", source] for source in ("trained", "chance"))
    line = lines["retrieval Colours test mean recall"]
    assert f"{100 * trained['value']:.2f} ± {100 * trained['std']:.2f}" in line
    assert f"chance {100 * chance['value']:.2f}, ceiling" in line and line.endswith(
        "| 24 | - |"
    )  # no interval for a mean
    assert "| ± " in lines["zero_shot Colours test accuracy"]
    assert len((tmp_path / "pictures").glob("*_pca.png").__next__().read_bytes()) > 1000
    capsys.readouterr()
    assert main(["probe", str(folder / "seed_0"), "--protocols", "ZeroShot"]) == 0
    assert {r["settings"]["prompts"] for r in rows(folder / "seed_0" / "probe.json")} == {"remoteclip"}


def test_an_export_has_both_towers(tmp_path):
    train(config(), tmp_path / "run" / "seed_0", 0)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "export")]) == 0
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads((tmp_path / "run" / "seed_0" / "config.json").read_text())))
    out = tmp_path / "out.json"
    assert main(["probe", str(tmp_path / "export"), "--config", str(file), "--out", str(out)]) == 0
    values = [
        {(r["protocol"], r["metric"]): r["value"] for r in rows(f) if r["source"] == "trained"}
        for f in (tmp_path / "run" / "seed_0" / "evaluation.json", out)
    ]
    assert values[0] == values[1] and ("retrieval", "t2i R@10") in values[0]


def test_a_damaged_summary_is_named(tmp_path):
    from perception.errors import PerceptionError
    from perception.evaluation.overlap import all_sources, recorded_sources

    (tmp_path / "summary.json").write_text('{"sources": ["A", "B"]}')
    assert all_sources(Colours(sources=("B", "C")), {"init_from": str(tmp_path)}, 0) == ["B", "C", "A"]
    assert recorded_sources(tmp_path / "nowhere") == ()
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(PerceptionError, match=r"summary\.json is damaged"):
        recorded_sources(tmp_path)


def test_online_needs_a_validation_split(tmp_path):
    from perception.engine.api import build_runner

    hook = {"type": "OnlineProbe", "interval": 1, "protocol": {"type": "Retrieval"}}
    with pytest.raises(ConfigError, match=r"OnlineProbe needs evaluation\.val"):
        build_runner(config(hooks=[hook], val=None, train=None, protocols={}), tmp_path, seed=0).train()
