import pytest
import timm
import torch

from perception.backbones.vit import ViT
from perception.checkpoint import load_state
from perception.errors import ConfigError

SMALL = dict(image_size=(16, 24), patch_size=4, embed_dim=32, depth=3, num_heads=4)


def build(**changes):
    torch.manual_seed(0)
    return ViT(**{**SMALL, **changes})


def timm_vit(**changes):
    arguments = dict(img_size=(16, 24), patch_size=4, embed_dim=32, depth=3, num_heads=4, num_classes=0)
    torch.manual_seed(1)
    return timm.models.VisionTransformer(**{**arguments, **changes})


def test_keys_and_outputs_are_those_of_timm_both_ways():
    theirs, ours, x = timm_vit(), build(position="learned"), torch.randn(2, 3, 16, 24)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.forward_tokens(x), theirs.forward_features(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.encode({"image": x}, "cls"), theirs(x), atol=1e-5, rtol=0)
    sincos = build()
    theirs.load_state_dict(sincos.state_dict())
    torch.testing.assert_close(sincos.forward_tokens(x), theirs.forward_features(x), atol=1e-5, rtol=0)
    maps = theirs.forward_intermediates(x, indices=[0, 2], norm=False, intermediates_only=True)
    torch.testing.assert_close(build_like(sincos, out_indices=(0, -1))(x)[0], maps[0], atol=1e-5, rtol=0)


def build_like(model, **changes):
    other = build(**changes)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    "changes", [dict(qkv_bias=False), dict(mlp_ratio=2.0), dict(class_token=False), dict(patch_size=(2, 6))]
)
def test_variants_match_timm(changes):
    renamed = {k: v for k, v in changes.items() if k != "class_token"}
    if "class_token" in changes:
        renamed |= dict(class_token=False, global_pool="avg", fc_norm=False)
    theirs, ours = timm_vit(**renamed), build(position="learned", **changes)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(ours.forward_tokens(x), theirs.forward_features(x), atol=1e-5, rtol=0)


def test_positions_are_resampled_as_in_timm_at_forward_and_at_loading():
    theirs, ours = timm_vit(img_size=16, dynamic_img_size=True), build(image_size=16, position="learned")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 24, 32)
    torch.testing.assert_close(ours.forward_tokens(x), theirs.forward_features(x), atol=1e-5, rtol=0)
    larger = build(image_size=(24, 32), position="learned")
    source = theirs.state_dict()
    larger.load_state_dict(source)
    assert source["pos_embed"].shape[1] == 17  # the caller's dict is left alone
    torch.testing.assert_close(larger.forward_tokens(x), ours.forward_tokens(x), atol=1e-5, rtol=0)
    again = build(image_size=(24, 32), position="learned")
    load_state(again, source, "a checkpoint of 16 x 16 pixels")
    assert torch.equal(again.pos_embed, larger.pos_embed)


def test_other_sizes_than_the_grid_are_still_mismatches():
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        build().load_state_dict(build(embed_dim=64).state_dict())
    with pytest.raises(RuntimeError, match=r"size mismatch for patch_embed\.proj\.weight"):
        build(in_channels=1, preprocess=GREY).load_state_dict(build().state_dict())


GREY = dict(type="ImagePreprocess", size=(16, 24), bands=("grey",), mean=(0.5,), std=(0.25,))


def test_keeping_all_patches_in_another_order_permutes_the_tokens():
    vit, x = build(), torch.randn(2, 3, 16, 24)
    order = torch.stack([torch.randperm(24), torch.randperm(24)])
    full, permuted = vit.forward_tokens(x), vit.forward_tokens(x, keep=order)
    torch.testing.assert_close(permuted[:, 0], full[:, 0])
    for b in range(2):
        torch.testing.assert_close(permuted[b, 1:], full[b, 1:][order[b]], atol=1e-5, rtol=1e-5)


def test_hidden_pixels_change_nothing_and_get_no_gradient():
    vit, keep = build(), torch.tensor([[0, 7, 23], [5, 2, 11]])
    x = torch.randn(2, 3, 16, 24, requires_grad=True)
    tokens = vit.forward_tokens(x, keep)
    assert tokens.shape == (2, 4, 32)
    tokens.square().sum().backward()
    touched = x.grad.view(2, 3, 4, 4, 6, 4).abs().sum((1, 3, 5)).view(2, 24) > 0
    for b in range(2):
        assert touched[b].nonzero().flatten().tolist() == sorted(keep[b].tolist())
    noisy = torch.where(touched.view(2, 1, 4, 1, 6, 1), x.detach().view(2, 3, 4, 4, 6, 4), 1e6).reshape(x.shape)
    assert torch.equal(vit.forward_tokens(noisy, keep), tokens)


def test_hidden_tokens_are_never_computed():
    vit, seen = build(), []
    for block in vit.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    vit.forward_tokens(torch.randn(2, 3, 16, 24), torch.tensor([[1, 2], [3, 4]]))
    assert seen == [3, 3, 3]


def test_maps_have_row_major_layout_and_the_last_is_normed():
    vit, x = build(out_indices=(1, -1)), torch.randn(2, 3, 16, 24)
    assert vit.strides == (4, 4)
    middle, last = vit(x)
    assert middle.shape == last.shape == (2, 32, 4, 6)
    torch.testing.assert_close(last[1, :, 2, 5], vit.forward_tokens(x)[1, 1 + 2 * 6 + 5])


def test_pooled_features():
    vit, batch = build(), {"image": torch.randn(2, 3, 16, 24)}
    tokens = vit.forward_tokens(batch["image"])
    torch.testing.assert_close(vit.encode(batch), tokens[:, 1:].mean(1))
    torch.testing.assert_close(vit.encode(batch, "cls"), tokens[:, 0])
    (middle,) = build_like(vit, out_indices=(1,))(batch["image"])
    torch.testing.assert_close(vit.encode(batch, "block-1"), middle.mean((2, 3)))
    torch.testing.assert_close(vit.encode(batch, "norm-gap"), vit.norm(vit.encode(batch, "block-2")))
    with pytest.raises(ConfigError, match="block-2"):
        vit.encode(batch, "block-3")
    with pytest.raises(ConfigError, match="not a feature"):
        build(class_token=False).encode(batch, "cls")


def test_embed_takes_raw_images_and_keeps_flags():
    vit = build(drop_path_rate=0.5, drop_rate=0.5).train()
    raw = {"image": torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)}
    assert torch.equal(vit.embed(raw), vit.embed(raw))
    assert all(module.training for module in vit.modules())
    torch.testing.assert_close(vit.embed(raw), vit.eval().encode(vit.preprocess(raw)))


def test_fixed_positions_are_no_parameter_and_class_rows_are_zero():
    vit = build()
    assert "pos_embed" in vit.state_dict() and "pos_embed" not in dict(vit.named_parameters())
    assert torch.equal(vit.pos_embed[0, 0], torch.zeros(32))
    assert "pos_embed" in dict(build(position="learned").named_parameters())


def test_initialisation_is_the_papers():
    vit = build(embed_dim=256, depth=1)
    weight = vit.blocks[0].mlp.fc1.weight
    bound = (6 / sum(weight.shape)) ** 0.5
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
    assert vit.patch_embed.proj.weight.abs().max().item() == pytest.approx((6 / (256 + 48)) ** 0.5, rel=1e-2)
    assert vit.patch_embed.proj.bias.abs().max() > 0
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert all(m.eps == 1e-6 for m in vit.modules() if isinstance(m, torch.nn.LayerNorm))
    assert vit.blocks[0].attn.qkv.bias.abs().max() == 0


def test_layer_ids():
    vit = build()
    ids = {name: vit.layer_id(name) for name, _ in vit.named_parameters()}
    assert vit.layer_count() == 5
    assert ids["cls_token"] == ids["patch_embed.proj.weight"] == vit.layer_id("pos_embed") == 0
    assert ids["blocks.0.norm1.weight"] == 1 and ids["blocks.2.mlp.fc2.bias"] == 3
    assert ids["norm.weight"] == 4


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        (dict(image_size=30), "image_size", "not divisible"),
        (dict(num_heads=5), "num_heads", "4 would"),
        (dict(embed_dim=30, num_heads=5), "embed_dim", "multiple of 4"),
        (dict(position="fixed"), "position", "sincos, learned"),
        (dict(drop_path_rate=1.0), "drop_path_rate", "[0, 1)"),
        (dict(out_indices=(3,)), "out_indices", "between -3 and 2"),
        (dict(depth=0), "depth", "at least 1"),
        (dict(in_channels=1), "preprocess", "must be given"),
        (dict(preprocess=dict(type="ImagePreprocess", size=32)), "preprocess", "makes images of"),
    ],
)
def test_impossible_sizes_name_the_key(changes, key, text):
    with pytest.raises(ConfigError) as error:
        build(**changes)
    assert any(f.path == f"model.backbone.{key}" and text in f.message for f in error.value.faults)


def test_input_that_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="not divisible"):
        build().forward_tokens(torch.zeros(1, 3, 18, 24))
