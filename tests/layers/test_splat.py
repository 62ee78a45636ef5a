"""The splat as a sparse product, against sums written plainly."""

from __future__ import annotations

import copy

import pytest
import torch

from perception.geometry.grid import BEVGrid
from perception.layers.splat import OUTSIDE, IndexCache, SplatIndex, cells_of_rays, splat

GRID = BEVGrid((-6.0, 6.0), (-4.0, 4.0), (-2.0, 2.0), (0.5, 0.4))  # 20 rows, 24 columns


def random_rays(batch=2, cameras=3, rows=4, columns=5, seed=0):
    """Rays of cameras that look anywhere, from anywhere near the middle."""
    random = torch.Generator().manual_seed(seed)
    rays = torch.randn(batch, cameras, rows, columns, 3, generator=random, dtype=torch.float64)
    origins = torch.randn(batch, cameras, 3, generator=random, dtype=torch.float64) * 0.5
    return rays, origins, torch.arange(0.5, 8, 0.75, dtype=torch.float64)


def random_inputs(index, channels=7, seed=1, dtype=torch.float32):
    """A distribution over depths and features."""
    random = torch.Generator().manual_seed(seed)
    batch, cameras, _, rows, columns = index.shape
    alpha = torch.randn(index.shape, generator=random, dtype=dtype).softmax(2)
    return alpha, torch.randn(batch, cameras, channels, rows, columns, generator=random, dtype=dtype)


def points_of(rays, origins, depths):
    """(B, N, D, h, w, 3), written as the formula reads."""
    return origins[:, :, None, None, None, :] + depths[None, None, :, None, None, None] * rays[:, :, None]


def plain_splat(alpha, context, points, grid, z_slices=1, trunc=False):
    """Lifts, rounds and adds in float64 by index_add: (B, Nz * C, Ny, Nx), and the number of points kept."""
    lifted = (alpha.double()[:, :, None] * context.double()[:, :, :, None]).permute(0, 1, 3, 4, 5, 2)
    low = torch.tensor([grid.x[0], grid.y[0], grid.z[0]], dtype=torch.float64)
    size = torch.tensor([*grid.cell, (grid.z[1] - grid.z[0]) / z_slices], dtype=torch.float64)
    place = (points - low) / size
    place = (place.trunc() if trunc else place.floor()).long()
    limit = torch.tensor([grid.nx, grid.ny, z_slices])
    kept = ((place >= 0) & (place < limit)).all(-1)
    channels, maps = context.shape[2], []
    for b in range(len(alpha)):
        x, y, z = place[b][kept[b]].unbind(-1)
        out = torch.zeros(z_slices * grid.ny * grid.nx, channels, dtype=torch.float64)
        out.index_add_(0, (z * grid.ny + y) * grid.nx + x, lifted[b][kept[b]])
        slices = out.view(z_slices, grid.ny, grid.nx, channels).permute(0, 3, 1, 2)  # slices one after the other
        maps.append(slices.reshape(-1, grid.ny, grid.nx))
    return torch.stack(maps), int(kept.sum())


@pytest.mark.parametrize("compat", ["floor", "trunc"])
@pytest.mark.parametrize("z_slices", [1, 2])
def test_it_is_lift_and_index_add(compat, z_slices):
    rays, origins, depths = random_rays()
    index = SplatIndex.from_cells(cells_of_rays(rays, origins, depths, GRID, z_slices, compat), (*GRID.shape, z_slices))
    alpha, context = random_inputs(index)
    expected, kept = plain_splat(
        alpha, context, points_of(rays, origins, depths), GRID, z_slices, trunc=compat == "trunc"
    )
    found = splat(alpha, context, index)
    assert found.shape == (2, z_slices * 7, 20, 24) and index.kept == kept and 0 < kept < alpha.numel()
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


def test_cells_by_hand():
    """One camera at the origin, one pixel, looking along +x and a little up."""
    rays = torch.tensor([1.0, 0.0, 0.1], dtype=torch.float64).view(1, 1, 1, 1, 3)
    cells = cells_of_rays(rays, torch.zeros(1, 1, 3).double(), torch.tensor([0.1, 0.6, 5.9, 6.1]), GRID)
    # x in [0, 0.5) is column 12, y = 0 is row 10; 0.6 m lies in column 13, 5.9 m in the last and 6.1 m outside.
    assert cells.flatten().tolist() == [10 * 24 + 12, 10 * 24 + 13, 10 * 24 + 23, OUTSIDE]
    below = torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 1, 3)
    depths = torch.tensor([6.3, 6.6])
    assert cells_of_rays(below, torch.zeros(1, 1, 3).double(), depths, GRID).flatten().tolist() == [OUTSIDE] * 2
    # Truncation pulls what lies up to one cell outside the low edge into the first cell.
    pulled = cells_of_rays(below, torch.zeros(1, 1, 3).double(), depths, GRID, compat="trunc")
    assert pulled.flatten().tolist() == [10 * 24, OUTSIDE]
    high = cells_of_rays(rays * 25, torch.zeros(1, 1, 3).double(), torch.tensor([0.2, 0.9]), GRID)
    assert high.flatten().tolist() == [10 * 24 + 22, OUTSIDE]  # 2.25 m is above the range of heights


def test_gradients_are_those_of_the_definition():
    rays, origins, depths = random_rays(batch=2, cameras=2, rows=2, columns=3)
    index = SplatIndex.from_cells(cells_of_rays(rays, origins, depths[:5], GRID, 2), (*GRID.shape, 2))
    alpha, context = (t.requires_grad_() for t in random_inputs(index, channels=3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda a, c: splat(a, c, index), (alpha, context))
    weight = torch.randn(2, 6, 20, 24, dtype=torch.float64)
    ours = torch.autograd.grad((splat(alpha, context, index) * weight).sum(), (alpha, context))
    plain, _ = plain_splat(alpha, context, points_of(rays, origins, depths[:5]), GRID, 2)
    for found, expected in zip(ours, torch.autograd.grad((plain * weight).sum(), (alpha, context)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("wanted", [0, 1])
def test_either_gradient_alone(wanted):
    rays, origins, depths = random_rays()
    index = SplatIndex.from_cells(cells_of_rays(rays, origins, depths, GRID), (*GRID.shape, 1))
    inputs = random_inputs(index)
    leaves = [t.clone().requires_grad_() for t in inputs]
    splat(*leaves, index).square().sum().backward()
    alone = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(inputs)]
    splat(*alone, index).square().sum().backward()
    assert torch.equal(alone[wanted].grad, leaves[wanted].grad) and alone[1 - wanted].grad is None


def test_mass_and_ray_counts():
    rays, origins, depths = random_rays()
    cells = cells_of_rays(rays, origins, depths, GRID)
    index = SplatIndex.from_cells(cells, (*GRID.shape, 1))
    alpha, context = random_inputs(index)
    kept = (cells != OUTSIDE).unsqueeze(2)
    mass = (alpha.unsqueeze(2) * context.unsqueeze(3) * kept).double().sum((1, 3, 4, 5))
    torch.testing.assert_close(splat(alpha, context, index).double().sum((2, 3)), mass, atol=1e-5, rtol=0)
    counts = splat(torch.full_like(alpha, 1 / len(depths)), torch.ones_like(context[:, :, :1]), index)
    for b in range(2):
        inside = cells[b][cells[b] != OUTSIDE].long()
        torch.testing.assert_close(
            counts[b, 0].flatten() * len(depths), torch.bincount(inside, minlength=480).float(), atol=1e-4, rtol=0
        )


def test_five_runs_give_the_same_bits():
    rays, origins, depths = random_rays(rows=8, columns=9)
    results = []
    for _ in range(5):
        index = SplatIndex.from_cells(cells_of_rays(rays, origins, depths, GRID), (*GRID.shape, 1))
        leaves = [t.requires_grad_() for t in random_inputs(index)]
        out = splat(*leaves, index)
        out.square().sum().backward()
        results.append((out.detach(), *(t.grad for t in leaves)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_cameras_in_any_order_twice_or_none():
    rays, origins, depths = random_rays()

    def run(chosen):
        index = SplatIndex.from_cells(
            cells_of_rays(rays[:, chosen], origins[:, chosen], depths, GRID), (*GRID.shape, 1)
        )
        return splat(alpha[:, chosen], context[:, chosen], index)

    alpha, context = random_inputs(SplatIndex.from_cells(cells_of_rays(rays, origins, depths, GRID), (20, 24, 1)))
    torch.testing.assert_close(run([0, 1, 2]), run([2, 0, 1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(run([1, 1]), 2 * run([1]), atol=1e-6, rtol=1e-6)
    nothing = run([])
    assert nothing.shape == (2, 7, 20, 24) and not nothing.any()


def test_everything_outside_gives_zeros_with_a_graph():
    rays, origins, depths = random_rays()
    index = SplatIndex.from_cells(cells_of_rays(rays, origins + 1000, depths, GRID), (*GRID.shape, 1))
    leaves = [t.requires_grad_() for t in random_inputs(index)]
    out = splat(*leaves, index)
    out.sum().backward()
    assert index.kept == 0 and not out.any()
    assert all(t.grad.shape == t.shape and not t.grad.any() for t in leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
    """4000 rays of 1/3 each into one cell: bfloat16 would stop growing at 256."""
    index = SplatIndex.from_cells(torch.full((1, 1, 40, 10, 10), 7, dtype=torch.int32), (*GRID.shape, 1))
    alpha = torch.full(index.shape, 1 / 3, dtype=dtype).requires_grad_()
    context = torch.ones(1, 1, 2, 10, 10, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = splat(alpha, context, index)
    assert out.dtype == torch.float32
    torch.testing.assert_close(
        out.flatten(2)[0, :, 7], (4000 * alpha[0, 0, 0, 0, 0].float()).expand(2), rtol=1e-6, atol=0
    )
    out.sum().backward()
    assert alpha.grad.dtype == dtype and (alpha.grad == 2).all()


def test_wrong_shapes_and_values_are_named():
    rays, origins, depths = random_rays()
    index = SplatIndex.from_cells(cells_of_rays(rays, origins, depths, GRID), (*GRID.shape, 1))
    alpha, context = random_inputs(index)
    with pytest.raises(ValueError, match="do not fit an index for 3 cameras"):
        splat(alpha[:, :2], context, index)
    with pytest.raises(ValueError, match="do not fit"):
        splat(alpha, context[..., :2], index)
    with pytest.raises(ValueError, match="compat = 'round' is not one of floor, trunc"):
        cells_of_rays(rays, origins, depths, GRID, compat="round")
    with pytest.raises(ValueError, match="too large"):
        cells_of_rays(rays, origins, depths, BEVGrid((0, 4096), (0, 4096), (0, 1), (1, 1)))


def test_the_cache_knows_content_and_forgets_the_oldest():
    built = []

    def build():
        built.append(SplatIndex.from_cells(torch.zeros(1, 1, 1, 1, 1, dtype=torch.int32), (1, 1, 1)))
        return built[-1]

    cache, matrix = IndexCache(2), torch.eye(4)
    first = cache.get([matrix, None], build)
    assert cache.get([matrix.clone(), None], build) is first and len(built) == 1
    cache.get([matrix + 1, None], build)
    assert cache.get([matrix, None], build) is first  # used last, so the other goes next
    cache.get([matrix, matrix], build)
    assert len(cache) == 2 and len(built) == 3
    assert cache.get([matrix, None], build) is first
    cache.get([matrix + 1, None], build)
    assert len(built) == 4
    assert len(copy.deepcopy(cache)) == 0 and copy.deepcopy(cache).size == 2
    none = IndexCache(0)
    assert none.get([matrix], build) is not none.get([matrix], build) and len(none) == 0
