import pytest
import torch
import torch.nn.functional as F
from lidar_sweeps import KITTI, NUSCENES, SMALL, kitti_sweep, nuscenes_sweep, random_sweeps

from perception.layers.pillar_features import PillarFeatureNet, scatter_to_map, segment_max
from perception.layers.voxels import dynamic_voxels, hard_voxels


def build(channels=(8,), columns=4, grid=SMALL, slots=0, train=False, dtype=torch.float32, **options):
    torch.manual_seed(0)
    net = PillarFeatureNet(columns, channels, grid, slots=slots, **options).to(dtype)
    for layer in net.pfn_layers:  # what training leaves behind; scales of both signs
        layer.norm.weight.data.normal_()
        layer.norm.bias.data.normal_()
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.5, 2)
    return net.train(train)


def decorated(points, mean, centre, legacy, with_distance):
    """Columns of points (..., F) as the public networks lay them out."""
    own = points[..., :3] - centre if legacy else points[..., :3]
    parts = [own, points[..., 3:], points[..., :3] - mean, points[..., :3] - centre]
    return torch.cat([*parts, own.norm(dim=-1, keepdim=True)] if with_distance else parts, -1)


def centres(voxels, grid):
    z, y, x = voxels.coors[:, 1:].T.double()
    depth = (grid.z[1] - grid.z[0]) / voxels.shape[0]
    found = [grid.x[0] + (x + 0.5) * grid.cell[0], grid.y[0] + (y + 0.5) * grid.cell[1], grid.z[0] + (z + 0.5) * depth]
    return torch.stack(found, 1).to(voxels.points.dtype)


def normed(layer, rows, training):
    norm = layer.norm
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    out = F.batch_norm(rows @ layer.linear.weight.T, mean, var, norm.weight, norm.bias, training, 0.01, 1e-3)
    return F.relu(out), (mean, var)


def padded_reference(net, voxels, slots, grid, legacy, with_distance, training):
    """Public hard form: T slots a pillar, zero rows among them from the second step on like any other row."""
    count = voxels.num_points[:, None, None]
    points = torch.zeros(len(voxels), slots, voxels.points.shape[1], dtype=voxels.points.dtype)
    for number in range(len(voxels)):
        rows = voxels.points[voxels.voxel == number]
        points[number, : len(rows)] = rows
    mean = points[..., :3].sum(1, keepdim=True) / count
    x = decorated(points, mean, centres(voxels, grid)[:, None], legacy, with_distance)
    x = x * (torch.arange(slots)[:, None] < count)
    running = []
    for place, layer in enumerate(net.pfn_layers):
        out, stats = normed(layer, x.flatten(0, 1), training)
        running.append(stats)
        out = out.unflatten(0, (len(voxels), slots))
        top = out.max(1, keepdim=True).values
        x = torch.cat([out, top.expand_as(out)], 2) if place < len(net.pfn_layers) - 1 else top
    return x[:, 0], running


def packed_reference(net, voxels, grid, legacy, with_distance, training):
    """The same without padding, pillar by pillar."""
    rows = [voxels.points[voxels.voxel == number] for number in range(len(voxels))]
    centre = centres(voxels, grid)
    x = torch.cat([decorated(p, p[:, :3].mean(0), c, legacy, with_distance) for p, c in zip(rows, centre, strict=True)])
    sizes, running = [len(p) for p in rows], []
    for place, layer in enumerate(net.pfn_layers):
        out, stats = normed(layer, x, training)
        running.append(stats)
        top = torch.stack([part.max(0).values for part in out.split(sizes)])
        repeated = top.repeat_interleave(torch.tensor(sizes), 0)
        x = torch.cat([out, repeated], 1) if place < len(net.pfn_layers) - 1 else top
    return x, running


CASES = [
    (channels, legacy, with_distance, training)
    for channels in ((8,), (8, 12))
    for legacy in (False, True)
    for with_distance in (False, True)
    for training in (False, True)
]


@pytest.mark.parametrize(("channels", "legacy", "with_distance", "training"), CASES)
@pytest.mark.parametrize("padding", [False, True])
def test_layers_are_the_plain_ones(channels, legacy, with_distance, training, padding):
    options = dict(legacy=legacy, with_distance=with_distance)
    net = build(channels, slots=4 if padding else 0, train=training, **options)
    voxels = hard_voxels(random_sweeps(150, 60), SMALL, 4, 40)
    if padding:
        expected, running = padded_reference(net, voxels, 4, SMALL, training=training, **options)
    else:
        expected, running = packed_reference(net, voxels, SMALL, training=training, **options)
    found = net(voxels)
    assert found.shape == (len(voxels), channels[-1]) and (found > 0).any()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for layer, (mean, var) in zip(net.pfn_layers, running, strict=True):
        torch.testing.assert_close(layer.norm.running_mean, mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.norm.running_var, var, atol=1e-5, rtol=1e-5)
        assert int(layer.norm.num_batches_tracked) == training


@pytest.mark.parametrize("channels", [(64,), (64, 64)])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_real_frame_agrees_with_the_plain_network_to_the_canvas(channels, legacy):
    for sweep, grid, slots in ((kitti_sweep(), KITTI, 32), (nuscenes_sweep(), NUSCENES, 20)):
        net = build(channels, sweep.shape[1], grid, slots=slots, legacy=legacy)
        voxels = hard_voxels([sweep], grid, slots, 40_000)
        with torch.no_grad():
            found = net(voxels)
            some = torch.arange(0, len(voxels), 40)
            chosen = hard_voxels([voxels.points[torch.isin(voxels.voxel, some)]], grid, slots, 40_000)
            expected, _ = padded_reference(net, chosen, slots, grid, legacy, False, False)
        assert torch.equal(chosen.coors, voxels.coors[some])
        torch.testing.assert_close(found[some], expected, atol=1e-4, rtol=0)
        canvas = scatter_to_map(found, voxels.coors, 1, grid.shape)
        _, _, y, x = voxels.coors[some].long().T
        torch.testing.assert_close(canvas[0, :, y, x].T, expected, atol=1e-4, rtol=0)
        assert int((canvas != 0).any(1).sum()) <= len(voxels)


def test_gradients_are_those_of_the_plain_layers():
    voxels = dynamic_voxels(random_sweeps(200, dtype=torch.float64), SMALL)
    net = build((8, 6), train=True, dtype=torch.float64)
    weights = torch.randn(len(voxels), 6, dtype=torch.float64)
    found = torch.autograd.grad((net(voxels) * weights).sum(), list(net.parameters()))
    plain = packed_reference(net, voxels, SMALL, False, False, True)[0]
    for ours, theirs in zip(found, torch.autograd.grad((plain * weights).sum(), list(net.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("channels", "slots"), [((5,), 0), ((4, 5), 0), ((5,), 4), ((4, 5), 4)])
def test_gradcheck_of_points_and_weights(training, channels, slots):
    sweep = random_sweeps(10, dtype=torch.float64)[0] * 0.2
    net = build(channels, slots=slots, train=training, dtype=torch.float64)
    names = [name for name, _ in net.named_parameters()]

    def run(points, *values):
        voxels = hard_voxels([points], SMALL, 4, 100)
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (voxels,))

    values = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(run, (sweep.requires_grad_(), *values))


def test_gradient_reaches_only_points_that_win_a_maximum():
    # Without the mean no point sees its neighbours.
    net = build((6,))
    net.pfn_layers[0].linear.weight.data[:, 4:7] = 0
    points = random_sweeps(300)[0].requires_grad_()
    voxels = dynamic_voxels([points], SMALL)
    net(voxels).sum().backward()
    with torch.no_grad():
        rows = voxels.points
        d = decorated(rows, rows[:, :3], centres(voxels, SMALL)[voxels.voxel], False, False)
        single, _ = normed(net.pfn_layers[0], d, False)
        wins = torch.zeros(len(rows), dtype=torch.bool)
        for number in range(len(voxels)):
            members = (voxels.voxel == number).nonzero().squeeze(1)
            best = single[members].max(0)
            wins[members[best.indices[best.values > 0]]] = True
    moved = points.grad.abs().sum(1) > 0
    inside = SMALL.index(points)[2] & (points[:, 2].abs() < 1)
    assert torch.equal(moved[inside], wins) and not moved[~inside].any()
    assert 0 < int(wins.sum()) < len(wins)


def test_ties_share_the_gradient():
    values = torch.tensor([[1.0, 5.0], [1.0, 2.0], [0.0, 7.0]], requires_grad=True)
    top = segment_max(values, torch.tensor([0, 0, 1]), 2)
    assert top.tolist() == [[1.0, 5.0], [0.0, 7.0]]
    top.backward(torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    assert values.grad.tolist() == [[1.0, 3.0], [1.0, 0.0], [4.0, 5.0]]


@pytest.mark.parametrize("training", [False, True])
def test_the_order_of_points_does_not_matter(training):
    sweep = nuscenes_sweep()
    net = build((64,), 5, NUSCENES, train=training)
    order = torch.randperm(len(sweep), generator=torch.Generator().manual_seed(0))
    first, second = (net(dynamic_voxels([s], NUSCENES)) for s in (sweep, sweep[order]))
    assert (first - second).abs().max() < 1e-5 * first.abs().max().clamp_min(1)


def test_shifting_points_by_whole_cells_shifts_the_canvas():
    # Sixteenths of a metre are exact in floats, so that no point changes its cell by rounding.
    sweep = (torch.rand(200, 4, generator=torch.Generator().manual_seed(1)) * 16).round() / 16 - 0.5
    shifted = sweep + torch.tensor([-1.0, 0.5, 0.0, 0.0])
    net = build((8,), legacy=True)
    maps = []
    for points in (sweep, shifted):
        voxels = dynamic_voxels([points], SMALL)
        maps.append(scatter_to_map(net(voxels), voxels.coors, 1, SMALL.shape))
    rows, columns = SMALL.shape
    assert maps[0].abs().sum() > 0
    torch.testing.assert_close(maps[1][..., 1:, : columns - 2], maps[0][..., : rows - 1, 2:], atol=1e-6, rtol=0)


def test_the_canvas_holds_every_pillar_once_and_nothing_else():
    voxels = dynamic_voxels(random_sweeps(40, 0, 30), SMALL)
    features = torch.rand(len(voxels), 3) + 1
    canvas = scatter_to_map(features, voxels.coors, 3, SMALL.shape)
    assert canvas.shape == (3, 3, *SMALL.shape) and canvas.is_contiguous(memory_format=torch.channels_last)
    for row, (sweep, _, y, x) in enumerate(voxels.coors.tolist()):
        assert torch.equal(canvas[sweep, :, y, x], features[row])
    assert int((canvas != 0).sum()) == features.numel() and (canvas[1] == 0).all()


@pytest.mark.parametrize("slots", [0, 4])
def test_an_empty_sweep_gives_a_zero_map_with_a_gradient(slots):
    net = build((6, 8), slots=slots, train=True)
    before = net.pfn_layers[0].norm.running_mean.clone()
    voxels = hard_voxels([torch.zeros(0, 4)] * 2, SMALL, 4, 10)
    canvas = scatter_to_map(net(voxels), voxels.coors, 2, SMALL.shape)
    assert canvas.shape == (2, 8, *SMALL.shape) and (canvas == 0).all()
    canvas.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in net.parameters())
    assert torch.equal(net.pfn_layers[0].norm.running_mean, before)


def test_an_empty_view_and_a_full_one_in_one_step():
    net = build((6,), train=True)
    empty, full = (net(dynamic_voxels([p], SMALL)) for p in (torch.zeros(0, 4), random_sweeps(50)[0]))
    (empty.sum() + full.sum()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_one_point_in_training_is_normed_by_the_running_statistics():
    net = build((6,), train=True)
    voxels = dynamic_voxels([torch.tensor([[0.1, 0.2, 0.3, 0.4]])], SMALL)
    found = net(voxels)
    torch.testing.assert_close(found, net.eval()(voxels))
    assert found.isfinite().all() and int(net.pfn_layers[0].norm.num_batches_tracked) == 0


def test_autocast_does_not_touch_the_points():
    net, voxels = build((8,)), dynamic_voxels(random_sweeps(100), SMALL)
    expected = net(voxels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(voxels), expected)


def test_names_are_those_of_the_public_network():
    keys = set(build((64, 64)).state_dict())
    assert {"pfn_layers.0.linear.weight", "pfn_layers.1.norm.running_var"} <= keys
    shapes = {k: tuple(v.shape) for k, v in build((64, 64)).state_dict().items() if k.endswith("linear.weight")}
    assert shapes == {"pfn_layers.0.linear.weight": (32, 10), "pfn_layers.1.linear.weight": (64, 64)}
