import copy

import pytest
import torch
from small_graphs import batched, dense_adjacency, preprocessed, random_graph, raw_graph

from perception.engine.pretrainer import Pretrainer
from perception.errors import ConfigError, DataError
from perception.graphs.encoders.gat import GAT
from perception.graphs.encoders.gcn import GCN
from perception.graphs.encoders.gin import GIN
from perception.graphs.pretexts.graphmae import GraphMAE
from perception.graphs.pretexts.masking import NodeMask, draw_node_mask, mask_counts

DECODERS = ["gat", "gin", "gcn", "mlp", "linear"]


def make(backbone=None, **kwargs):
    torch.manual_seed(0)
    backbone = backbone or GAT(6, 8, 2, 2, in_drop=0.0, attn_drop=0.0)
    pretext = GraphMAE(**kwargs)
    pretext.attach(backbone)
    return backbone, pretext


def some_mask(nodes=20):
    """Masked 0..9: tokens 0..7, noise at 8 (reads 15), a leftover at 9."""
    order = torch.arange(nodes)
    return NodeMask(order[:10], order[10:], order[:8], torch.tensor([8]), torch.tensor([15]))


@pytest.mark.parametrize(
    ("nodes", "ratio", "rate", "expected"),
    [
        (2708, 0.5, 0.05, (1354, 1286, 67)),  # Cora: 1286 + 67 leaves one masked node that reads itself
        (100, 0.5, 0.0, (50, 50, 0)),
        (10, 0.5, 0.1, (5, 4, 0)),  # 0.1 * 5 < 1: no noise, not "all of them"
        (3327, 0.5, 0.1, (1663, 1496, 166)),
    ],
)
def test_mask_counts(nodes, ratio, rate, expected):
    assert mask_counts(nodes, ratio, rate) == expected
    torch.manual_seed(0)
    mask = draw_node_mask(nodes, ratio, rate)
    assert (len(mask.masked), len(mask.token), len(mask.noise)) == expected
    assert len(mask.noise_source) == len(mask.noise)
    assert sorted([*mask.masked.tolist(), *mask.kept.tolist()]) == list(range(nodes))
    token, noise = set(mask.token.tolist()), set(mask.noise.tolist())
    assert not token & noise and token | noise <= set(mask.masked.tolist())
    assert len(set(mask.noise_source.tolist())) == len(mask.noise_source)


def test_masks_follow_the_seed():
    def draw(seed):
        torch.manual_seed(seed)
        return draw_node_mask(50, 0.5, 0.1)

    assert torch.equal(draw(0).masked, draw(0).masked) and torch.equal(draw(0).noise_source, draw(0).noise_source)
    assert not torch.equal(draw(0).masked, draw(1).masked)


def test_masks_are_drawn_over_the_whole_batch():
    torch.manual_seed(0)
    counts = {int((draw_node_mask(20, 0.5).masked < 10).sum()) for _ in range(50)}
    assert len(counts) > 3  # the first graph's share varies


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("concat_hidden", [True, False])
def test_losses_equal_the_method_written_out(sparse, concat_hidden):
    """Every row computed, dense, straight from the paper."""
    graph, mask = random_graph(sparse=sparse), some_mask()
    x = graph.x.to_dense() if sparse else graph.x
    backbone, pretext = make(alpha=3.0, concat_hidden=concat_hidden)
    torch.nn.init.normal_(pretext.mask_token)

    corrupted = x.clone()
    corrupted[8] = x[15]
    corrupted[mask.token] = pretext.mask_token.expand(8, -1)
    maps = backbone.forward_nodes(corrupted, graph.adjacency)
    codes = (torch.cat(maps, 1) if concat_hidden else maps[-1]) @ pretext.encoder_to_decoder.weight.t()
    codes = codes * (torch.arange(20) >= 10).unsqueeze(1)
    decoder, dense = pretext.decoder, dense_adjacency(graph)
    values = codes @ decoder.fc.weight.t()
    score = (values @ decoder.attn_l[0, 0]) + (values @ decoder.attn_r[0, 0]).unsqueeze(1)
    score = torch.nn.functional.leaky_relu(score, 0.2).masked_fill(dense == 0, -torch.inf)
    found = torch.softmax(score, 1) @ values + decoder.bias
    usable = found[:10].norm(dim=1) > 0
    cosine = torch.nn.functional.cosine_similarity(found[:10], x[:10])
    expected = torch.where(usable, (1 - cosine).pow(3), 1.0).mean()

    loss = pretext.losses(backbone, graph.x, graph.adjacency, mask)["loss_reconstruction"]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    parameters = [*backbone.parameters(), *pretext.parameters()]
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gin", "gcn"])
def test_losses_of_gin_and_gcn_equal_the_methods_written_out(kind):
    """All nodes pass the batch norms in training, also those whose outputs no loss reads."""
    graph, mask = random_graph(), some_mask()
    x, dense = graph.x, dense_adjacency(graph)
    settings = {"norm": "batchnorm", "in_drop": 0.0}
    encoder = (GIN if kind == "gin" else GCN)(6, 8, 2, **settings)
    backbone, pretext = make(encoder, decoder=kind, decoder_norm="batchnorm" if kind == "gin" else None)
    torch.nn.init.normal_(pretext.mask_token)
    into, out_of = dense.sum(1, keepdim=True).sqrt(), dense.sum(0).unsqueeze(1).sqrt()

    def normalise(h, norm):
        return (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias

    def layer(h, part, end):
        if kind == "gcn":
            h = (dense @ (h / out_of) @ part.fc.weight.t() + part.fc.bias) / into
        else:
            h = normalise((h + dense @ h) @ part.fc1.weight.t() + part.fc1.bias, part.norm1)
            h = torch.where(h > 0, h, part.activation1.weight * h) @ part.fc2.weight.t() + part.fc2.bias
        if not end:
            return h
        h = normalise(h, part.norm)
        return torch.where(h > 0, h, part.activation.weight * h)

    hidden = x.clone()
    hidden[8] = x[15]
    hidden[mask.token] = pretext.mask_token.expand(8, -1)
    for part in backbone.layers:
        hidden = layer(hidden, part, end=True)
    codes = (hidden @ pretext.encoder_to_decoder.weight.t()) * (torch.arange(20) >= 10).unsqueeze(1)
    found = layer(codes, pretext.decoder, end=False)[:10]
    cosine = (found * x[:10]).sum(1) / (found.norm(dim=1).clamp_min(1e-12) * x[:10].norm(dim=1))
    expected = (1 - cosine).square().mean()
    loss = pretext.losses(backbone, x, graph.adjacency, mask)["loss_reconstruction"]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_features_of_a_token_node_matter_only_as_target():
    graph, mask = random_graph(), some_mask()
    backbone, pretext = make()
    changed = graph.x.clone()
    changed[mask.token] += 1.0
    one = pretext._encode(backbone, graph.x, graph.adjacency, mask, None)
    two = pretext._encode(backbone, changed, graph.adjacency, mask, None)
    assert torch.equal(one, two)
    losses = [pretext.losses(backbone, x, graph.adjacency, mask)["loss_reconstruction"] for x in (graph.x, changed)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("decoder", ["gat", "gin", "gcn"])
def test_reconstructions_see_no_code_of_a_masked_node(decoder):
    graph, mask = random_graph(), some_mask()
    backbone, pretext = make(decoder=decoder)
    original = backbone.forward_nodes

    def poisoned(features, adjacency, last_rows=None):
        maps = original(features, adjacency, None)
        last = maps[-1].clone()
        last[mask.masked] = torch.nan
        return [*maps[:-1], last if last_rows is None else last[last_rows]]

    backbone.forward_nodes = poisoned
    assert torch.isfinite(pretext.losses(backbone, graph.x, graph.adjacency, mask)["loss_reconstruction"])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", [GAT, GIN, GCN])
def test_every_parameter_and_the_token_get_a_gradient(decoder, kind):
    graph = random_graph()
    backbone, pretext = make(
        kind(6, 8, 2), decoder=decoder, replace_rate=0.1, decoder_norm="batchnorm" if decoder == "gin" else None
    )
    # From zero, a token of a first layer gets its gradient all the same; a bias-free zero layer would not.
    losses = pretext(backbone, {"graph": graph})
    losses["loss_reconstruction"].backward()
    for name, parameter in [*backbone.named_parameters(), *pretext.named_parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert (pretext.mask_token.grad != 0).any()


def test_the_token_starts_at_zero_and_the_paper_model_has_its_size():
    backbone = GAT(1433, 512, 2, 4)
    _, pretext = make(backbone)
    assert (pretext.mask_token == 0).all() and pretext.encoder_to_decoder.bias is None
    assert sum(p.numel() for p in [*backbone.parameters(), *pretext.parameters()]) == 2_000_486


def test_embeddings_do_not_depend_on_the_token():
    backbone, pretext = make()
    raw = {"graph": raw_graph()}
    before = backbone.embed(raw)
    torch.nn.init.normal_(pretext.mask_token)
    assert torch.equal(before, backbone.embed(raw))


def test_mse_is_the_mean_over_masked_entries():
    graph, mask = random_graph(), some_mask()
    backbone, pretext = make(loss="mse")
    target, (prediction,), _ = pretext.reconstruct(backbone, graph.x, graph.adjacency, mask)
    loss = pretext.losses(backbone, graph.x, graph.adjacency, mask)["loss_reconstruction"]
    torch.testing.assert_close(loss, (prediction - target).square().mean())
    assert torch.equal(target, graph.x[:10])


def test_edges_are_dropped_for_the_encoder_alone():
    graph, mask = random_graph(edges=200), some_mask()
    seen = {}
    backbone, pretext = make(drop_edge_rate=0.5)
    encode, decode = backbone.forward_nodes, pretext.decoder.forward
    backbone.forward_nodes = lambda f, a, r=None: (seen.update(encoder=a.num_edges), encode(f, a, r))[1]
    pretext.decoder.forward = lambda x, a, r=None: (seen.update(decoder=a.num_edges), decode(x, a, r))[1]
    pretext.losses(backbone, graph.x, graph.adjacency, mask)
    assert seen["decoder"] == graph.adjacency.num_edges
    assert seen["encoder"] < 0.7 * graph.adjacency.num_edges


def test_random_remasking_sums_its_passes_and_uses_a_token():
    graph, mask = random_graph(), some_mask()
    backbone, pretext = make(remask="random", num_remasks=3, remask_rate=0.5)
    target, passes, _ = pretext.reconstruct(backbone, graph.x, graph.adjacency, mask)
    assert len(passes) == 3 and not torch.equal(passes[0], passes[1])
    total = pretext.losses(backbone, graph.x, graph.adjacency, mask)["loss_reconstruction"]
    assert total > pretext._criterion(passes[0], target) * 1.5
    total.backward()
    assert (pretext.decoder_token.grad != 0).any()


def test_the_latent_prediction_follows_a_slow_teacher():
    graph = random_graph()
    backbone, pretext = make(latent_weight=0.5, momentum=0.9)
    teacher = {k: v.clone() for k, v in pretext.teacher.state_dict().items()}
    losses = pretext(backbone, {"graph": graph})
    assert set(losses) == {"loss_reconstruction", "loss_latent"} and losses["loss_latent"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is None for p in pretext.teacher.parameters())
    assert all(p.grad is not None for p in pretext.predictor.parameters())
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 1.0
    pretext.after_step(backbone)
    for name, value in pretext.teacher.state_dict().items():
        torch.testing.assert_close(value, teacher[name] + 0.1)


def test_the_latent_target_sees_the_clean_graph_and_only_kept_nodes():
    graph, mask = random_graph(), some_mask()
    backbone, pretext = make(latent_weight=1.0)
    clean = backbone.forward_nodes(graph.x, graph.adjacency)[-1][mask.kept]
    expected = 1 - torch.nn.functional.cosine_similarity(
        pretext.predictor(pretext.projector(clean)), pretext.projector(clean)
    )
    loss = pretext._latent_loss(clean, graph.x, graph.adjacency, mask.kept)  # teacher and student still are equal
    torch.testing.assert_close(loss, expected.mean())


def test_the_pretrainer_trains_small_graphs_in_batches():
    graphs = batched([raw_graph(n, edges=2 * n, seed=n) for n in (6, 9, 12)])
    torch.manual_seed(0)
    model = Pretrainer(
        GIN(6, 8, 2, level="graph"), {"graphmae": {"type": "GraphMAE", "decoder": "gin", "decoder_norm": "batchnorm"}}
    )
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    values = []
    for _ in range(60):
        losses = model(*model.data_preprocessor({"graph": graphs}, True))
        total, log = model.parse_losses(losses)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(log["loss"].item())
    assert sum(values[-10:]) < 0.8 * sum(values[:10])


def test_training_is_repeatable_under_a_seed():
    def run():
        torch.manual_seed(5)
        backbone, pretext = make(GAT(6, 8, 2, 2), replace_rate=0.1, drop_edge_rate=0.2)
        optimiser = torch.optim.Adam([*backbone.parameters(), *pretext.parameters()], 0.01)
        for _ in range(3):
            optimiser.zero_grad()
            sum(pretext(backbone, {"graph": random_graph(sparse=True)}).values()).backward()
            optimiser.step()
        return copy.deepcopy(backbone.state_dict())

    one, two = run(), run()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("width", [6, 16])
def test_pictures(width):
    graph = random_graph(width=width)
    backbone, pretext = make(GAT(width, 8, 2, 2))
    (picture,) = pretext.pictures(backbone, {"graph": graph}).values()
    assert picture.dtype.name == "uint8" and picture.ndim == 3 and picture.shape[2] == 3
    assert len(set(picture.flatten().tolist())) > 5


def test_faults_are_named_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"mask_ratio = 1\.5"):
        GraphMAE(mask_ratio=1.5)
    with pytest.raises(ConfigError, match=r"decoder = 'gatt'.*'gat'"):
        GraphMAE(decoder="gatt")
    with pytest.raises(ConfigError, match="alpha"):
        GraphMAE(alpha=0.5)
    with pytest.raises(ConfigError, match=r"num_out_heads = 4: does not divide the 6 features"):
        make(num_out_heads=4)
    with pytest.raises(DataError, match="hides none"):
        backbone, pretext = make(mask_ratio=0.01)
        pretext(backbone, {"graph": preprocessed(raw_graph(5, edges=5))})
