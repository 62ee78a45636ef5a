import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import ToyBackbone

from perception.checkpoint import save_checkpoint
from perception.errors import CheckpointError, ConfigError, PerceptionError
from perception.exporting import build_backbone, export_backbone, load_backbone, load_weights, weights_hash
from perception.registry import BACKBONES

WIDE = {"type": "ToyBackbone", "width": 6}


def make_run(folder: Path, cfg: dict = WIDE, seed: int = 0, **meta) -> ToyBackbone:
    """A run folder of one step, as the engine leaves it."""
    torch.manual_seed(100 + seed)
    backbone = build_backbone(cfg)
    backbone.norm.running_mean.normal_()
    config = {"model": {"type": "Pretrainer", "backbone": cfg}, "experiment_name": "toy"}
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    record = {"step": 7, "epoch": 1, "seed": seed, "config": json.dumps(config), "config_hash": "abc"}
    save_checkpoint(
        {
            "meta": {**record, "preprocess": backbone.preprocess.record(), **meta},
            "state_dict": {**state, "pretexts.mae.mask_token": torch.zeros(1, 6)},
        },
        folder / "checkpoints" / "step_00000007.pth",
    )
    (folder / "config.json").write_text(json.dumps(config))
    return backbone


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return weights_hash(one) == weights_hash(other)


def test_round_trip_is_exact(tmp_path):
    trained = make_run(tmp_path / "run" / "seed_0")
    (tmp_path / "run" / "seed_0" / "evaluation.json").write_text(
        json.dumps({"rows": [{"value": 0.5, "weights_hash": weights_hash(trained)}]})
    )
    record = export_backbone(tmp_path / "run" / "seed_0", tmp_path / "exports" / "x")
    assert sorted(f.name for f in (tmp_path / "exports" / "x").iterdir()) == ["backbone.json", "model.safetensors"]
    assert [f.name for f in (tmp_path / "exports").iterdir()] == ["x"]  # nothing temporary is left
    again = load_backbone(tmp_path / "exports" / "x")
    batch = {"toy": torch.randn(5, 4)}
    assert not again.training and same(trained, again)
    assert torch.equal(again.embed(batch), trained.embed(batch))
    assert again.preprocess == trained.preprocess
    assert record["type"] == "ToyBackbone" and record["config"] == WIDE and record["step"] == 7
    assert record["config_hash"] == "abc" and record["metric"]["evaluation"]["rows"][0]["value"] == 0.5
    assert record["weights_hash"] == weights_hash(trained)
    on_disk = json.loads((tmp_path / "exports" / "x" / "backbone.json").read_text())
    assert on_disk == json.loads(json.dumps(record))


def test_figures_of_other_weights_are_not_exported(tmp_path):
    run = tmp_path / "run" / "seed_0"
    make_run(run)
    (run / "evaluation.json").write_text(json.dumps({"rows": [{"value": 0.5, "weights_hash": "of other weights"}]}))
    (run / "metrics.json").write_text('{"accuracy": 0.7}')
    assert export_backbone(run, tmp_path / "last")["metric"] == {"metrics": {"accuracy": 0.7}}
    (run / "checkpoints" / "best.pth").write_bytes((run / "checkpoints" / "step_00000007.pth").read_bytes())
    assert export_backbone(run, tmp_path / "not_the_best")["metric"] == {}
    best = export_backbone(run / "checkpoints" / "best.pth", tmp_path / "best")
    assert best["metric"] == {"metrics": {"accuracy": 0.7}}


def test_every_source_can_be_loaded_and_started_from(tmp_path):
    trained = make_run(tmp_path / "run" / "seed_3", seed=3)
    export_backbone(tmp_path / "run", tmp_path / "x")
    file = tmp_path / "run" / "seed_3" / "checkpoints" / "step_00000007.pth"
    for source in (tmp_path / "run" / "seed_3", tmp_path / "run", file, tmp_path / "x"):
        assert same(trained, load_backbone(source)), source
        assert same(trained, build_backbone({**WIDE, "init_from": str(source)})), source
        assert same(trained, BACKBONES.build({**WIDE, "init_from": str(source)})), source


def test_init_from_a_parent_takes_the_run_of_the_current_seed(tmp_path):
    first, second = (make_run(tmp_path / f"seed_{s}", seed=s) for s in (0, 1))
    torch.manual_seed(1)
    assert same(second, build_backbone({**WIDE, "init_from": str(tmp_path)}))
    assert same(first, build_backbone({**WIDE, "init_from": str(tmp_path)}, seed=0))
    with pytest.raises(ConfigError, match="not seed_2"):
        build_backbone({**WIDE, "init_from": str(tmp_path)}, seed=2)


def test_what_was_loaded_is_said(tmp_path):
    make_run(tmp_path / "seed_0")
    text = load_weights(build_backbone(WIDE), tmp_path / "seed_0")
    assert "step_00000007.pth" in text and "step 7" in text and "7 tensors" in text


def test_averaged_weights_are_preferred(tmp_path):
    backbone = make_run(tmp_path / "seed_0")
    file = tmp_path / "seed_0" / "checkpoints" / "step_00000007.pth"
    checkpoint = torch.load(file, weights_only=True)
    average = torch.full_like(backbone.linear.weight, 0.25)
    save_checkpoint({**checkpoint, "ema": {"backbone.linear.weight": average}}, file)
    assert torch.equal(load_backbone(file).linear.weight, average)


def test_another_preprocess_record_is_an_error(tmp_path):
    make_run(tmp_path / "seed_0")
    other = {**WIDE, "preprocess": {"type": "ToyPreprocess", "scale": 2.0}}
    with pytest.raises(CheckpointError, match=r"scale: 1\.0 there, 2\.0 here"):
        build_backbone({**other, "init_from": str(tmp_path / "seed_0")})
    make_run(tmp_path / "seed_1", seed=1, preprocess={"type": "ToyPreprocess", "scale": 3.0})
    with pytest.raises(CheckpointError, match=r"scale: 3\.0 there"):
        load_backbone(tmp_path / "seed_1")


def test_another_architecture_is_listed(tmp_path):
    make_run(tmp_path / "seed_0")
    with pytest.raises(CheckpointError, match=r"linear\.weight: \(6, 4\) in the file, \(8, 4\) in the model"):
        build_backbone({"type": "ToyBackbone", "width": 8, "init_from": str(tmp_path / "seed_0")})
    file = tmp_path / "foreign.pth"
    save_checkpoint({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"(?s)missing from the file.*norm\.weight.*unknown.*conv\.weight"):
        build_backbone({**WIDE, "init_from": str(file)})


def test_weights_of_another_kind_are_named_instead_of_listed(tmp_path):
    network = {"type": "ConvNet", "widths": (4,), "strides": (2,)}
    convnet = build_backbone(network)
    state = {f"backbone.{k}": v for k, v in convnet.state_dict().items()}
    meta = {"config": json.dumps({"model": {"backbone": network}})}  # a record of images would be refused before
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "step_00000001.pth")
    with pytest.raises(CheckpointError) as caught:
        build_backbone({**WIDE, "init_from": str(tmp_path / "step_00000001.pth")})
    message = str(caught.value)
    assert "weights of a ConvNet" in message and "is a ToyBackbone" in message and "\n" not in message
    make_run(tmp_path / "seed_0")  # of one kind, the tensors that differ are listed as before
    with pytest.raises(CheckpointError, match=r"linear\.weight"):
        build_backbone({**WIDE, "width": 8, "init_from": str(tmp_path / "seed_0")})


def test_a_bare_state_dict_is_taken_with_a_word_about_its_record(tmp_path):
    torch.manual_seed(1)
    backbone = ToyBackbone(width=6)
    save_checkpoint(backbone.state_dict(), tmp_path / "bare.pth")
    fresh = build_backbone(WIDE)
    assert "no Preprocess record" in load_weights(fresh, tmp_path / "bare.pth")
    assert same(backbone, fresh)
    with pytest.raises(CheckpointError, match="does not hold the config"):
        load_backbone(tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="cannot be exported"):
        export_backbone(tmp_path / "bare.pth", tmp_path / "x")


def test_a_checkpoint_without_backbone_is_refused(tmp_path):
    save_checkpoint({"meta": {"step": 1}, "state_dict": {"head.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no keys under 'backbone\."):
        build_backbone({**WIDE, "init_from": str(tmp_path / "a.pth")})


def test_damage_to_an_export_is_noticed(tmp_path):
    make_run(tmp_path / "seed_0")
    make_run(tmp_path / "seed_1", seed=1)
    for seed in (0, 1):
        export_backbone(tmp_path / f"seed_{seed}", tmp_path / f"x{seed}")
    shutil.copy(tmp_path / "x1" / "model.safetensors", tmp_path / "x0" / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a pair"):
        load_backbone(tmp_path / "x0")
    weights = tmp_path / "x1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_backbone(tmp_path / "x1")
    (tmp_path / "x1" / "backbone.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable"):
        load_backbone(tmp_path / "x1")
    (tmp_path / "x1" / "backbone.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="format 99"):
        load_backbone(tmp_path / "x1")


def test_existing_folders_are_safe(tmp_path):
    make_run(tmp_path / "seed_0")
    second = make_run(tmp_path / "seed_1", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(PerceptionError, match="mine"):
            export_backbone(tmp_path / "seed_0", tmp_path / "mine", overwrite=overwrite)
    export_backbone(tmp_path / "seed_0", tmp_path / "x")
    with pytest.raises(PerceptionError, match="exists"):
        export_backbone(tmp_path / "seed_1", tmp_path / "x")
    export_backbone(tmp_path / "seed_1", tmp_path / "x", overwrite=True)
    assert same(second, load_backbone(tmp_path / "x"))


def test_init_from_is_not_part_of_an_export(tmp_path):
    make_run(tmp_path / "seed_0")
    make_run(tmp_path / "fine" / "seed_0", {**WIDE, "init_from": str(tmp_path / "seed_0")})
    shutil.rmtree(tmp_path / "seed_0")
    record = export_backbone(tmp_path / "fine", tmp_path / "x")
    assert "init_from" not in record["config"]
    load_backbone(tmp_path / "fine")


def test_wrong_configs_are_config_errors():
    with pytest.raises(ConfigError, match="Did you mean 'ToyBackbone'"):
        build_backbone({"type": "ToyBackbon"})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'widht'"):
        build_backbone({"type": "ToyBackbone", "widht": 3})


def test_missing_sources(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_backbone(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_backbone(tmp_path / "empty")


def test_hash_depends_on_names_types_shapes_and_values():
    base = {"a": torch.arange(4.0)}
    others = [{"b": base["a"]}, {"a": base["a"].double()}, {"a": base["a"].view(2, 2)}, {"a": base["a"] + 1}]
    assert len({weights_hash(s) for s in [base, *others]}) == 5
    assert weights_hash({"a": torch.tensor(3)}) == weights_hash({"a": torch.tensor(3)})


def test_plain_script_with_the_public_name():
    script = "import sys, perception\nassert 'torch' not in sys.modules\nassert callable(perception.load_backbone)"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


def test_public_weights_that_lie_deeper_are_pointed_out(tmp_path):
    torch.save({"model": {"norm.weight": torch.ones(4)}}, tmp_path / "public.pth")
    with pytest.raises(CheckpointError, match=r"only \['model'\]: tools/convert_weights"):
        load_backbone(tmp_path / "public.pth")
