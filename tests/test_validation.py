"""All faults in one report; shipped configs have none."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import pytest

from perception.config import list_configs, load_config
from perception.errors import ConfigError, DataError
from perception.registry import BACKBONES, DATASETS, METRICS, PRETEXTS, PROTOCOLS
from perception.signatures import mismatch, signature_of
from perception.validation import registry_at, require_valid, validate_config


class DummyBackbone:
    """Takes what validation has to judge."""

    def __init__(
        self,
        width: int,
        rate: float = 0.1,
        heads: int = 2,
        pool: Literal["mean", "token"] = "mean",
        sizes: tuple[int, int] | int = 32,
        name: str | None = None,
        bias: bool = True,
    ) -> None:
        raise AssertionError("validation builds nothing")

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["width"] % cfg["heads"]:
            yield "heads", f"does not divide width = {cfg['width']}"

    @classmethod
    def feature_choices(cls) -> tuple[str, ...]:
        return ("pooled", "block-k")

    @classmethod
    def has_feature(cls, name: str) -> bool:
        return name in ("pooled", "block-0")


class DummyPretext:
    def __init__(self, ratio: float = 0.75, **kwargs: Any) -> None: ...

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if not 0 < cfg["ratio"] < 1:
            yield "ratio", "must lie in (0, 1)"


class DummyDataset:
    def __init__(self, split: Literal["train", "test"], transforms: Sequence[Any] = (), seed: int = 0) -> None: ...

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        if cfg["split"] == "test":
            raise DataError("file 'test.npz' does not exist")
        return ()


class DummyProtocol:
    def __init__(self, k: int = 20) -> None: ...


class DummyMetric:
    def __init__(self, topk: int = 1) -> None: ...


@pytest.fixture(autouse=True)
def dummies() -> Iterator[None]:
    pairs = [
        (BACKBONES, DummyBackbone),
        (PRETEXTS, DummyPretext),
        (DATASETS, DummyDataset),
        (PROTOCOLS, DummyProtocol),
        (METRICS, DummyMetric),
    ]
    for registry, cls in pairs:
        registry.register_module(module=cls, force=True)
    yield
    for registry, cls in pairs:
        registry._module_dict.pop(cls.__name__)


GOOD: dict[str, Any] = {
    "model": {
        "type": "Pretrainer",
        "backbone": {"type": "DummyBackbone", "width": 8},
        "pretexts": {"mae": {"type": "DummyPretext"}},
    },
    "train_dataloader": {"batch_size": 4, "num_workers": 0, "dataset": {"type": "DummyDataset", "split": "train"}},
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3},
    "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 1e-3, "betas": (0.9, 0.95)}, "clip_grad": {"max_norm": 1}},
    "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": 3, "by_epoch": True}],
    "default_hooks": {"timer": {"type": "IterTimerHook", "priority": "NORMAL"}, "logger": None},
    "custom_hooks": [{"type": "SyncBuffersHook"}],
    "evaluation": {
        "train": {"type": "DummyDataset", "split": "train"},
        "protocols": {"knn": {"type": "DummyProtocol", "k": 5}},
    },
    "val_evaluator": {"type": "DummyMetric"},
    "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}},
    "randomness": {"deterministic": True},
}


def faults_with(**changes: Any) -> dict[str, str]:
    """Faults by path of the good config after setting ``a__b=value``; a value of DELETE removes the key."""
    cfg = copy.deepcopy(GOOD)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node: Any = cfg
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        if value is DELETE:
            del node[last]
        else:
            node[last] = value
    return {fault.path: str(fault) for fault in validate_config(cfg)}


DELETE = object()


def test_a_good_config_has_no_faults() -> None:
    assert faults_with() == {}
    require_valid(GOOD)


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"modle": {}}, "modle", "Did you mean 'model'"),
        ({"train_cfg": DELETE}, "train_cfg", "needs this top-level key"),
        ({"model__type": "Pretrianer"}, "model.type", "no model .* Did you mean 'Pretrainer'"),
        ({"model__backbone__type": "DumyBackbone"}, "model.backbone.type", "Did you mean 'DummyBackbone'"),
        ({"model__pretexts__mae__type": "DummyPretxt"}, "model.pretexts.mae.type", "Did you mean 'DummyPretext'"),
        ({"model__backbone__with": 3}, "model.backbone.with", "no argument 'with'. Did you mean 'width'"),
        ({"model__backbone__width": DELETE}, "model.backbone.width", "needs this argument"),
        ({"model__backbone__width": "8"}, "model.backbone.width", "expects int"),
        ({"model__backbone__width": 8.0}, "model.backbone.width", "expects int"),
        ({"model__backbone__bias": 1}, "model.backbone.bias", "expects bool"),
        ({"model__backbone__rate": True}, "model.backbone.rate", "expects float"),
        ({"model__backbone__pool": "maen"}, "model.backbone.pool", "'mean' or 'token'.*Did you mean 'mean'"),
        ({"model__backbone__sizes": (1, 2, 3)}, "model.backbone.sizes", r"tuple\[int, int\] \| int"),
        ({"model__backbone__heads": 3}, "model.backbone.heads", "does not divide width = 8"),
        ({"model__backbone": {"width": 3}}, "model.backbone", "needs the key 'type'"),
        ({"model__pretexts__mae__ratio": 1.5}, "model.pretexts.mae.ratio", r"must lie in \(0, 1\)"),
        ({"model__backbone__init_from": "no/run"}, "model.backbone.init_from", "no such file or folder"),
        ({"load_from": "no.pth"}, "load_from", "no such file or folder"),
        ({"train_dataloader__batchsize": 3}, "train_dataloader.batchsize", "Did you mean 'batch_size'"),
        ({"train_dataloader__dataset": DELETE}, "train_dataloader.dataset", "needs this"),
        ({"train_dataloader__dataset": "Dummy"}, "train_dataloader.dataset", "expects dict"),
        ({"train_dataloader__batch_size": 0}, "train_dataloader.batch_size", "at least 1"),
        ({"train_dataloader__batch_size": "abc"}, "train_dataloader.batch_size", "expects int"),
        ({"train_dataloader__batch_size": 2.5}, "train_dataloader.batch_size", "expects int"),
        ({"train_dataloader__num_workers": -1}, "train_dataloader.num_workers", "at least 0"),
        ({"train_dataloader__drop_last": 3}, "train_dataloader.drop_last", "expects bool"),
        ({"train_dataloader__sampler": "x"}, "train_dataloader.sampler", "expects dict"),
        ({"train_dataloader__worker_init_fn": "f"}, "train_dataloader.worker_init_fn", "no argument"),
        ({"model__backbone": "DummyBackbone"}, "model.backbone", "the dict of a backbone belongs here"),
        ({"model__pretexts": {}}, "model.pretexts", "at least one pretext"),
        ({"optim_wrapper__optimizer__lr": None}, "optim_wrapper.optimizer.lr", "expects float"),
        ({"optim_wrapper__optimizer__lr": -1.0}, "optim_wrapper.optimizer.lr", "must not be negative"),
        ({"custom_hooks": "EMAHook"}, "custom_hooks", "a list of hooks"),
        ({"custom_hooks": {"type": "EMAHook"}}, "custom_hooks", "a list of hooks"),
        ({"custom_hooks": ["EMAHook"]}, "custom_hooks.0", "the dict of a hook belongs here"),
        ({"default_hooks": 3}, "default_hooks", "a mapping of names to hooks"),
        (
            {"custom_hooks": [{"type": "OnlineProbe", "protocol": {"type": "DumyProtocol"}}]},
            "custom_hooks.0.protocol.type",
            "Did you mean 'DummyProtocol'",
        ),
        ({"evaluation__train": "DummyDataset"}, "evaluation.train", "expects dict"),
        ({"evaluation__batch_size": 0}, "evaluation.batch_size", "at least 1"),
        ({"evaluation__device": "gpu"}, "evaluation.device", "not a device"),
        ({"evaluation__feature": "poold"}, "evaluation.feature", "Did you mean 'pooled'"),
        ({"evaluation__protocols": "knn"}, "evaluation.protocols", "expects dict"),
        ({"evaluation__protocols": {}}, "evaluation.protocols", "at least one protocol"),
        ({"evaluation__protocols__knn": {"type": "KNN"}}, "evaluation.test", "the protocol 'knn' needs this data set"),
        ({"train_dataloader__dataset__split": "val"}, "train_dataloader.dataset.split", "'train' or 'test'"),
        ({"train_dataloader__dataset__split": "test"}, "train_dataloader.dataset", "'test.npz' does not exist"),
        (
            {"train_dataloader__dataset__transforms": [{"type": "NoFlip"}]},
            "train_dataloader.dataset.transforms.0.type",
            "no transform of that name",
        ),
        ({"train_dataloader__sampler": {"type": "DefaultSamler"}}, "train_dataloader.sampler.type", "'DefaultSampler'"),
        ({"train_cfg__max_epoch": 3}, "train_cfg.max_epoch", "Did you mean 'max_epochs'"),
        ({"optim_wrapper__optimizer__type": "AdmaW"}, "optim_wrapper.optimizer.type", "Did you mean 'AdamW'"),
        ({"optim_wrapper__optimizer__wd": 1}, "optim_wrapper.optimizer.wd", "takes no argument 'wd'"),
        ({"optim_wrapper__optimizer": DELETE}, "optim_wrapper.optimizer", "needs this key"),
        ({"optim_wrapper__constructor": "Layers"}, "optim_wrapper.constructor", "no optimizer wrapper constructor"),
        ({"param_scheduler__0__Tmax": 3}, "param_scheduler.0.Tmax", "Did you mean 'T_max'"),
        ({"default_hooks__timer__type": "IterTimer"}, "default_hooks.timer.type", "Did you mean 'IterTimerHook'"),
        ({"custom_hooks__0__x": 1}, "custom_hooks.0.x", "SyncBuffersHook takes no argument"),
        ({"evaluation__protocols__knn__n": 1}, "evaluation.protocols.knn.n", "DummyProtocol takes no argument"),
        ({"evaluation__protocols__knn__type": "DumyProtocol"}, "evaluation.protocols.knn.type", "'DummyProtocol'"),
        ({"evaluation__train__split": "x"}, "evaluation.train.split", "DummyDataset expects"),
        ({"evaluation__protocol": {}}, "evaluation.protocol", "Did you mean 'protocols'"),
        ({"val_evaluator__top": 1}, "val_evaluator.top", "Did you mean 'topk'"),
        ({"randomness__seed": 1}, "randomness.seed", "given by --seed"),
        ({"randomness__deterministc": 1}, "randomness.deterministc", "Did you mean 'deterministic'"),
        ({"model__balance": {"type": "Sums"}}, "model.balance.type", "Did you mean 'Sum'"),
        ({"work_dir": "here"}, "work_dir", "the run folder is given by --out"),
        ({"model": 3}, "model", "a dict belongs here"),
    ],
)
def test_every_fault_names_its_path(changes: dict[str, Any], path: str, said: str) -> None:
    import re

    found = faults_with(**changes)
    assert path in found, found
    assert re.search(said, found[path]), found[path]
    assert len(found) == 1, found


def test_a_fault_of_a_shared_check_gets_its_place() -> None:
    cfg = load_config("image/mae_vit-tiny_digits", ["train_dataloader.dataset.split=trian"])
    (fault,) = validate_config(cfg)
    assert (fault.path, fault.nearest[0]) == ("train_dataloader.dataset.split", "train")


def test_all_faults_come_in_one_report() -> None:
    changes = {
        "model__backbone__width": "x",
        "optim_wrapper__optimizer__type": "AdmaW",
        "train_dataloader__batchsize": 2,
        "model__pretexts__mae__ratio": 0,
        "zzz": 1,
    }
    assert len(faults_with(**changes)) == 5
    with pytest.raises(ConfigError, match="my config: 1 fault\n"):
        require_valid({**copy.deepcopy(GOOD), "zzz": 1}, "my config")


def test_open_signatures_accept_any_keyword() -> None:
    assert faults_with(model__pretexts__mae__anything=3) == {}


def test_what_lies_in_a_member_is_not_a_member() -> None:
    probe = {"type": "OnlineProbe", "protocol": {"type": "DummyProtocol"}}
    blur = {"type": "Albumentations", "operations": [{"name": "GaussianBlur", "p": 0.5}]}
    assert faults_with(custom_hooks=[probe], train_dataloader__dataset__transforms=[blur]) == {}


def test_runner_settings_are_legal() -> None:
    assert faults_with(env_cfg={"find_unused_parameters": True}) == {}


def test_balance_by_weights_needs_no_type() -> None:
    assert faults_with(model__balance={"loss": 2.0}) == {}


def test_dotted_names_stand_for_themselves() -> None:
    assert faults_with(optim_wrapper__optimizer__type="torch.optim.AdamW") == {}
    found = faults_with(optim_wrapper__optimizer__type="torch.optim.AdmaW")
    assert "Did you mean 'AdamW'" in found["optim_wrapper.optimizer.type"]


def test_nested_defaults_reach_the_outer_check() -> None:
    seen: list[dict[str, Any]] = []

    class Outer:
        def __init__(self, backbone: dict[str, Any], flag: bool = False) -> None: ...

        @classmethod
        def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
            seen.append(cfg)
            yield "backbone.heads", "too few"

    cfg = {**copy.deepcopy(GOOD), "model": {"type": Outer, "backbone": {"type": "DummyBackbone", "width": 8}}}
    from perception.registry import MODELS

    MODELS.register_module(name="OuterDummy", module=Outer, force=True)
    cfg["model"]["type"] = "OuterDummy"
    try:
        (fault,) = validate_config(cfg)
    finally:
        MODELS._module_dict.pop("OuterDummy")
    assert (fault.path, fault.value) == ("model.backbone.heads", 2)
    assert seen[0]["flag"] is False
    assert seen[0]["backbone"]["pool"] == "mean"


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        ("1", float, False),
        (None, int | None, True),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        ([[1, 2.5]], list[tuple[int, float]], True),
        ({"a": 1}, dict[str, float], True),
        ({"a": "b"}, dict[str, float], False),
        ({"type": "X"}, Any, True),
        ("b", Literal["a", "b"], True),
        ("c", Literal["a", "b"] | None, False),
        ({"type": "X"}, DummyMetric, True),
        (3, DummyMetric, False),
        ("x", Sequence[int], False),
    ],
)
def test_annotations_are_held_against_data(value: Any, hint: Any, fits: bool) -> None:
    assert (mismatch(value, hint) is None) is fits


def test_keywords_are_followed_through_the_bases() -> None:
    class Base:
        def __init__(self, size: int, seed: int = 0) -> None: ...

    class Child(Base):
        def __init__(self, name: str, **kwargs: Any) -> None: ...

    signature = signature_of(Child)
    assert list(signature.arguments) == ["name", "size", "seed"]
    assert not signature.open
    assert signature.arguments["name"].required
    assert not signature.arguments["size"].required  # Child may pass it itself


def test_data_sets_need_not_be_asked() -> None:
    cfg = copy.deepcopy(GOOD)
    cfg["train_dataloader"]["dataset"]["split"] = "test"  # of which the file is missing
    assert len(validate_config(cfg)) == 1
    assert validate_config(cfg, data_sets=False) == []
    cfg["train_dataloader"]["dataset"]["split"] = "tset"  # the signature is judged all the same
    assert len(validate_config(cfg, data_sets=False)) == 1


@pytest.mark.parametrize("name", list_configs())
def test_shipped_configs_have_no_faults(name: str) -> None:
    cfg = load_config(name, seed=0)
    # A run that is to be made first, and data that is not on this machine, are not the config's fault.
    faults = [f for f in validate_config(cfg, data_sets=False) if not f.path.endswith("init_from")]
    assert not faults, "\n".join(map(str, faults))
    absent = ("does not exist", "no data folder", "No such file or directory", "pip install", "set download=True")
    faults = [f for f in validate_config(cfg) if not any(text in f.message for text in absent)]
    faults = [f for f in faults if not f.path.endswith("init_from")]
    assert not faults, "\n".join(map(str, faults))


def test_lidar_and_camera_are_backbones_within_a_backbone_only():
    """A fusion has branches of these names; a data set has switches."""
    assert registry_at(("model", "backbone", "lidar")) is BACKBONES
    assert registry_at(("model", "towers", "scene", "camera")) is BACKBONES
    assert registry_at(("train_dataloader", "dataset", "lidar")) is None
    assert registry_at(("evaluation", "test", "lidar")) is None
