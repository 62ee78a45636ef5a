from __future__ import annotations

import pytest
from tiny import TinyModel
from torch import nn

from perception.engine.layer_decay import LayerDecayConstructor
from perception.engine.optim import AutocastOptimWrapper
from perception.errors import ConfigError


def construct(model: nn.Module, **paramwise: object):
    cfg = dict(type="AutocastOptimWrapper", optimizer=dict(type="AdamW", lr=0.8, weight_decay=0.05))
    return LayerDecayConstructor(cfg, paramwise)(model)


def by_name(model: nn.Module, wrapper) -> dict[str, dict]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: group for group in wrapper.optimizer.param_groups for p in group["params"]}


def test_rates_and_decay_by_hand() -> None:
    # Five groups: embedding 0, blocks 1-3, head 4. Decay 0.5: 0.8 * 0.5 ** (4 - i).
    model = TinyModel()
    wrapper = construct(model, decay=0.5)
    assert isinstance(wrapper, AutocastOptimWrapper)
    groups = by_name(model, wrapper)
    assert set(groups) == {n for n, _ in model.named_parameters()}
    expected = {
        "backbone.pos_embed": (0.05, 0.0),
        "backbone.blocks.0.weight": (0.1, 0.05),
        "backbone.blocks.0.bias": (0.1, 0.0),
        "backbone.blocks.1.weight": (0.2, 0.05),
        "backbone.blocks.2.weight": (0.4, 0.05),
        "head.weight": (0.8, 0.05),
        "head.bias": (0.8, 0.0),
    }
    for name, (lr, decay) in expected.items():
        assert groups[name]["lr"] == pytest.approx(lr), name
        assert groups[name]["weight_decay"] == decay, name


def test_without_decay_only_weight_decay_is_sorted_out() -> None:
    model = TinyModel(norm=True)
    groups = by_name(model, construct(model))
    assert {g["lr"] for g in groups.values()} == {0.8}
    assert groups["backbone.norm.weight"]["weight_decay"] == 0.0  # a vector


def test_named_exemptions_and_frozen_parameters() -> None:
    model = TinyModel()
    model.backbone.blocks[0].weight.requires_grad_(False)
    groups = by_name(model, construct(model, no_decay_names=["head.weight"]))
    assert groups["head.weight"]["weight_decay"] == 0.0
    assert "backbone.blocks.0.weight" not in groups


@pytest.mark.parametrize(("key", "value", "message"), [("decai", 0.5, "'decay'"), ("decay", 1.5, "outside")])
def test_faults(key: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        construct(TinyModel(), **{key: value})


def test_the_backbone_may_be_slower_than_the_head() -> None:
    model = TinyModel()
    groups = by_name(model, construct(model, decay=0.5, backbone_scale=0.01))
    found = {name: (group["lr"], group["lr_scale"]) for name, group in groups.items() if name.endswith("weight")}
    assert found["backbone.blocks.2.weight"] == pytest.approx((0.004, 0.005))  # 0.8 * 0.5 * 0.01
    assert found["backbone.blocks.0.weight"] == pytest.approx((0.001, 0.00125))
    assert found["head.weight"] == pytest.approx((0.8, 1.0))
    with pytest.raises(ConfigError, match="backbone_scale"):
        construct(model, backbone_scale=0.0)


def test_modules_apart_have_groups_of_their_own() -> None:
    model = TinyModel()
    groups = construct(model, decay=0.5, separate=["head"]).optimizer.param_groups
    names = [group["name"] for group in groups]
    assert "layer_4" not in names and names[-2:] == ["head_no_decay", "head"]
    assert [g["lr"] for g in groups[-2:]] == [0.8, 0.8] and [g["weight_decay"] for g in groups[-2:]] == [0.0, 0.05]
    rest = [g for g in construct(model, decay=0.5).optimizer.param_groups if not g["name"].startswith("layer_4")]
    assert [g["name"] for g in rest] == names[:-2]  # the others are as they were
    with pytest.raises(ConfigError, match=r"paramwise_cfg\.separate = 'heat'.*'head'"):
        construct(model, separate=["heat"])
