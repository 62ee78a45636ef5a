import copy

import pytest
import torch

from perception.errors import DataError
from perception.layers.adjacency import Adjacency, _products_in_chunks, _sampled_products


@pytest.fixture
def graph():
    """Five nodes, seven edges, one of them twice, node 4 without incoming edges."""
    edges = torch.tensor([[4, 0, 1, 2, 2, 3, 0, 0], [0, 1, 0, 3, 2, 1, 2, 2]])
    return edges, Adjacency.from_edges(edges, 5)


def dense(edges, weight, size):
    out = torch.zeros(size, size, dtype=weight.dtype)
    for (source, target), w in zip(edges.t().tolist(), weight.tolist(), strict=True):
        out[target, source] += w
    return out


def test_edges_are_sorted_by_target_and_all_there(graph):
    edges, adjacency = graph
    assert adjacency.target.tolist() == sorted(adjacency.target.tolist())
    assert sorted(map(tuple, adjacency.edge_index.t().tolist())) == sorted(map(tuple, edges.t().tolist()))
    assert adjacency.crow.tolist() == [0, 2, 4, 7, 8, 8]
    assert adjacency.in_degree().tolist() == [2, 2, 3, 1, 0]
    assert adjacency.out_degree().tolist() == [3, 1, 2, 1, 1]


@pytest.mark.parametrize("heads", [1, 3])
def test_aggregate_is_a_dense_product_per_head(graph, heads):
    _, adjacency = graph
    weight = torch.rand(8, heads, dtype=torch.float64)
    values = torch.randn(5, heads, 4, dtype=torch.float64)
    out = adjacency.aggregate(values, weight)
    for h in range(heads):
        expected = dense(adjacency.edge_index, weight[:, h], 5) @ values[:, h]
        torch.testing.assert_close(out[:, h], expected)
    shared = adjacency.aggregate(values[:, 0], weight)
    torch.testing.assert_close(shared[:, 0], out[:, 0])
    assert shared.shape == (5, heads, 4)


def test_aggregate_without_weights_sums_neighbours(graph):
    _, adjacency = graph
    values = torch.randn(5, 4)
    ones = dense(adjacency.edge_index, torch.ones(8), 5)
    torch.testing.assert_close(adjacency.aggregate(values), ones @ values)


@pytest.mark.parametrize("shared", [True, False])
def test_gradients(graph, shared):
    _, adjacency = graph
    weight = torch.rand(8, 2, dtype=torch.float64, requires_grad=True)
    shape = (5, 3) if shared else (5, 2, 3)
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, v: adjacency.aggregate(v, adjacency.softmax(w)), (weight, values))
    rows = torch.tensor([3, 0, 4])
    assert torch.autograd.gradcheck(
        lambda v: adjacency.restrict(rows).aggregate(v, torch.ones(3, 2, dtype=torch.float64)), (values,)
    )


@pytest.mark.parametrize("numbers", [1, 9, 10**6])  # an edge, three edges, or all edges at a time
def test_products_sampled_at_edges_in_chunks(graph, numbers):
    _, adjacency = graph
    left, right = torch.randn(5, 3), torch.randn(5, 3)
    found = _products_in_chunks(adjacency, left, right, numbers)
    torch.testing.assert_close(found, (left @ right.t())[adjacency.target, adjacency.source])
    torch.testing.assert_close(found, _sampled_products(adjacency, left, right, (5, 5)))


def test_softmax_sums_to_one_over_incoming_edges_and_survives_large_logits(graph):
    _, adjacency = graph
    logits = torch.randn(8, 2) * 100 + 1000
    attention = adjacency.softmax(logits)
    for node in range(4):
        mine = adjacency.target == node
        torch.testing.assert_close(attention[mine], torch.softmax(logits[mine], 0))


def test_restrict_gives_the_rows_that_were_asked_for(graph):
    _, adjacency = graph
    values = torch.randn(5, 4)
    rows = torch.tensor([3, 4, 0])
    torch.testing.assert_close(adjacency.restrict(rows).aggregate(values), adjacency.aggregate(values)[rows])
    assert adjacency.restrict(rows).num_targets == 3


def test_dropping_edges_keeps_every_self_loop_exactly_once():
    torch.manual_seed(0)
    size = 60
    edges = torch.cat([torch.randint(size, (2, 4000)), torch.arange(size).repeat(2, 1)], 1)
    edges = torch.cat([edges[:, :4000][:, edges[0, :4000] != edges[1, :4000]], edges[:, 4000:]], 1)
    adjacency = Adjacency.from_edges(edges, size)
    dropped = adjacency.drop_edges(0.4)
    loops = dropped.source == dropped.target
    assert dropped.source[loops].tolist() == list(range(size))
    share = int((~loops).sum()) / (adjacency.num_edges - size)
    assert share == pytest.approx(0.6, abs=0.03)
    assert adjacency.drop_edges(0.0) is adjacency


def test_edges_out_of_range_are_named():
    with pytest.raises(DataError, match=r"edge 1 is \[1, 7\].*3 nodes"):
        Adjacency.from_edges(torch.tensor([[0, 1], [1, 7]]), 3)
    with pytest.raises(DataError, match="edge 0"):
        Adjacency.from_edges(torch.tensor([[-1], [1]]), 3)


def test_no_edges_and_copies():
    empty = Adjacency.from_edges(torch.zeros(2, 0, dtype=torch.long), 3)
    assert (empty.aggregate(torch.ones(3, 2)) == 0).all()
    assert copy.deepcopy(empty).num_targets == 3
    assert empty.to("cpu") is empty


def test_half_precision_is_computed_in_float32(graph):
    _, adjacency = graph
    values = torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = adjacency.aggregate(values.bfloat16())
    assert out.dtype == torch.float32
