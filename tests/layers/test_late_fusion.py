"""The fusion head against its explicit composition, and what happens to branches that are missing."""

import pytest
import torch
from torch.nn import functional as F

from perception.errors import ConfigError, DataError
from perception.layers.late_fusion import LateFusionHead

DIMS = {"video": 768, "text": 384}
PAPER = dict(branches={"video": [256, 128], "text": [128, 64]}, joint=[256, 128])


def head(seed=0, dims=DIMS, **options):
    torch.manual_seed(seed)
    return LateFusionHead(dims, **{**PAPER, **options})


def features(n=6, seed=1, dims=DIMS):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, width, generator=generator) for name, width in dims.items()}


def test_equals_the_explicit_composition():
    model, x = head(), features()
    w = model.state_dict()

    def layer(value, key):
        return value @ w[f"{key}.weight"].T + w[f"{key}.bias"]

    text = layer(layer(x["text"], "branches.text.0").clamp(min=0), "branches.text.2").clamp(min=0)
    video = layer(layer(x["video"], "branches.video.0").clamp(min=0), "branches.video.2").clamp(min=0)
    joint = layer(layer(torch.cat([text, video], 1), "joint.0").clamp(min=0), "joint.2").clamp(min=0)
    logits = layer(joint, "head")
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=0)
    label = torch.arange(6) % 2
    by_hand = (logits.exp().sum(1).log() - logits[torch.arange(6), label]).mean()
    assert F.cross_entropy(model(x), label).item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_sizes_of_the_paper():
    shapes = {key: tuple(value.shape) for key, value in head().state_dict().items() if key.endswith("weight")}
    assert shapes == {
        "branches.text.0.weight": (128, 384),
        "branches.text.2.weight": (64, 128),
        "branches.video.0.weight": (256, 768),
        "branches.video.2.weight": (128, 256),
        "joint.0.weight": (256, 192),
        "joint.2.weight": (128, 256),
        "head.weight": (2, 128),
    }
    alone = LateFusionHead({"video": 768}, {"video": [512, 256]})
    assert [p.shape[0] for n, p in alone.named_parameters() if n.endswith("weight")] == [512, 256, 2]
    assert not list(alone.joint)


def test_the_order_of_the_names_does_not_matter():
    one = head()
    other = head(dims=dict(reversed(DIMS.items())), branches=dict(reversed(PAPER["branches"].items())))
    assert list(one.state_dict()) == list(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    x = features()
    assert torch.equal(one(x), other(dict(reversed(x.items()))))


def test_any_number_of_branches():
    dims = {"video": 8, "text": 4, "kinematics": 5}
    model = head(dims=dims, branches={"video": [6], "text": [], "kinematics": [3, 2]}, joint=[], num_classes=3)
    assert model(features(dims=dims)).shape == (6, 3) and model.head.in_features == 6 + 4 + 2


def test_with_text_zeroed_and_frozen_the_fusion_is_a_function_of_video():
    model, x = head(), features()
    for parameter in model.branches["text"].parameters():
        parameter.requires_grad_(False).zero_()
    other = {**x, "text": torch.randn(6, 384)}
    assert torch.equal(model(x), model(other))
    assert not torch.equal(model(x), model({**x, "video": torch.randn(6, 768)}))
    model(x).sum().backward()
    assert all(p.grad is None for p in model.branches["text"].parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.branches["video"].parameters())


def test_gradients_reach_both_branches():
    model, x = head(), {name: value.requires_grad_() for name, value in features().items()}
    F.cross_entropy(model(x), torch.arange(6) % 2).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert all(value.grad.any() for value in x.values())


def test_a_null_vector_stands_for_what_is_missing():
    model, x = head(null_vectors=True), features()
    with torch.no_grad():
        model.null["text"].normal_()
    missing = torch.tensor([True, False, True, False, False, False])
    broken = {**x, "text": x["text"].masked_fill(missing[:, None], float("nan"))}
    logits = model(broken, {"text": missing})
    torch.testing.assert_close(logits[~missing], model(x)[~missing])
    video = model.branches["video"](x["video"])
    expected = model.head(model.joint(torch.cat([model.null["text"].expand(6, -1), video], dim=1)))
    torch.testing.assert_close(logits[missing], expected[missing])
    torch.testing.assert_close(model({"video": x["video"]}), expected)
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if n != "null.video")
    assert model.null["text"].grad.any()


def test_a_head_that_cannot_bear_it_says_so():
    model, x = head(), features()
    assert torch.equal(model(x, {"text": torch.zeros(6, dtype=torch.bool)}), model(x))
    with pytest.raises(DataError, match=r"branch 'text' is missing in 2 of 6 samples: null_vectors"):
        model(x, {"text": torch.arange(6) < 2})
    with pytest.raises(DataError, match="missing in 6 of 6"):
        model({"video": x["video"]})
    with pytest.raises(DataError, match="nearest is 'text'"):
        model({**x, "texts": x["text"]})
    with pytest.raises(DataError, match="at least one of its branches text, video"):
        model({})


def test_branch_dropout_drops_one_branch_at_most_and_in_training_alone():
    model, x = head(branch_dropout={"text": 0.3, "video": 0.5}), features(4000)
    seen = {}
    for name in DIMS:
        model.branches[name].register_forward_hook(lambda m, i, o, name=name: seen.update({name: i[0]}))
    model(x)
    dropped = {name: (value == 0).all(1) for name, value in seen.items()}
    assert not (dropped["text"] & dropped["video"]).any()
    assert dropped["text"].float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert dropped["video"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    model(x, {"text": torch.ones(4000, dtype=torch.bool)})
    assert not (seen["video"] == 0).all(1).any()  # it is all that is left
    model.eval()
    assert torch.equal(model(x), model(x)) and not (seen["text"] == 0).all(1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(branches={}), "at least one branch"),
        (dict(joint=[0]), "whole numbers"),
        (dict(dropout=1.0), r"\[0, 1\)"),
        (dict(branch_dropout=0.6), "not exceed 1"),
        (dict(branch_dropout={"vidoe": 0.1}), "nearest is 'video'"),
        (dict(branches={"video": [3], "audio": [2]}), "head.in_dims.audio"),
        (dict(branches={"video": [3]}, branch_dropout=0.1), "several branches"),
    ],
)
def test_faults(options, message):
    with pytest.raises(ConfigError, match=message):
        head(**options)
