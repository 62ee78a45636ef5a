"""Configs: found, loaded without running code, overridden, hashed, saved and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception import config as module
from perception.config import (
    _parse,
    apply_overrides,
    config_differences,
    config_hash,
    find_config,
    list_configs,
    load_config,
    plain,
    run_for_seed,
    save_config,
    short_name,
)
from perception.errors import ConfigError

BASE = '''"""A base."""
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))
'''
CHILD = '''"""First line of the child.

More of it.
"""
from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_batch = 4 * 8
train_dataloader = dict(batch_size=_batch, dataset=dict(type="Toy", size=(2, 3)))
train_cfg.update(max_epochs=7)
custom_hooks = [dict(type="EMAHook"), dict(type="SyncBuffersHook")]
model = dict(type="Classifier", backbone=dict(type="ViT", depth=2))
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "configs"
    (root / "_base_").mkdir(parents=True)
    (root / "area").mkdir()
    (root / "_base_" / "runtime.py").write_text(BASE)
    (root / "area" / "child.py").write_text(CHILD)
    (root / "area" / "README.md").write_text("text")
    monkeypatch.setattr(module, "config_root", lambda: root)
    return root


def test_short_names_leave_out_bases(home: Path) -> None:
    assert list_configs() == ["area/child"]
    assert module.config_summary("area/child") == "First line of the child."


@pytest.mark.parametrize("name", ["area/child", "area/child.py", "configs/area/child.py", "FILE"])
def test_a_config_has_one_short_name(home: Path, name: str) -> None:
    name = str(home / "area" / "child.py") if name == "FILE" else name
    assert find_config(name) == home / "area" / "child.py"
    assert short_name(name) == "area/child"


def test_unknown_name_offers_the_nearest(home: Path) -> None:
    for wrong in ("area/chidl", "chld"):
        with pytest.raises(ConfigError, match="Did you mean 'area/child'"):
            find_config(wrong)


def test_bases_apply_and_local_names_are_dropped(home: Path) -> None:
    cfg = load_config("area/child")
    assert cfg.train_cfg == {"type": "EpochBasedTrainLoop", "max_epochs": 7}
    assert cfg.train_dataloader.batch_size == 32
    assert not [key for key in cfg.to_dict() if key.startswith("_") or key == "read_base"]


def test_imports_of_a_config_are_not_run(home: Path, tmp_path: Path) -> None:
    (home / "area" / "lazy.py").write_text("from no.such.place import Thing\nmodel = dict(type=Thing)\n")
    assert load_config("area/lazy").model.type == "no.such.place.Thing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\nmodel = dict(type='X'\n", r"bad\.py:2: .*never closed"),
        ("from mmengine.config import read_base\nwith read_base():\n    from .._base_.runtme import *\n", "bad.py:3"),
        ("from mmengine.config import read_base\nwith read_base():\n    from .._base_.runtme import *\n", "'runtime'"),
        ("a = 1\nmodel = dict(depth=missing)\n", r"bad\.py:2: NameError.*missing"),
        ("import math\n\nmodel = dict(depth=math.floor(2.5))\n", r"bad\.py:3: .*cannot be called"),
    ],
)
def test_faulty_files_are_reported_with_their_line(home: Path, text: str, said: str) -> None:
    (home / "area" / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config("area/bad")


def test_syntax_error_of_a_base_names_the_base(home: Path) -> None:
    (home / "_base_" / "runtime.py").write_text("x = = 1\n")
    with pytest.raises(ConfigError, match=r"runtime\.py:1"):
        load_config("area/child")


def test_bases_in_a_circle(home: Path) -> None:
    (home / "_base_" / "runtime.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from ..area.child import *\n"
    )
    with pytest.raises(ConfigError, match="circle"):
        load_config("area/child")


def test_overrides_parse_literals_and_reach_into_lists(home: Path) -> None:
    cfg = load_config(
        "area/child",
        [
            "optim_wrapper.optimizer.lr=1e-3",
            "custom_hooks.1.type=OtherHook",
            "train_dataloader.dataset.size.0=9",
            "train_dataloader.dataset.size.1={seed}",
            "train_cfg.max_epochs = 2",
            "model.backbone.depth=true",
            "experiment_name=run {seed}",
        ],
        seed=5,
    )
    assert cfg.optim_wrapper.optimizer.lr == 0.001
    assert cfg.custom_hooks[1].type == "OtherHook"
    assert list(cfg.train_dataloader.dataset["size"]) == [9, 5]
    assert cfg.train_cfg.max_epochs == 2
    assert cfg.model.backbone.depth is True
    assert cfg.experiment_name == "run 5"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[dict(type='EMAHook', decay=0.9)]", [{"type": "EMAHook", "decay": 0.9}]),
        ("dict(a=dict(b=[1, (2, 3)]))", {"a": {"b": [1, (2, 3)]}}),
        ("runs/{seed}", "runs/4"),
        ("{seed}/x", "4/x"),
        ("dictionary", "dictionary"),
        ("-1e-3", -0.001),
    ],
)
def test_dicts_may_be_written_as_in_configs(text: str, value: object) -> None:
    assert _parse(text, seed=4) == value


@pytest.mark.parametrize("text", ["[dict(type='EMAHook')", "{'a': 1", "[dict(**x)]", "dict(open('x'))", "(EMAHook)"])
def test_half_a_literal_is_not_taken_for_text(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"custom_hooks = .*: not a python literal"):
        load_config("area/child", [f"custom_hooks={text}"])


def test_all_unknown_overrides_are_reported_at_once(home: Path) -> None:
    wrong = ["optim_wrapper.optimzer.lr=1", "modle=3", "custom_hooks.2.type=X", "train_cfg.max_epochs.x=1", "nonsense"]
    with pytest.raises(ConfigError) as caught:
        load_config("area/child", wrong)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    assert "Did you mean 'optimizer'" in text
    assert "Did you mean 'model'" in text
    assert "has 2 items" in text
    assert "reads key.path=value" in text


def test_absent_but_legal_arguments_may_be_set(home: Path) -> None:
    cfg = load_config(
        "area/child",
        [
            "optim_wrapper.optimizer.momentum=0.9",
            "optim_wrapper.clip_grad.max_norm=1.0",
            "optim_wrapper.accumulative_counts=2",
            "model.backbone.init_from=runs/x",
            "train_dataloader.num_workers=2",
        ],
    )
    assert cfg.optim_wrapper.optimizer.momentum == 0.9
    assert cfg.optim_wrapper.clip_grad == {"max_norm": 1.0}
    assert cfg.model.backbone.init_from == "runs/x"
    with pytest.raises(ConfigError, match="Did you mean 'momentum'"):
        load_config("area/child", ["optim_wrapper.optimizer.momentun=0.9"])


def test_a_new_part_of_a_mapping_needs_a_type() -> None:
    cfg = {"model": {"type": "Pretrainer", "pretexts": {"mae": {"type": "MAE"}}}}
    apply_overrides(cfg, ["model.pretexts.second={'type': 'MAE', 'mask_ratio': 0.5}"])
    assert cfg["model"]["pretexts"]["second"]["mask_ratio"] == 0.5  # type: ignore[index]
    with pytest.raises(ConfigError, match="Did you mean 'mae'"):
        apply_overrides(cfg, ["model.pretexts.mea.mask_ratio=0.5"])


def test_saved_config_comes_back_without_running_code(home: Path, tmp_path: Path) -> None:
    cfg = load_config("area/child", ["optim_wrapper.optimizer.lr=0.5"])
    run = tmp_path / "run"
    save_config(cfg, run)
    (run / "config.py").write_text("raise SystemExit('config.py was run')")
    again = load_config(run)
    assert plain(again) == plain(cfg)
    assert config_hash(again) == config_hash(cfg)


def test_config_py_of_a_run_is_readable_python(home: Path, tmp_path: Path) -> None:
    cfg = load_config("area/child")
    save_config(cfg, tmp_path / "run")
    assert plain(load_config(tmp_path / "run" / "config.py")) == plain(cfg)


def test_hash_ignores_key_order_seed_and_place() -> None:
    one = {"model": {"a": 1, "b": (2, 3)}, "work_dir": "x", "randomness": {"seed": 1}}
    same = {"randomness": {"seed": 2}, "model": {"b": [2, 3], "a": 1}}
    assert config_hash(one) == config_hash(same)
    assert config_hash(one) != config_hash({"model": {"a": 1, "b": [2, 4]}})
    assert config_differences(one, {"model": {"a": 1, "b": [2, 4], "c": None}}) == {"model.b.1": (3, 4)}


def test_values_that_are_not_data_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.act = .*function.* is not data"):
        plain({"model": {"act": lambda x: x}})
    with pytest.raises(ConfigError, match="keys of a config are strings"):
        plain({"model": {1: 2}})


def test_damaged_json_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="not a run folder"):
        (tmp_path / "empty").mkdir()
        load_config(tmp_path / "empty")


def test_init_from_takes_the_folder_of_its_seed(home: Path, tmp_path: Path) -> None:
    parent = tmp_path / "pretrained"
    for seed in (0, 1, 10):
        (parent / f"seed_{seed}").mkdir(parents=True)
        (parent / f"seed_{seed}" / "config.json").write_text(json.dumps({}))
    sets = [f"model.backbone.init_from={parent}"]
    assert load_config("area/child", sets, seed=1).model.backbone.init_from == str(parent / "seed_1")
    assert load_config("area/child", sets).model.backbone.init_from == str(parent)
    with pytest.raises(ConfigError, match="holds seed_0, seed_1, seed_10 but not seed_3"):
        load_config("area/child", sets, seed=3)
    assert run_for_seed(parent / "seed_0", 3) == parent / "seed_0"
    explicit = load_config("area/child", [f"model.backbone.init_from={parent}/seed_{{seed}}"], seed=10)
    assert explicit.model.backbone.init_from == str(parent / "seed_10")


def test_the_only_seed_serves_every_seed(tmp_path: Path) -> None:
    (tmp_path / "seed_4").mkdir()
    assert run_for_seed(tmp_path, 0) == tmp_path / "seed_4"
