"""Overlap of rotated boxes against clipping in exact fractions, and what must hold of any overlap."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from perception.geometry.boxes import bev_corners
from perception.geometry.rotated_iou import (
    bev_intersection,
    bev_intersection_paired,
    iou_3d,
    iou_3d_paired,
    iou_bev,
    iou_bev_paired,
)

Point = tuple[Fraction, Fraction]


def side(p: Point, a: Point, b: Point) -> Fraction:
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def clip(polygon: list[Point], window: list[Point]) -> list[Point]:
    """One convex polygon cut by the half planes of another, corner by corner, without rounding."""
    for a, b in zip(window, window[1:] + window[:1], strict=True):
        kept: list[Point] = []
        for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            of_p, of_q = side(p, a, b), side(q, a, b)
            if of_p >= 0:
                kept.append(p)
            if of_p * of_q < 0:
                t = of_p / (of_p - of_q)
                kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        polygon = kept
    return polygon


def area(polygon: list[Point]) -> Fraction:
    turned = polygon[1:] + polygon[:1]
    return sum((p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, turned, strict=True)), Fraction(0)) / 2


def exact_intersection(a: torch.Tensor, b: torch.Tensor) -> float:
    quads = [[(Fraction(x), Fraction(y)) for x, y in bev_corners(box[None]).numpy()[0].tolist()] for box in (a, b)]
    return float(area(clip(*quads)))


def random_boxes(count: int, seed: int, spread: float = 6.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-spread, spread, (count, 3)) * [1, 1, 0.2]
    size = rng.uniform(0.3, 6, (count, 3))
    return torch.from_numpy(np.concatenate([centre, size, rng.uniform(-7, 7, (count, 1))], axis=1))


def flat(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_equals_exact_clipping() -> None:
    a, b = random_boxes(300, 0, 3.0), random_boxes(300, 1, 3.0)
    expected = [exact_intersection(p, q) for p, q in zip(a, b, strict=True)]
    assert sum(e > 0 for e in expected) > 150 and sum(e == 0 for e in expected) > 10
    found = bev_intersection_paired(a, b)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    single = bev_intersection_paired(a.float(), b.float())
    assert single.dtype == torch.float32 and np.abs(single.numpy() - expected).max() < 1e-5


def test_equals_exact_clipping_where_edges_and_corners_fall_together() -> None:
    rng = np.random.default_rng(2)
    quarter = math.pi / 2
    a = random_boxes(400, 3, 0.0)
    a[:, :2] = torch.from_numpy(rng.integers(-2, 3, (400, 2)) / 2)
    a[:, 3:5] = torch.from_numpy(rng.integers(1, 5, (400, 2)) / 2)
    a[:, 6] = torch.from_numpy(rng.choice([0, quarter, -quarter, 2 * quarter, quarter / 2], 400))
    b = a[torch.from_numpy(rng.permutation(400))].clone()
    b[:200] = a[:200]
    b[:200, 6] += torch.from_numpy(rng.choice([0, 1e-15, 1e-12, 1e-9, 1e-6, math.pi, -quarter], 200))
    b[:100, :2] += torch.from_numpy(rng.choice([0, 1e-16, 1e-13, 1e-9, 1e-5], (100, 2)))
    expected = [exact_intersection(p, q) for p, q in zip(a, b, strict=True)]
    assert np.abs(bev_intersection_paired(a, b).numpy() - expected).max() < 1e-12
    assert np.abs(bev_intersection_paired(a.float(), b.float()).numpy() - expected).max() < 1e-5


def test_known_values() -> None:
    unit = (0.0, 0.0, 2.0, 2.0, 0.0)
    others = flat(
        unit,
        (0, 0, 2, 2, math.pi),
        (0, 0, 2, 2, math.pi / 2),
        (0, 0, 2, 2, math.pi / 4),  # an octagon: 8 (sqrt(2) - 1) of 4 + 4
        (2, 0, 2, 2, 0),  # a shared edge
        (2, 2, 2, 2, 0),  # a shared corner
        (0.2, 0.1, 1, 0.5, 0.7),  # inside
        (0, 0, 6, 8, 0.3),  # around
        (1, 0, 2, 2, 0),
        (50, 0, 2, 2, 0),
        (0, 0, 0, 2, 0),  # a line
        (0, 0, -3, 2, 0),
    )
    octagon = 8 * (math.sqrt(2) - 1)
    expected = flat((1, 1, 1, octagon / (8 - octagon), 0, 0, 0.5 / 4, 4 / 48, 2 / 6, 0, 0, 0))
    assert octagon / (8 - octagon) == pytest.approx(math.sqrt(0.5), abs=1e-12)
    assert torch.allclose(iou_bev(flat(unit), others), expected, atol=1e-12)
    assert float(iou_bev(flat((0, 0, 0, 0, 0)), flat((0, 0, 0, 0, 0)))) == 0  # no area at all is no overlap
    assert iou_bev(flat(unit), others[:0]).shape == (1, 0) and iou_bev(others[:0], flat(unit)).shape == (0, 1)
    with pytest.raises(ValueError, match=r"\(M, 5\)"):
        iou_bev(torch.zeros(2, 4), others)
    with pytest.raises(ValueError, match="volume"):
        iou_3d(others, others)


def test_monte_carlo() -> None:
    a, b = random_boxes(1, 5, 1.0), random_boxes(1, 6, 1.0)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-8, 8, (400_000, 3)))

    def inside(box: torch.Tensor) -> torch.Tensor:
        moved = points - box[:3]
        cos, sin = box[6].cos(), box[6].sin()
        turned = torch.stack(
            [cos * moved[:, 0] + sin * moved[:, 1], cos * moved[:, 1] - sin * moved[:, 0], moved[:, 2]]
        )
        return (turned.abs() <= box[3:6, None] / 2).all(0)

    one, two = inside(a[0]), inside(b[0])
    assert float(iou_3d(a, b)) == pytest.approx(float((one & two).sum() / (one | two).sum()), abs=0.02)


def test_volumes_are_areas_times_shared_height() -> None:
    a, b = random_boxes(60, 7, 2.0), random_boxes(80, 8, 2.0)
    area_of = bev_intersection(a, b)
    top = torch.minimum(a[:, None, 2] + a[:, None, 5] / 2, b[:, 2] + b[:, 5] / 2)
    bottom = torch.maximum(a[:, None, 2] - a[:, None, 5] / 2, b[:, 2] - b[:, 5] / 2)
    shared = area_of * (top - bottom).clamp(min=0)
    expected = shared / (a[:, 3:6].prod(1)[:, None] + b[:, 3:6].prod(1) - shared)
    found = iou_3d(a, b)
    assert torch.allclose(found, expected, atol=1e-12) and (found > 0.1).sum() > 20
    stacked = a.clone()
    stacked[:, 2] += a[:, 5]  # standing on top of each other
    assert float(iou_3d_paired(a, stacked).abs().max()) < 1e-12
    assert torch.allclose(iou_bev_paired(a, stacked), torch.ones(60, dtype=torch.float64), atol=1e-12)


def test_matrix_and_paired_form_agree_in_every_layout() -> None:
    a, b = random_boxes(40, 9), random_boxes(50, 10)
    i, j = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    for matrix, paired in (
        (bev_intersection, bev_intersection_paired),
        (iou_bev, iou_bev_paired),
        (iou_3d, iou_3d_paired),
    ):
        assert torch.allclose(matrix(a, b), paired(a[i.flatten()], b[j.flatten()]).view(40, 50), rtol=0, atol=1e-13)
    columns = [0, 1, 3, 4, 6]
    assert torch.equal(iou_bev(a[:, columns], b), iou_bev(a, b))
    as_array = iou_bev(a.numpy(), b.numpy())
    assert isinstance(as_array, np.ndarray) and np.array_equal(as_array, iou_bev(a, b).numpy())


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(70, 11), random_boxes(31, 12)
    whole = iou_bev(a, b)
    monkeypatch.setattr("perception.geometry.rotated_iou._CHUNK", 100)
    monkeypatch.setattr("perception.geometry.rotated_iou._NEAR", 7)
    assert torch.equal(iou_bev(a, b), whole)


def test_symmetric_and_invariant_under_rigid_motion() -> None:
    a, b = random_boxes(200, 13, 3.0), random_boxes(200, 14, 3.0)
    found = iou_bev_paired(a, b)
    assert torch.allclose(iou_bev_paired(b, a), found, atol=1e-12)
    assert found.min() >= 0 and found.max() <= 1
    turn = 1.234

    def moved(boxes: torch.Tensor) -> torch.Tensor:
        x, y = boxes[:, 0], boxes[:, 1]
        out = boxes.clone()
        out[:, 0] = math.cos(turn) * x - math.sin(turn) * y + 30
        out[:, 1] = math.sin(turn) * x + math.cos(turn) * y - 70
        out[:, 6] += turn
        return out

    assert torch.allclose(iou_bev_paired(moved(a), moved(b)), found, atol=1e-12)
    far_a, far_b = a.clone(), b.clone()
    far_a[:, :3] += 1000.0
    far_b[:, :3] += 1000.0  # city coordinates in float32 lose a tenth of a millimetre, not more
    assert torch.allclose(iou_3d_paired(far_a.float(), far_b.float()).double(), iou_3d_paired(a, b), atol=2e-3)


def test_gradients() -> None:
    a, b = random_boxes(15, 15, 1.0), random_boxes(15, 16, 1.0)
    assert (iou_3d_paired(a, b) > 0).sum() > 8
    torch.autograd.gradcheck(iou_bev_paired, (a.requires_grad_(), b.requires_grad_()), eps=1e-7, atol=1e-5)
    torch.autograd.gradcheck(iou_3d_paired, (a, b), eps=1e-7, atol=1e-5)
    torch.autograd.gradcheck(lambda x, y: iou_bev(x, y).sum(0), (a[:5], b[:6]), eps=1e-7, atol=1e-5)


def test_gradients_stay_finite_where_boxes_fall_together() -> None:
    a = flat((0, 0, 0, 4, 2, 1, 0), (1, 2, 0, 4, 2, 1, 0.3), (0, 0, 0, 2, 2, 1, 0), (5, 5, 0, 1, 1, 1, 0))
    b = flat((0, 0, 0, 4, 2, 1, math.pi), (1, 2, 0, 4, 2, 1, 0.3 + 1e-12), (2, 0, 0, 2, 2, 1, 0), (0, 0, 0, 0, 0, 0, 0))
    for dtype in (torch.float32, torch.float64):
        p, q = a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        iou_3d_paired(p, q).sum().backward()
        assert p.grad is not None and q.grad is not None
        assert p.grad.abs().max() < 10 and q.grad.abs().max() < 10


def test_descent_on_the_overlap_finds_the_box() -> None:
    truth = flat((0, 0, 0, 4, 2, 1.5, 0.4))
    box = flat((0.6, -0.4, 0.2, 3, 2.5, 1.2, 0.1)).requires_grad_()
    optimizer = torch.optim.Adam([box], lr=0.03)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 150)
        optimizer.zero_grad()
        (1 - iou_3d_paired(box, truth)).sum().backward()
        optimizer.step()
    assert iou_3d_paired(box, truth).item() > 0.97


def test_nan_is_not_hidden() -> None:
    a = random_boxes(3, 17)
    a[1, 0] = torch.nan
    found = iou_bev(a, random_boxes(2, 18))
    assert found[1].isnan().all() and not found[[0, 2]].isnan().any()
