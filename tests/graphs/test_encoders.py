import math

import pytest
import torch
import torch.nn.functional as F
from small_graphs import batched, dense_adjacency, preprocessed, random_graph, raw_graph
from torch_geometric.nn import GATConv, GINConv

from perception.errors import ConfigError, DataError
from perception.graphs.encoders.base import pool, propagate
from perception.graphs.encoders.gat import GAT, GATLayer
from perception.graphs.encoders.gcn import GCN, GCNLayer
from perception.graphs.encoders.gin import GIN, GINLayer
from perception.layers.node_features import NodeFeatures

ENCODERS = [GAT, GIN, GCN]


def make(kind, width=6, hidden=8, layers=2, **kwargs):
    torch.manual_seed(0)
    return kind(width, hidden, layers, **({"num_heads": 2} if kind is GAT else {}), **kwargs)


def test_gat_layer_equals_torch_geometric_with_the_same_weights():
    graph = random_graph()
    torch.manual_seed(0)
    ours = GATLayer(6, 12, 3)
    torch.nn.init.normal_(ours.bias)
    theirs = GATConv(6, 4, heads=3, negative_slope=0.2, add_self_loops=False)
    theirs.load_state_dict(
        {"lin.weight": ours.fc.weight, "att_src": ours.attn_l, "att_dst": ours.attn_r, "bias": ours.bias}
    )
    torch.testing.assert_close(ours(graph.x, graph.adjacency), theirs(graph.x, graph.edge_index))


def test_gat_layer_equals_the_explicit_formula_with_residual_norm_and_activation():
    graph = random_graph(nodes=7, edges=12)
    torch.manual_seed(0)
    layer = GATLayer(6, 8, 2, activation="prelu", norm="layernorm", residual=True).double()
    x, dense = graph.x.double(), dense_adjacency(graph)
    out = torch.empty(7, 8, dtype=torch.float64)
    z = (x @ layer.fc.weight.t()).view(7, 2, 4)
    for i in range(7):
        neighbours = dense[i].nonzero().squeeze(1)
        for h in range(2):
            score = z[neighbours, h] @ layer.attn_l[0, h] + z[i, h] @ layer.attn_r[0, h]
            attention = torch.softmax(torch.where(score > 0, score, 0.2 * score), 0)
            out[i, 4 * h : 4 * h + 4] = attention @ z[neighbours, h]
    out = out + layer.bias + x @ layer.res_fc.weight.t()
    out = F.layer_norm(out, (8,))
    expected = torch.where(out > 0, out, 0.25 * out)
    torch.testing.assert_close(layer(x, graph.adjacency), expected)
    torch.testing.assert_close(layer(NodeFeatures(x), graph.adjacency), expected)


def test_gin_layer_counts_a_node_with_a_self_loop_twice():
    graph = random_graph()
    torch.manual_seed(0)
    layer = GINLayer(6, 8, activation="relu", norm="batchnorm").eval()
    mlp = torch.nn.Sequential(layer.fc1, layer.norm1, torch.nn.ReLU(), layer.fc2)
    theirs = GINConv(mlp)(graph.x, graph.edge_index)
    torch.testing.assert_close(layer(graph.x, graph.adjacency), torch.relu(layer.norm(theirs)))
    loops_only = (dense_adjacency(graph) @ graph.x) + graph.x
    by_hand = layer.fc2(torch.relu(layer.norm1(layer.fc1(loops_only))))
    torch.testing.assert_close(layer(graph.x, graph.adjacency), torch.relu(layer.norm(by_hand)))


def test_a_bare_gin_layer_ends_with_its_mlp():
    graph = random_graph()
    layer = GINLayer(6, 3, 8, norm="batchnorm", bare=True).eval()
    summed = dense_adjacency(graph) @ graph.x + graph.x
    expected = layer.fc2(F.prelu(layer.norm1(layer.fc1(summed)), layer.activation1.weight))
    torch.testing.assert_close(layer(graph.x, graph.adjacency), expected)


@pytest.mark.parametrize("width", [6, 12])  # aggregate first, and project first
def test_gcn_layer_scales_the_bias_too(width):
    graph = random_graph(width=width)
    torch.manual_seed(0)
    layer = GCNLayer(width, 8)
    dense = dense_adjacency(graph)
    d_in, d_out = dense.sum(1, keepdim=True), dense.sum(0).unsqueeze(1)
    expected = (F.linear(dense @ (graph.x / d_out.sqrt()), layer.fc.weight) + layer.fc.bias) / d_in.sqrt()
    torch.testing.assert_close(layer(graph.x, graph.adjacency), expected)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", [6, 30])
def test_sparse_features_give_what_dense_ones_give(kind, residual, width):
    sparse = random_graph(width=width, sparse=True)
    dense = sparse.clone()
    dense.x = sparse.x.to_dense()
    model = make(kind, width, residual=residual).eval()
    for a, b in zip(model(sparse), model(dense), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [None, "layernorm", "batchnorm"])
def test_restricting_the_last_layer_gives_the_same_rows(kind, residual, norm):
    graph = random_graph()
    model = make(kind, residual=residual, norm=norm, in_drop=0.0, **({"attn_drop": 0.0} if kind is GAT else {}))
    rows = torch.tensor([3, 11, 19])  # so few that the layer sums before it projects
    many = torch.arange(0, 18)  # and so many that it does not
    full = model.forward_nodes(graph.x, graph.adjacency)[-1]
    for wanted in (rows, many):
        torch.testing.assert_close(model.forward_nodes(graph.x, graph.adjacency, wanted)[-1], full[wanted])


def test_aggregate_then_project_equals_project_then_aggregate_with_gradients():
    graph = random_graph()
    torch.manual_seed(0)
    layer = GATLayer(6, 16, 1).double()
    x = graph.x.double().requires_grad_()
    first = layer._aggregate_then_project(x, graph.adjacency, None)
    second = layer._project_then_aggregate(x, graph.adjacency, None)
    torch.testing.assert_close(first, second)
    wanted = [x, *(p for p in layer.parameters() if p.numel())]
    probe = torch.randn_like(first)
    for a, b in zip(
        torch.autograd.grad((first * probe).sum(), wanted),
        torch.autograd.grad((second * probe).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ENCODERS)
def test_permuting_the_nodes_permutes_the_output(kind):
    graph = raw_graph()
    order = torch.randperm(20)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(20)
    permuted = graph.clone()
    permuted.x, permuted.edge_index = graph.x[order], inverse[graph.edge_index]
    model = make(kind).eval()
    one, two = model(preprocessed(graph))[-1], model(preprocessed(permuted))[-1]
    torch.testing.assert_close(one[order], two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "max", "sum"])
def test_a_graph_has_the_same_embedding_alone_and_in_a_batch(kind, pooling):
    graphs = [raw_graph(nodes, edges=2 * nodes, seed=nodes) for nodes in (5, 9, 14)]
    model = make(kind, level="graph", pooling=pooling, norm="batchnorm")
    model.train()
    model(preprocessed(batched(graphs)))  # give the norms statistics of their own
    together = model.embed({"graph": batched(graphs)})
    assert together.shape == (3, 8)
    for row, graph in enumerate(graphs):
        torch.testing.assert_close(model.embed({"graph": batched([graph])})[0], together[row], atol=1e-5, rtol=1e-5)


def test_pooling_by_hand_and_of_a_graph_without_nodes():
    graph = batched([raw_graph(2), raw_graph(3)])
    graph.batch, graph.ptr = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 2, 2, 5])
    nodes = torch.tensor([[1.0], [-3.0], [-1.0], [-2.0], [-6.0]])
    assert pool(nodes, graph, "mean").flatten().tolist() == [-1.0, 0.0, -3.0]
    assert pool(nodes, graph, "sum").flatten().tolist() == [-2.0, 0.0, -9.0]
    assert pool(nodes, graph, "max").flatten().tolist() == [1.0, 0.0, -1.0]


def test_propagation_is_the_symmetrically_normalised_adjacency():
    graph = random_graph()
    dense = dense_adjacency(graph)
    scale = dense.sum(1).rsqrt()
    step = scale.unsqueeze(1) * dense * scale
    torch.testing.assert_close(propagate(graph.x, graph.adjacency, 2), step @ step @ graph.x)


def test_baselines_and_raw_features():
    graph = random_graph(sparse=True)
    model = make(GAT)
    found = model.baselines({"graph": graph})
    assert set(found) == {"raw", "propagated"}
    assert torch.equal(found["raw"], graph.x.to_dense()) and found["propagated"].shape == (20, 6)
    pooled = make(GIN, level="graph").baselines({"graph": preprocessed(batched([raw_graph(), raw_graph(seed=1)]))})
    assert pooled["raw"].shape == pooled["propagated"].shape == (2, 6)


def test_gat_initialisation():
    torch.manual_seed(0)
    layer = GATLayer(300, 512, 4, residual=True)
    assert layer.fc.weight.std().item() == pytest.approx(math.sqrt(2) * math.sqrt(2 / (300 + 512)), rel=0.02)
    # torch's fan of a (1, heads, d) tensor: heads * d in, d out
    assert layer.attn_l.std().item() == pytest.approx(math.sqrt(2) * math.sqrt(2 / (512 + 128)), rel=0.15)
    assert (layer.bias == 0).all()
    assert layer.res_fc.bias is None
    assert GATLayer(512, 512, 4, activation="prelu", residual=True).res_fc is None


def test_the_activation_has_one_slope_a_layer():
    model = GAT(1433, 512, 2, 4)
    assert [layer.activation.weight.tolist() for layer in model.layers] == [[0.25], [0.25]]
    # W, two score vectors, bias and slope of both layers
    assert sum(p.numel() for p in model.parameters()) == 1433 * 512 + 512 * 512 + 2 * (3 * 512 + 1)


@pytest.mark.parametrize("kind", ENCODERS)
def test_dropout_only_in_training_and_gradients_everywhere(kind):
    graph = random_graph()
    model = make(kind)
    assert not torch.equal(model(graph)[-1], model(graph)[-1])
    model(graph)[-1].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    first = model.embed({"graph": raw_graph()})
    assert torch.equal(first, model.embed({"graph": raw_graph()})) and model.training


def test_forward_gives_the_layers_asked_for():
    graph = random_graph()
    model = make(GAT, layers=3).eval()
    maps = model(graph)
    assert [tuple(m.shape) for m in maps] == [(20, 8)] * 3
    some = make(GAT, layers=3, out_indices=(0, -1)).eval()(graph)
    assert torch.equal(some[0], maps[0]) and torch.equal(some[1], maps[2])
    assert model.layer_count() == 5 and model.layer_id("layers.2.fc.weight") == 3


def test_autocast_runs_forward_and_backward():
    graph = random_graph()
    model = make(GAT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(graph)[-1].float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)


def test_wrong_sizes_and_names_are_named():
    graph = random_graph(width=5)
    with pytest.raises(DataError, match=r"5 features a node.*in_dim is 6"):
        make(GAT)(graph)
    with pytest.raises(ConfigError, match="norm"):
        make(GAT, norm="graphnorm")
    faults = dict(
        GAT.check_config({"num_hidden": 10, "num_heads": 4, "level": "edge", "in_drop": 1.0, "norm": "batchnrom"})
    )
    assert set(faults) == {"num_heads", "level", "in_drop", "norm"}
    assert "batchnorm" in faults["norm"]
    assert dict(GIN.check_config({"num_layers": 2, "out_indices": [2]}))["out_indices"]
