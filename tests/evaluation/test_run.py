import copy
import json
import random

import numpy as np
import pytest
import torch
from toy import ToyBackbone, ToyDataset

from perception.config import load_config
from perception.errors import ConfigError, PerceptionError
from perception.evaluation.features import build_dataset, cached_features, extract
from perception.evaluation.protocol import EvaluationError
from perception.evaluation.results import aggregate_rows, format_value
from perception.evaluation.run import evaluate, evaluate_run, pick_protocols, untrained_backbone

SECTION = {
    "train": {"type": "ToyDataset", "split": "train", "size": 90},
    "val": {"type": "ToyDataset", "split": "val", "size": 45},
    "test": {"type": "ToyDataset", "split": "test", "size": 60},
    "all": {"type": "ToyDataset", "split": "all", "size": 90},
    "protocols": {
        "linear": {"type": "LinearLBFGS"},
        "knn": {"type": "KNN", "k": 5},
        "adam": {"type": "LinearAdam", "epochs": 20},
        "sgd": {"type": "LinearSGD", "recipe": "barlow", "epochs": 5},
        "low_shot": {"type": "LowShot", "per_class": [2, 5]},
        "svm": {"type": "SVMCrossValidation"},
        "anomaly": {"type": "Anomaly"},
    },
}


def test_nothing_of_the_backbone_or_of_the_random_state_changes():
    backbone, untrained = ToyBackbone(), ToyBackbone()
    backbone.train()
    backbone.norm.eval()
    before = copy.deepcopy(backbone.state_dict())
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    evaluate(backbone, SECTION, 0, untrained)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert backbone.training and backbone.drop.training and not backbone.norm.training
    assert all(p.requires_grad and p.grad is None for p in backbone.parameters())
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))


def test_every_protocol_on_every_source():
    rows = evaluate(ToyBackbone(), SECTION, 3, ToyBackbone())
    figures = {(row["protocol"], row["variant"]) for row in rows}
    assert len(figures) == 8 and len(rows) == 8 * 3
    assert {row["source"] for row in rows} == {"trained", "untrained", "raw"}
    assert all(row["seed"] == 3 for row in rows)
    row = next(r for r in rows if r["protocol"] == "knn" and r["source"] == "trained")
    assert row["n"] == 60 and row["dims"] == 8 and row["sizes"] == {"train": 90, "val": 45, "test": 60, "all": 90}
    assert row["ci95"][0] <= row["value"] <= row["ci95"][1]
    assert next(r for r in rows if r["source"] == "raw")["dims"] == 4
    json.dumps(rows)


def _same(seed: int = 0) -> ToyBackbone:
    torch.manual_seed(seed)
    return ToyBackbone()


def test_reproducible_and_independent_of_batch_size_and_cache(tmp_path):
    first = evaluate(_same(), SECTION, 0)
    assert first == evaluate(_same(), SECTION, 0)
    assert [r["value"] for r in first] == [r["value"] for r in evaluate(_same(), {**SECTION, "batch_size": 7}, 0)]
    cold = evaluate(_same(), SECTION, 0, cache=tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 4
    stamps = [f.stat().st_mtime_ns for f in files]
    warm = evaluate(_same(), SECTION, 0, cache=tmp_path)
    assert first == cold == warm
    assert stamps == [f.stat().st_mtime_ns for f in sorted(tmp_path.glob("*.npz"))]
    evaluate(_same(1), SECTION, 0, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 8  # other weights, other entries


def test_cache_knows_data_feature_and_preprocess(tmp_path):
    backbone = _same()
    data = ToyDataset(size=20)
    cached_features(backbone, data, tmp_path, {})
    cached_features(backbone, data, tmp_path, {}, feature="double")
    cached_features(backbone, ToyDataset(size=20, spread=0.4), tmp_path, {})
    other = _same()
    other.preprocess = type(other.preprocess)(scale=2.0)
    cached_features(other, data, tmp_path, {})
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_unlabelled_rows_are_left_out_and_counted():
    found = extract(_same(), ToyDataset(size=30, unlabelled=7), batch_size=4)["backbone"]
    assert len(found) == 23 and found.unlabelled == 7 and found.index.tolist() == list(range(7, 30))
    rows = evaluate(_same(), {**SECTION, "test": ToyDataset("test", 60, unlabelled=10)}, 0)
    assert {row["unlabelled"] for row in rows} == {10} and rows[0]["n"] == 50


class NodeDataset:
    """One item that is everything, with a mask, as node-level graphs give it."""

    full_batch = True

    def __len__(self) -> int:
        return 1

    def __getitems__(self, keys):
        mask = torch.tensor([True, False, True, True, False])
        return {"toy": torch.arange(20.0).reshape(5, 4), "label": torch.tensor([0, 1, -1, 2, 0]), "mask": mask}


def test_only_rows_of_the_mask_count():
    backbone = _same()
    found = extract(backbone, NodeDataset(), baselines=True)
    assert found["backbone"].index.tolist() == [0, 3] and found["backbone"].y.tolist() == [0, 2]
    assert found["backbone"].unlabelled == 1
    assert found["raw"].x.tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    whole = backbone.embed({"toy": torch.arange(20.0).reshape(5, 4)})
    assert torch.equal(found["backbone"].x, whole[[0, 3]])


def test_feature_choice():
    data = ToyDataset(size=10)
    plain, double = (extract(_same(), data, f)["backbone"].x for f in (None, "double"))
    torch.testing.assert_close(double, 2 * plain)
    with pytest.raises(EvaluationError, match="no feature 'cls'; there are pooled, double"):
        extract(_same(), data, "cls")


def test_augmented_evaluation_data_are_refused():
    data = ToyDataset(size=10)
    data.transform.transforms.append(lambda batch, random: batch)
    with pytest.raises(EvaluationError, match="not augmented"):
        build_dataset(data)


def test_features_that_are_not_finite_are_named():
    data = ToyDataset(size=10)
    data.x[6] = np.nan
    with pytest.raises(EvaluationError, match="sample 6 are not finite"):
        extract(_same(), data)


class Leaky(ToyBackbone):
    """Changes a buffer although it is in eval mode."""

    def encode(self, batch, feature=None):
        self.norm.running_mean += 1
        return super().encode(batch, feature)


def test_a_backbone_that_changes_itself_is_caught():
    with pytest.raises(PerceptionError, match="changed its weights or buffers"):
        evaluate(Leaky(), SECTION, 0)


def test_missing_parts_are_named():
    with pytest.raises(EvaluationError, match="names no data"):
        evaluate(_same(), {"protocols": SECTION["protocols"]}, 0)
    with pytest.raises(EvaluationError, match="no protocols"):
        evaluate(_same(), {**SECTION, "protocols": {}}, 0)
    with pytest.raises(ConfigError, match="Did you mean 'LowShot'"):
        pick_protocols(SECTION, ["lowshot"])
    assert pick_protocols(SECTION, ["linear", "Anomaly"])["protocols"] == {
        "linear": {"type": "LinearLBFGS"},
        "Anomaly": {"type": "Anomaly"},
    }


def toy_config(tmp_path, **section):
    cfg = {
        "model": {"type": "Pretrainer", "backbone": {"type": "ToyBackbone", "width": 6}, "pretexts": {}},
        "evaluation": {**SECTION, "protocols": {"knn": {"type": "KNN", "k": 3}}, **section},
    }
    file = tmp_path / "toy.json"
    file.write_text(json.dumps(cfg))
    return load_config(file)


def test_evaluate_run_writes_what_it_gives(tmp_path, capsys):
    cfg = toy_config(tmp_path)
    torch.manual_seed(5)
    backbone = ToyBackbone(width=6)
    rows = evaluate_run(cfg, backbone, 5, tmp_path)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["rows"] == rows and len(written["config_hash"]) == 12
    trained, untrained = (next(r for r in rows if r["source"] == s) for s in ("trained", "untrained"))
    # Seeded alike and not trained: the twin is the backbone.
    assert trained["weights_hash"] == untrained["weights_hash"] and trained["value"] == untrained["value"]
    assert "knn accuracy" in capsys.readouterr().out
    assert not torch.equal(untrained_backbone(cfg["model"], 6).linear.weight, backbone.linear.weight)


def test_aggregation_over_seeds():
    runs = []
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        row = {"protocol": "knn", "variant": "", "source": "trained", "metric": "accuracy", "n": 10, "dims": 2}
        runs.append([{**row, "sizes": {}, "seed": seed, "value": value, "extras": {"early_stopping": value + 0.1}}])
    merged = aggregate_rows(runs)
    assert len(merged) == 1 and merged[0]["value"] == pytest.approx(0.6) and merged[0]["std"] == pytest.approx(0.1)
    assert merged[0]["values"] == {"0": 0.5, "1": 0.6, "2": 0.7}
    assert merged[0]["extras"]["early_stopping"]["mean"] == pytest.approx(0.7)
    assert format_value(merged[0]) == "60.0 ± 10.0"
    assert merged[0]["ci95"][0] == pytest.approx(0.6 - 4.302653 * 0.1 / 3**0.5, abs=1e-5)
