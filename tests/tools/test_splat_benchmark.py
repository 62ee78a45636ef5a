"""The contenders of the splat benchmark compute the same thing, at a small size."""

from __future__ import annotations

import pytest
import torch
from benchmarks import splat as bench

from perception.geometry.grid import BEVGrid
from perception.layers.lift import Frustum


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "FRUSTUM", Frustum((256, 704), 32, (1.0, 60.0, 4.0)))
    monkeypatch.setattr(bench, "GRID", BEVGrid((-54.0, 54.0), (-54.0, 54.0), (-10.0, 10.0), (3.0, 3.0)))
    monkeypatch.setattr(bench, "CHANNELS", 5)
    bench.inputs.cache_clear()
    yield
    bench.inputs.cache_clear()


def test_all_routes_give_one_map_and_one_gradient():
    alpha, context, gradient = bench.inputs("cpu")
    found = {}
    for name, make in {
        "ours": bench.ours,
        "new": bench.ours_new_index,
        "index_add": bench.by_index_add,
        "cumsum": bench.by_cumsum,
    }.items():
        leaves = [t.clone().requires_grad_() for t in (alpha, context)]
        out = make("cpu")(*leaves)
        out.backward(gradient)
        found[name] = (out.detach(), *(leaf.grad for leaf in leaves))
    assert found["index_add"][0].abs().sum() > 100
    assert all(torch.equal(a, b) for a, b in zip(found["ours"], found["new"], strict=True))
    for name, tolerance in (("index_add", 1e-5), ("cumsum", 1e-3)):
        for ours, theirs in zip(found["ours"], found[name], strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_the_rig_looks_all_around():
    """Every camera sees cells on its own side of the car, and about four points in five lie on the grid."""
    cells = bench.cells("cpu")
    share = (cells >= 0).float().mean()
    assert 0.7 < share < 0.9
    sides = []
    for camera in cells[0]:
        place = camera[camera >= 0].long()
        rows, columns = (place // 36).float().mean() - 17.5, (place % 36).float().mean() - 17.5
        sides.append((round(float(columns) / 6), round(float(rows) / 6)))
    front, right, left, back, back_left, back_right = sides
    assert front[1] > 0 and back[1] < 0 and abs(front[0]) == abs(back[0]) == 0
    assert right[0] > 0 and back_right[0] > 0 and left[0] < 0 and back_left[0] < 0
