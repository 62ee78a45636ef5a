import pytest
import torch
import torch.nn.functional as F

from perception.backbones.video_vit import VideoViT
from perception.checkpoint import load_state
from perception.engine.layer_decay import LayerDecayConstructor
from perception.errors import ConfigError
from perception.tasks.classifier import Classifier

SMALL = dict(image_size=(8, 12), frames=4, patch_size=4, tubelet=2, embed_dim=32, depth=3, num_heads=4)
SEPARABLE = dict(position="separable", class_token=True, qkv_bias=True)


def build(**changes):
    torch.manual_seed(0)
    return VideoViT(**{**SMALL, **changes})


def clip(batch=2, frames=4, size=(8, 12)):
    return torch.randn(batch, 3, frames, *size)


def literal_block(x, w, prefix, heads):
    """One pre-norm block over (N, D), written out from the formulae; no bias of keys."""
    dim, size = x.shape[1], x.shape[1] // heads
    y = F.layer_norm(x, (dim,), w[prefix + "norm1.weight"], w[prefix + "norm1.bias"], 1e-6)
    q, k, v = (y @ w[prefix + "attn.qkv.weight"].T).split(dim, dim=1)
    q, v = q + w[prefix + "attn.q_bias"], v + w[prefix + "attn.v_bias"]
    parts = []
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        parts.append(torch.softmax(q[:, s] @ k[:, s].T / size**0.5, dim=1) @ v[:, s])
    x = x + torch.cat(parts, dim=1) @ w[prefix + "attn.proj.weight"].T + w[prefix + "attn.proj.bias"]
    y = F.layer_norm(x, (dim,), w[prefix + "norm2.weight"], w[prefix + "norm2.bias"], 1e-6)
    y = F.gelu(y @ w[prefix + "mlp.fc1.weight"].T + w[prefix + "mlp.fc1.bias"])
    return x + y @ w[prefix + "mlp.fc2.weight"].T + w[prefix + "mlp.fc2.bias"]


def test_visible_tokens_are_gathered_rows_through_the_same_blocks():
    vit = build()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, keep = clip(), torch.tensor([[0, 7, 11], [2, 3, 5]])
    w = {k: v.double() for k, v in vit.state_dict().items()}
    embedded = F.conv3d(x.double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=(2, 4, 4))
    embedded = embedded.flatten(2).transpose(1, 2) + vit.pos_embed.double()
    tokens = vit.double().forward_tokens(x.double(), keep)
    for b in range(2):
        rows = embedded[b, keep[b]]
        for i in range(3):
            rows = literal_block(rows, w, f"blocks.{i}.", 4)
        expected = F.layer_norm(rows, (32,), w["norm.weight"], w["norm.bias"], 1e-6)
        torch.testing.assert_close(tokens[b], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("changes", [dict(), SEPARABLE])
def test_hidden_cubes_change_nothing_get_no_gradient_and_are_never_computed(changes):
    vit, keep, seen = build(**changes), torch.tensor([[0, 7, 11], [5, 2, 3]]), []
    for block in vit.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    x = clip().requires_grad_()
    tokens = vit.forward_tokens(x, keep)
    assert seen == [3 + vit.prefix_tokens] * 3
    tokens.square().sum().backward()
    cubes = x.grad.view(2, 3, 2, 2, 2, 4, 3, 4).abs().sum((1, 3, 5, 7)).flatten(1) > 0
    for b in range(2):
        assert cubes[b].nonzero().flatten().tolist() == sorted(keep[b].tolist())
    hidden = ~cubes.view(2, 1, 2, 1, 2, 1, 3, 1).expand(2, 3, 2, 2, 2, 4, 3, 4).reshape(x.shape)
    other = torch.where(hidden, torch.full_like(x, float("nan")), x.detach())
    assert torch.equal(vit.forward_tokens(other, keep), tokens)


def test_tokens_in_another_order_are_the_same_tokens():
    vit, x = build(**SEPARABLE), clip()
    order = torch.stack([torch.randperm(12), torch.randperm(12)])
    full, permuted = vit.forward_tokens(x), vit.forward_tokens(x, order)
    for b in range(2):
        torch.testing.assert_close(permuted[b, 1:], full[b, 1:][order[b]], atol=1e-5, rtol=1e-5)


def test_positions_are_no_state_and_follow_the_length_of_a_clip():
    vit = build()
    assert "pos_embed" not in vit.state_dict() and "pos_embed" not in dict(vit.named_parameters())
    longer = build(frames=8, image_size=16)
    longer.load_state_dict(vit.state_dict())
    x = clip(frames=8, size=(16, 16))
    torch.testing.assert_close(vit.forward_tokens(x), longer.forward_tokens(x))


def test_separable_positions_are_interpolated_in_space_and_time_alone():
    vit = build(**SEPARABLE)
    longer = build(frames=8, image_size=(16, 24), **SEPARABLE)
    load_state(longer, vit.state_dict(), "a run on short clips")
    assert longer.pos_embed_temporal.shape == (1, 4, 32) and longer.pos_embed_spatial.shape == (1, 24, 32)
    torch.testing.assert_close(longer.pos_embed_temporal[0, ::3], vit.pos_embed_temporal[0])  # the ends stay
    x = clip(frames=8, size=(16, 24))
    torch.testing.assert_close(longer.forward_tokens(x), vit.forward_tokens(x), atol=1e-5, rtol=1e-5)


def test_without_time_positions_frames_may_be_exchanged():
    vit = build(tubelet=1, **SEPARABLE)
    with torch.no_grad():
        vit.pos_embed_temporal.zero_()
    x = clip()
    order = torch.tensor([2, 0, 3, 1])
    straight = vit.forward_tokens(x)[:, 1:].view(2, 4, 6, 32)
    torch.testing.assert_close(
        vit.forward_tokens(x[:, :, order])[:, 1:].view(2, 4, 6, 32), straight[:, order], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(vit.encode({"video": x}), vit.encode({"video": x[:, :, order]}), atol=1e-5, rtol=1e-5)
    torch.nn.init.normal_(vit.pos_embed_temporal)
    assert not torch.allclose(vit.encode({"video": x}), vit.encode({"video": x[:, :, order]}), atol=1e-3)


def test_an_image_is_a_clip_without_an_order():
    vit = build()
    raw = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    still = raw[:, :, None].repeat(1, 1, 4, 1, 1)
    assert torch.equal(vit.embed({"image": raw}), vit.embed({"video": still}))
    assert torch.equal(vit.embed({"video": still.flip(2)}), vit.embed({"video": still}))


def test_maps_and_pooled_features():
    vit, x = build(out_indices=(1, -1)), clip()
    middle, last = vit(x)
    assert middle.shape == last.shape == (2, 32, 2, 2, 3)
    torch.testing.assert_close(last[1, :, 1, 0, 2], vit.forward_tokens(x)[1, 6 + 0 + 2])
    batch = {"video": x}
    torch.testing.assert_close(vit.encode(batch), last.mean((2, 3, 4)))
    torch.testing.assert_close(vit.encode(batch, "mean"), vit.encode(batch, "block-2"))
    torch.testing.assert_close(vit.encode(batch, "norm-gap"), vit.norm(vit.encode(batch, "mean")))
    with pytest.raises(ConfigError, match="not a feature"):
        vit.encode(batch, "cls")


def test_baselines_tell_what_stands_still_from_what_moves():
    vit, still = build(), torch.randn(2, 3, 1, 8, 12).expand(-1, -1, 4, -1, -1)
    found = vit.baselines({"video": still})
    assert found["motion"].abs().max() < 1e-6 and found["static"].shape == (2, 96)
    shuffled = clip()[:, :, [2, 0, 3, 1]]
    moving = vit.baselines({"video": shuffled})
    torch.testing.assert_close(moving["static"], vit.baselines({"video": shuffled.flip(2)})["static"])
    assert moving["motion"].min() > 0 and moving["static + motion"].shape == (2, 192)


def test_fine_tuning_reads_the_trunk_without_its_norm():
    """Mean of the tokens, fc_norm, head of 0.001 of the usual start; the unused norm needs no gradient."""
    torch.manual_seed(0)
    model = Classifier(build(), num_classes=5, feature="mean", norm="layer", init_std=2e-5)
    x = clip()
    logits = model.logits({"video": x})
    pooled = model.backbone.encode({"video": x}, "block-2")
    expected = F.layer_norm(pooled, (32,), eps=1e-6) @ model.head.weight.T
    torch.testing.assert_close(logits, expected, atol=1e-7, rtol=1e-4)
    assert model.head.weight.abs().max() < 1e-4
    model({"video": x, "label": torch.tensor([0, 3])})["loss"].backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == [] and not model.backbone.norm.weight.requires_grad
    groups = LayerDecayConstructor(
        dict(optimizer=dict(type="AdamW", lr=1.0)), dict(decay=0.75)
    ).groups(model, 1.0, 0.05)  # fmt: skip
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["layer_0"] == pytest.approx(0.75**4) and rates["layer_3"] == pytest.approx(0.75)
    assert rates["layer_4"] == 1.0  # the head and its norm
    undecayed = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert id(model.backbone.blocks[0].attn.q_bias) in undecayed


def test_learned_positions_and_tokens_are_not_decayed():
    model = Classifier(build(**SEPARABLE), num_classes=2)
    groups = LayerDecayConstructor(dict(optimizer=dict(type="AdamW", lr=1.0))).groups(model, 1.0, 0.05)
    undecayed = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    names = ("cls_token", "pos_embed_class", "pos_embed_spatial", "pos_embed_temporal")
    assert all(id(getattr(model.backbone, name)) in undecayed for name in names)


def test_start():
    xavier, normal = build(embed_dim=256, depth=1), build(embed_dim=256, depth=1, init="normal")
    weight = xavier.blocks[0].mlp.fc1.weight
    assert weight.abs().max().item() == pytest.approx((6 / sum(weight.shape)) ** 0.5, rel=1e-2)
    assert normal.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert xavier.blocks[0].attn.q_bias.abs().max() == 0 == xavier.blocks[0].attn.v_bias.abs().max()
    assert all(m.eps == 1e-6 for m in xavier.modules() if isinstance(m, torch.nn.LayerNorm))


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        (dict(embed_dim=384, num_heads=6), 21.9),
        (dict(), 86.2),
        (dict(embed_dim=1024, depth=24, num_heads=16), 303.9),
        (dict(embed_dim=1280, depth=32, num_heads=16, patch_size=14, **SEPARABLE), 631.8),
    ],
)
def test_sizes_of_the_papers(arguments, millions):
    with torch.device("meta"):
        vit = VideoViT(**arguments)
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, rel=0.003)
    assert vit.num_cubes == (2048 if arguments.get("patch_size") == 14 else 1568)


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        (dict(image_size=30), "image_size", "not divisible"),
        (dict(frames=5), "frames", "not divisible"),
        (dict(tubelet=0), "tubelet", "at least 1"),
        (dict(num_heads=5), "num_heads", "4 would"),
        (dict(position="sincos"), "position", "sinusoid"),
        (dict(qkv_bias="qk"), "qkv_bias", "True, False, qv"),
        (dict(preprocess=dict(type="VideoPreprocess", size=32, frames=4)), "preprocess", "pixels"),
        (dict(preprocess=dict(type="VideoPreprocess", size=(8, 12), frames=8)), "preprocess", "8 frames"),
    ],
)
def test_impossible_sizes_name_the_key(changes, key, text):
    with pytest.raises(ConfigError) as error:
        build(**changes)
    assert any(f.path == f"model.backbone.{key}" and text in f.message for f in error.value.faults)


def test_change_is_the_deviation_over_time_and_nothing_without_motion():
    torch.manual_seed(0)
    options = dict(image_size=16, frames=8, patch_size=8, embed_dim=24, depth=2, num_heads=2, position="separable")
    vit = VideoViT(**options).eval()
    clips = torch.randn(3, 3, 8, 16, 16)
    tokens = vit.forward_tokens(clips).reshape(3, 4, 4, 24)
    mean = sum(tokens[:, slot] for slot in range(4)) / 4
    by_hand = (sum((tokens[:, slot] - mean) ** 2 for slot in range(4)) / 4).sqrt().mean(1)
    found = vit.encode({"video": clips}, "change")
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)
    assert vit.feature_dims("change") == 24 and vit.unused_parts("change") == []
    with torch.no_grad():
        vit.pos_embed_temporal.zero_()
    still = clips[:, :, :1].expand(-1, -1, 8, -1, -1)
    resting = vit.encode({"video": still.clone().requires_grad_()}, "change")
    assert resting.max() < 2e-4 < found.min()
    resting.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vit.parameters())
