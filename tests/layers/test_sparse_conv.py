import pytest
import torch
import torch.nn.functional as F

from perception.layers.sparse_conv import (
    SparseBlock,
    SparseConv3d,
    SparseEncoder,
    SparseMap,
    SparseNorm,
    encoded_shape,
)

SHAPE = (8, 8, 8)


def active_cells(batch=2, share=0.1, shape=SHAPE, channels=3, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, *shape, generator=random) < share
    coors = mask.nonzero()
    coors = coors[torch.randperm(len(coors), generator=random)].int()
    features = torch.randn(len(coors), channels, generator=random, dtype=dtype)
    return features, coors, mask


def dense_of(features, coors, batch, shape):
    out = features.new_zeros(batch, *shape, features.shape[1])
    return out.index_put(tuple(coors.long().T), features).permute(0, 4, 1, 2, 3)


def dense_map(sparse):
    return dense_of(sparse.features, sparse.coors(), sparse.batch_size, sparse.shape)


CONVS = [
    dict(kernel=3, submanifold=True),
    dict(kernel=(1, 3, 5), submanifold=True),
    dict(kernel=3, stride=2, padding=1),
    dict(kernel=3, stride=2, padding=(0, 1, 1)),
    dict(kernel=(3, 1, 1), stride=(2, 1, 1)),
    dict(kernel=2, stride=2),
    dict(kernel=3, stride=1, padding=1),
]


@pytest.mark.parametrize("options", CONVS)
@pytest.mark.parametrize("share", [0.03, 0.3])
def test_sparse_is_dense_restricted_to_the_active_cells_forward_and_backward(options, share):
    torch.manual_seed(0)
    conv = SparseConv3d(3, 4, **options).double()
    features, coors, mask = active_cells(share=share)
    features.requires_grad_()
    found = conv(SparseMap.of(features, coors, SHAPE, 2))

    padding = tuple(k // 2 for k in conv.kernel) if conv.submanifold else conv.padding
    weight = conv.weight.permute(4, 3, 0, 1, 2)
    dense = F.conv3d(dense_of(features, coors, 2, SHAPE), weight, stride=conv.stride, padding=padding)
    reached = F.conv3d(mask[:, None].double(), torch.ones(1, 1, *conv.kernel).double(), None, conv.stride, padding) > 0
    active = mask[:, None] if conv.submanifold else reached
    expected = torch.where(active, dense, torch.zeros_like(dense))
    assert tuple(expected.shape[2:]) == found.shape
    torch.testing.assert_close(dense_map(found), expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(found.coors(), active[:, 0].nonzero())

    weights = torch.randn(expected.shape, dtype=torch.float64)
    theirs = torch.autograd.grad((expected * weights).sum(), (features, conv.weight))
    ours = torch.autograd.grad((dense_map(found) * weights).sum(), (features, conv.weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("options", [CONVS[0], CONVS[2]])
def test_gradcheck_of_both_kinds(options):
    features, coors, _ = active_cells(batch=1, share=0.02, channels=2)
    conv = SparseConv3d(2, 2, **options).double()

    def run(values, weight):
        sparse = SparseMap.of(values, coors, SHAPE, 1)
        return torch.func.functional_call(conv, {"weight": weight}, (sparse,)).features

    assert torch.autograd.gradcheck(run, (features.requires_grad_(), conv.weight), fast_mode=True)


def test_layers_of_one_resolution_share_their_pairs():
    features, coors, _ = active_cells(channels=4)
    sparse = SparseMap.of(features, coors, SHAPE, 2)
    first = SparseConv3d(4, 4, submanifold=True).double()(sparse)
    assert first.pairs is sparse.pairs and list(sparse.pairs) == [(3, 3, 3)]
    pairs = sparse.pairs[3, 3, 3]
    SparseConv3d(4, 4, submanifold=True).double()(first)
    assert first.pairs[3, 3, 3] is pairs


def test_a_block_is_two_convolutions_around_a_shortcut():
    torch.manual_seed(0)
    block = SparseBlock(3).double().eval()
    for norm in (block.bn1, block.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    features, coors, mask = active_cells()
    x = dense_of(features, coors, 2, SHAPE)

    def unit(x, conv, norm):
        out = F.conv3d(x, conv.weight.permute(4, 3, 0, 1, 2), padding=1)
        out = F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, 1e-3)
        return out * mask[:, None]

    expected = F.relu(unit(F.relu(unit(x, block.conv1, block.bn1)), block.conv2, block.bn2) + x)
    found = dense_map(block(SparseMap.of(features, coors, SHAPE, 2)))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_heights_become_channels_feature_by_feature():
    features, coors, _ = active_cells()
    flat = SparseMap.of(features, coors, SHAPE, 2).flat()
    assert torch.equal(flat, dense_of(features, coors, 2, SHAPE).flatten(1, 2))
    assert flat.is_contiguous(memory_format=torch.channels_last)


def test_the_published_encoder():
    stages = ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128))
    assert encoded_shape((41, 1440, 1440), 4) == (2, 180, 180)
    assert encoded_shape((41, 1024, 1024), 4) == (2, 128, 128)
    encoder = SparseEncoder(5, stages, 128)
    features, coors, _ = active_cells(1, 0.01, (41, 32, 32), 5, torch.float32)
    assert encoder(SparseMap.of(features, coors, (41, 32, 32), 1)).shape == (1, 256, 4, 4)
    shapes = {k: tuple(v.shape) for k, v in encoder.state_dict().items() if v.ndim == 5}
    assert shapes["conv_input.0.weight"] == (3, 3, 3, 5, 16)
    assert shapes["encoder_layers.encoder_layer1.0.conv1.weight"] == (3, 3, 3, 16, 16)
    assert shapes["encoder_layers.encoder_layer3.2.0.weight"] == (3, 3, 3, 64, 128)
    assert shapes["encoder_layers.encoder_layer4.1.conv2.weight"] == (3, 3, 3, 128, 128)
    assert shapes["conv_out.0.weight"] == (3, 1, 1, 128, 128)
    assert len(shapes) == 1 + 4 * 4 + 3 + 1
    norms = {k for k in encoder.state_dict() if k.endswith("running_var")}
    assert {"conv_input.1.running_var", "encoder_layers.encoder_layer2.1.bn2.running_var"} <= norms


@pytest.mark.parametrize("count", [0, 1])
def test_no_cell_and_a_single_one_in_training(count):
    encoder = SparseEncoder(3, ((4, 4, 6), (6, 6)), 5).train()
    features, coors = torch.randn(count, 3), torch.tensor([[1, 3, 4, 4]])[:count]
    flat = encoder(SparseMap.of(features, coors, (9, 8, 8), 2))
    nz, ny, nx = encoded_shape((9, 8, 8), 2)
    assert flat.shape == (2, 5 * nz, ny, nx) and (flat[0] == 0).all() and flat.isfinite().all()
    flat.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_norm_of_one_row_is_that_of_the_running_statistics():
    norm = SparseNorm(2).train()
    norm.running_mean.fill_(1)
    norm.running_var.fill_(4)
    torch.testing.assert_close(norm(torch.tensor([[5.0, 1.0]])), torch.tensor([[2.0, 0.0]]), atol=1e-3, rtol=0)
    assert int(norm.num_batches_tracked) == 0
    norm(torch.randn(5, 2))
    assert int(norm.num_batches_tracked) == 1


def test_kernels_that_cannot_be_submanifold():
    with pytest.raises(ValueError, match="odd kernel"):
        SparseConv3d(1, 1, 2, submanifold=True)
