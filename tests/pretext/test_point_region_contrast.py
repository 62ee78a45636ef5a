"""Which points are contrasted, and that nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception.backbones.bev_base import BEVBackbone
from perception.errors import ConfigError, DataError
from perception.geometry.grid import BEVGrid
from perception.pretext.bev_points import Projector, sample_points
from perception.pretext.point_region_contrast import PointContrast, PointRegionContrast

RANGE = (-8.0, -8.0, -3.0, 8.0, 8.0, 1.0)
GRID = BEVGrid.from_range(RANGE, (1.0, 1.0))


class Counting(BEVBackbone):
    """Points counted in cells, through a 3 x 3 convolution."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__(dict(type="DrivingPreprocess", point_range=RANGE), GRID, channels)
        self.conv = nn.Conv2d(1, channels, 3, padding=1)

    def bev(self, batch: dict) -> Tensor:
        maps = []
        for points in batch["points"]:
            row, column, inside = self.grid.index(points)
            canvas = torch.zeros(self.grid.shape)
            canvas.index_put_((row[inside], column[inside]), torch.ones(int(inside.sum())), accumulate=True)
            maps.append(canvas[None])
        return self.conv(torch.stack(maps))


def views(seed: int = 0, count: int = 60, shift: float = 0.0) -> list[dict]:
    """Two sweeps, the second view in another order and partly outside."""
    generator = torch.Generator().manual_seed(seed)
    found: list[dict] = [{"points": [], "region": [], "point_id": []} for _ in range(2)]
    for _ in range(2):
        points = torch.rand(count, 4, generator=generator) * 12 - 6
        region = torch.randint(-1, 4, (count,), generator=generator)
        order = torch.randperm(count, generator=generator)[: count - 7]
        rows = (torch.arange(count), order)
        for view, row, moved in zip(found, rows, (0.0, shift), strict=True):
            view["points"].append(points[row] + torch.tensor([moved, 0, 0, 0]))
            view["region"].append(region[row])
            view["point_id"].append(row)
    return found


def test_points_correspond_and_lie_inside_in_both_views() -> None:
    torch.manual_seed(0)
    both = views(shift=4.0)  # x from -6..6 to -2..10
    chosen = sample_points(both, GRID, rich=20, poor=10)
    assert chosen.region.shape == (2, 30) and chosen.valid.any()
    for sweep in range(2):
        for slot in chosen.valid[sweep].nonzero().squeeze(1).tolist():
            first, second = (xy[sweep, slot] for xy in chosen.xy)
            assert torch.allclose(second - first, torch.tensor([4.0, 0.0]), atol=1e-6)
            assert second[0] < 8.0
            original = int(chosen.original[sweep, slot])
            assert torch.equal(both[0]["points"][sweep][original, :2], first)
            assert both[0]["region"][sweep][original] == chosen.region[sweep, slot]
            assert (chosen.region[sweep, slot] >= 0) == (slot < 20)
        ids = chosen.original[sweep][chosen.valid[sweep]]
        assert len(ids.unique()) == len(ids)


def test_few_points_are_all_taken() -> None:
    both = views()
    chosen = sample_points(both, GRID, rich=500, poor=500)
    for sweep in range(2):
        kept = both[0]["region"][sweep][both[1]["point_id"][sweep]]
        assert int(chosen.valid[sweep, :500].sum()) == int((kept >= 0).sum())
        assert int(chosen.valid[sweep, 500:].sum()) == int((kept < 0).sum())


def test_uniform_points_take_no_notice_of_regions() -> None:
    torch.manual_seed(0)
    both = views(count=200)
    for view in both:  # every tenth point belongs to a region
        view["region"] = [torch.where(ids % 10 == 0, 0, -1) for ids in view["point_id"]]
    chosen = sample_points(both, GRID, rich=60, poor=60, by_region=False)
    assert chosen.valid.sum() == 240 and (chosen.region[chosen.valid] >= 0).sum() < 48


def test_one_view_needs_no_ids() -> None:
    view = views()[0]
    chosen = sample_points([{"points": view["points"], "region": view["region"]}], GRID, rich=5, poor=5)
    assert len(chosen.xy) == 1 and chosen.valid.all()


def test_draws_differ_and_repeat_with_the_seed() -> None:
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(sample_points(views(), GRID, rich=10, poor=5).original)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_losses_and_what_they_train() -> None:
    torch.manual_seed(0)
    backbone, pretext = Counting(), PointRegionContrast(rich=20, poor=10, alpha=0.25)
    pretext.attach(backbone)
    losses = pretext(backbone, {"views": views()})
    expected = 0.25 * losses["plrc"] + 0.75 * losses["rapc"]
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert losses["regions"] == 4
    gauged = pretext(backbone, {"views": views(), "region_iou": torch.tensor([0.5, torch.nan])})
    assert gauged["region_iou"] == 0.5 and "region_iou" not in losses
    assert "region_iou" not in pretext(backbone, {"views": views(), "region_iou": torch.tensor([torch.nan])})
    losses["loss"].backward()
    for module in (backbone, pretext):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_a_symmetric_loss_does_not_care_which_view_is_first() -> None:
    torch.manual_seed(0)
    backbone, pretext = Counting(), PointRegionContrast(rich=500, poor=500, symmetric=True)
    pretext.attach(backbone)
    both = views()
    forward = pretext(backbone, {"views": both})["loss"]
    backward = pretext(backbone, {"views": both[::-1]})["loss"]
    assert forward.item() == pytest.approx(backward.item(), abs=1e-5)


@pytest.mark.parametrize("pretext", [PointRegionContrast(rich=8, poor=8), PointContrast(points=8)])
def test_nothing_to_contrast_is_finite_with_a_graph(pretext: nn.Module) -> None:
    backbone = Counting()
    pretext.attach(backbone)
    empty = {"points": [torch.empty(0, 4)], "region": [torch.empty(0, dtype=torch.long)]}
    view = {**empty, "point_id": [torch.empty(0, dtype=torch.long)]}
    loss = pretext(backbone, {"views": [view, view]})["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert backbone.conv.weight.grad is not None


def test_pointcontrast_is_cross_entropy_over_the_points() -> None:
    torch.manual_seed(0)
    backbone, pretext = Counting(), PointContrast(points=500, temperature=0.5)
    pretext.attach(backbone)
    both = views()
    torch.manual_seed(1)
    loss = pretext(backbone, {"views": both})["loss"]
    torch.manual_seed(1)
    first, second, chosen = pretext.embeddings(backbone, {"views": both}, 500, 0, False)
    expected = []
    for sweep in range(2):
        kept = chosen.valid[sweep]
        logits = first[sweep, kept] @ second[sweep, kept].T / 0.5
        expected.append(nn.functional.cross_entropy(logits, torch.arange(int(kept.sum()))))
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_the_projector_sees_no_padding() -> None:
    torch.manual_seed(0)
    projector = Projector(6, None, 4)
    vectors, valid = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()
    out = projector(vectors, valid)
    alone = projector(vectors[valid][None], torch.ones(1, 7, dtype=torch.bool))
    assert torch.allclose(out[valid], alone[0], atol=1e-6)
    assert (out[~valid] == 0).all() and torch.allclose(out[valid].norm(dim=1), torch.ones(7), atol=1e-5)


def test_faults_are_named() -> None:
    with pytest.raises(ConfigError, match=r"alpha.*\n?.*denominator|denominator"):
        PointRegionContrast(alpha=2, denominator="al")
    pretext = PointRegionContrast(rich=8, poor=8)
    pretext.attach(Counting())
    with pytest.raises(DataError, match="TwoViews"):
        pretext(Counting(), {"points": []})
    nameless = [{k: v for k, v in view.items() if k != "region"} for view in views()]
    with pytest.raises(DataError, match="region"):
        pretext(Counting(), {"views": nameless})


def test_pictures_show_the_maps_of_both_views() -> None:
    pretext = PointRegionContrast(rich=8, poor=8)
    backbone = Counting()
    pretext.attach(backbone)
    picture = pretext.pictures(backbone, {"views": views()})["bev_features"]
    assert picture.dtype.name == "uint8" and picture.ndim == 3 and picture.std() > 0
