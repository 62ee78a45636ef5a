"""Settings of hooks and wrappers that would fail in mid-run are faults of the config."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_config

from perception.engine.hooks.checkpoint import require_monitored
from perception.errors import ConfigError, TrainingError
from perception.registry import OPTIM_WRAPPER_CONSTRUCTORS
from perception.validation import validate_config


@pytest.mark.parametrize(
    ("place", "name", "options", "said"),
    [
        ("scalars", "ScalarsHook", {"interval": 0}, "interval = 0: must be at least 1"),
        ("guard", "NonFiniteGuard", {"interval": 0}, "interval = 0: must be at least 1"),
        ("pictures", "PicturesHook", {"count": 0}, "count = 0: must be at least 1"),
        ("early", "EarlyStopping", {"monitor": "x", "patience": -1}, "patience = -1: must be at least 0"),
    ],
)
def test_hooks(place: str, name: str, options: dict[str, Any], said: str) -> None:
    cfg = tiny_config()
    cfg["default_hooks"][place] = {"type": name, **options}
    (fault,) = validate_config(cfg)
    assert said in str(fault)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        ({"max_nrom": 1.0}, "meant 'max_norm'?"),
        (-1, "must be positive"),
    ],
)
def test_clipping(clip: Any, said: str) -> None:
    cfg = tiny_config()
    cfg["optim_wrapper"]["clip_grad"] = clip
    (fault,) = validate_config(cfg)
    assert fault.path.startswith("optim_wrapper.clip_grad") and said in str(fault)


@pytest.mark.parametrize("clip", [None, 1, {"max_norm": 1.0}, {"max_norm": 1.0, "norm_type": 1.0}])
def test_clipping_that_torch_knows(clip: Any) -> None:
    cfg = tiny_config()
    cfg["optim_wrapper"]["clip_grad"] = clip
    assert validate_config(cfg) == []


def test_layer_decay_needs_a_rate() -> None:
    build = OPTIM_WRAPPER_CONSTRUCTORS.get("LayerDecay")({"optimizer": {"type": "AdamW"}}, {})
    with pytest.raises(ConfigError, match=r"optim_wrapper\.optimizer\.lr"):
        build(None)


def test_monitored_names() -> None:
    metrics = {"accuracy/top1": 0.5}
    require_monitored("here", "accuracy/top1", metrics)
    require_monitored("here", "probe/knn", metrics)  # logged by a hook
    for name in ("accuracy/top2", "acuracy/top1", "top1"):
        with pytest.raises(TrainingError, match=f"here = '{name}': validation gives"):
            require_monitored("here", name, metrics)
