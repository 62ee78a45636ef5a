"""PLRC, RAPC, RAD against loops over points in float64, and the invariants of the method card."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.losses.point_region import point_contrast, region_contrast, region_distillation

TAU = 0.2


def points(seed: int = 0, batch: int = 1, count: int = 9, dims: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, batch, count, dims, generator=generator)
    return normalize(draw[0], dim=-1), normalize(draw[1], dim=-1)


def all_valid(region: Tensor) -> Tensor:
    return torch.ones_like(region, dtype=torch.bool)


REGION = torch.tensor([[0, 0, 0, 1, 1, 4, -1, -1, -1]])


def by_hand(name: str, f: Tensor, g: Tensor, region: list[int], denominator: str = "all") -> float:
    """One sweep, one point after the other."""
    count = len(region)
    s = [[float(f[i].double() @ g[j].double()) / TAU for j in range(count)] for i in range(count)]
    rich = [i for i in range(count) if region[i] >= 0]
    total = 0.0
    for i in rich:
        same = [j for j in rich if region[j] == region[i]]
        others = [k for k in range(count) if region[k] != region[i]]
        if name == "plrc":
            inner = 0.0
            for j in same:
                ks = range(count) if denominator == "all" else [j, *others]
                inner += s[i][j] - math.log(sum(math.exp(s[i][k]) for k in ks))
            total -= inner / len(same) / len(rich)
        elif name == "rapc":
            total -= (s[i][i] - math.log(sum(math.exp(s[i][k]) for k in [i, *others]))) / len(rich)
        else:
            regions = len({region[i] for i in rich})
            total -= (s[i][i] - math.log(sum(math.exp(v) for v in s[i]))) / len(same) / regions
    return total


@pytest.mark.parametrize("denominator", ["all", "positive+negatives"])
def test_region_contrast_by_hand(denominator: str) -> None:
    f, g = points()
    found = region_contrast(f, g, REGION, all_valid(REGION), TAU, denominator)
    assert found.item() == pytest.approx(by_hand("plrc", f[0], g[0], REGION[0].tolist(), denominator), abs=1e-5)


def test_point_contrast_by_hand() -> None:
    f, g = points()
    found = point_contrast(f, g, REGION, all_valid(REGION), TAU)
    assert found.item() == pytest.approx(by_hand("rapc", f[0], g[0], REGION[0].tolist()), abs=1e-5)


def test_region_distillation_by_hand() -> None:
    f, g = points()
    found = region_distillation(f, g, REGION, all_valid(REGION), TAU)
    assert found.item() == pytest.approx(by_hand("rad", f[0], g[0], REGION[0].tolist()), abs=1e-5)


def test_point_contrast_without_regions_is_pointcontrasts_nce() -> None:
    f, g = points()
    found = point_contrast(f, g, REGION, all_valid(REGION), TAU, exclude_same_region=False, anchors="all")
    expected = torch.nn.functional.cross_entropy(f[0] @ g[0].T / TAU, torch.arange(9))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_perfect_copies_of_orthogonal_regions() -> None:
    axes = torch.eye(6)
    embeddings = axes[[0, 0, 1, 1, 2, 3]].unsqueeze(0)  # two regions of two, two points without one
    region = torch.tensor([[0, 0, 1, 1, -1, -1]])
    expected = math.log(1 + 4 * math.exp(-1 / TAU))  # K = 4 negatives of every anchor
    for loss in (
        point_contrast(embeddings, embeddings, region, all_valid(region), TAU),
        region_contrast(embeddings, embeddings, region, all_valid(region), TAU, "positive+negatives"),
    ):
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_distinct_regions_make_both_plain_info_nce() -> None:
    f, g = points()
    region = torch.tensor([[0, 1, 2, 3, 4, 5, -1, -1, -1]])
    anchors = torch.arange(6)
    expected = torch.nn.functional.cross_entropy(f[0, :6] @ g[0].T / TAU, anchors).item()
    assert region_contrast(f, g, region, all_valid(region), TAU).item() == pytest.approx(expected, abs=1e-5)
    assert point_contrast(f, g, region, all_valid(region), TAU).item() == pytest.approx(expected, abs=1e-5)


def test_one_region_does_not_care_which_positive_is_matched() -> None:
    f, g = points()
    region = torch.zeros(1, 9, dtype=torch.long)
    turned = g.roll(3, dims=1)
    a = region_contrast(f, g, region, all_valid(region), TAU)
    b = region_contrast(f, turned, region, all_valid(region), TAU)
    assert a.item() == pytest.approx(b.item(), abs=1e-6)


@pytest.mark.parametrize("loss", [region_contrast, point_contrast, region_distillation])
def test_names_of_regions_and_order_of_points_change_nothing(loss) -> None:
    f, g = points()
    reference = loss(f, g, REGION, all_valid(REGION), TAU)
    renamed = torch.where(REGION < 0, REGION, 7 - REGION)
    assert loss(f, g, renamed, all_valid(REGION), TAU).item() == pytest.approx(reference.item(), abs=1e-6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = loss(f[:, order], g[:, order], REGION[:, order], all_valid(REGION), TAU)
    assert shuffled.item() == pytest.approx(reference.item(), abs=1e-6)


@pytest.mark.parametrize("loss", [region_contrast, point_contrast, region_distillation])
def test_points_without_a_region_are_never_anchors(loss) -> None:
    f, g = points()
    f = f.requires_grad_()
    loss(f, g, REGION, all_valid(REGION), TAU).backward()
    assert f.grad is not None
    assert (f.grad[0, :6] != 0).any(dim=1).all()
    assert (f.grad[0, 6:] == 0).all()


@pytest.mark.parametrize("loss", [region_contrast, point_contrast, region_distillation])
def test_padding_and_sweeps_without_regions_count_for_nothing(loss) -> None:
    f, g = points(batch=3, count=9)
    region = REGION.repeat(3, 1)
    region[1] = -1  # nothing to contrast
    valid = all_valid(region)
    valid[2, 2] = valid[2, 7] = False
    kept = [0, 1, 3, 4, 5, 6, 8]
    alone = [
        loss(f[:1], g[:1], region[:1], valid[:1], TAU),
        loss(f[2:, kept], g[2:, kept], region[2:, kept], valid[2:, kept], TAU),
    ]
    together = loss(f, g, region, valid, TAU)
    assert together.item() == pytest.approx(sum(a.item() for a in alone) / 2, abs=1e-5)


@pytest.mark.parametrize("loss", [region_contrast, point_contrast, region_distillation])
def test_nothing_to_contrast_is_zero_with_a_graph(loss) -> None:
    f, g = points(batch=2)
    f = f.requires_grad_()
    for valid in (torch.ones(2, 9, dtype=torch.bool), torch.zeros(2, 9, dtype=torch.bool)):
        value = loss(f, g, torch.full((2, 9), -1), valid, TAU)
        value.backward()
        assert value.item() == 0.0
        assert f.grad is not None and torch.isfinite(f.grad).all()


def test_distillation_weighs_regions_alike_and_spares_the_teacher() -> None:
    h, t = points(count=4)
    h, t = h.requires_grad_(), t.requires_grad_()
    region = torch.tensor([[0, 1, -1, -1]])
    base = region_distillation(h, t, region, all_valid(region), TAU)
    base.backward()
    assert t.grad is None and h.grad is not None
    h = h.detach()
    # The point of region 0 three times, against a denominator that is kept fixed by hand.
    scores = h[0] @ t[0].T.detach() / TAU
    per_point = scores.logsumexp(dim=1) - scores.diagonal()
    assert base.item() == pytest.approx(((per_point[0] + per_point[1]) / 2).item(), abs=1e-6)
    triple = [0, 0, 0, 1, 2, 3]
    many = region_distillation(h[:, triple], t[:, triple], region[:, triple], torch.ones(1, 6, dtype=torch.bool), TAU)
    wide = torch.cat([scores, scores[:, :1], scores[:, :1]], dim=1)  # the copies join the denominator only
    expected = (wide.logsumexp(dim=1) - scores.diagonal())[:2].mean()
    assert many.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("loss", [region_contrast, point_contrast])
def test_gradients_are_exact(loss) -> None:
    f, g = (p.double().requires_grad_() for p in points(count=5))
    region = torch.tensor([[0, 0, 1, -1, -1]])

    def run(a: Tensor, b: Tensor) -> Tensor:
        return loss(a, b, region, all_valid(region), 1.0)

    assert torch.autograd.gradcheck(run, (f, g))


def test_shapes_that_do_not_fit_are_named() -> None:
    f, g = points()
    with pytest.raises(ValueError, match=r"\(1, 8\)"):
        region_contrast(f, g, REGION[:, :8], all_valid(REGION), TAU)


@pytest.mark.parametrize("loss", [region_contrast, point_contrast, region_distillation])
def test_autocast_does_not_touch_the_scores(loss) -> None:
    f, g = points()
    plain = loss(f, g, REGION, all_valid(REGION), TAU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(f, g, REGION, all_valid(REGION), TAU)
        rounded = loss(f.bfloat16(), g.bfloat16(), REGION, all_valid(REGION), TAU)
    assert found.dtype == torch.float32 and torch.equal(found, plain)
    assert rounded.dtype == torch.float32
