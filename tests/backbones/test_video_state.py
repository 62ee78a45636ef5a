"""Weights of transformers' VideoMAE classes, of VideoMAE's repository and of mae_st, both ways, on random weights."""

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from perception.backbones.video_state import pretraining_state, to_official, to_transformers
from perception.backbones.video_vit import VideoViT
from perception.checkpoint import load_state, save_checkpoint
from perception.exporting import export_public, load_backbone
from perception.layers.video_masks import mask_cubes
from perception.pretext.video_mae import VideoMAE
from perception.tasks.classifier import Classifier

SIZES = dict(image_size=16, frames=4, patch_size=4, tubelet=2, embed_dim=32, depth=2, num_heads=4)


def theirs(kind, **changes):
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16,
        patch_size=4,
        num_frames=4,
        tubelet_size=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        num_labels=5,
        **{"use_mean_pooling": False, **changes},
    )
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(**changes):
    torch.manual_seed(1)
    return VideoViT(**{**SIZES, **changes})


def attached(vit, **changes):
    pretext = VideoMAE(decoder_dim=16, decoder_num_heads=2, decoder_depth=2, mask_ratio=0.75, **changes)
    pretext.attach(vit)
    return pretext


def clips():
    torch.manual_seed(2)
    return torch.randn(2, 3, 4, 16, 16)


def test_videomae_model_both_ways():
    model, vit, x = theirs(VideoMAEModel), ours(), clips()
    load_state(vit, model.state_dict(), "transformers")
    torch.testing.assert_close(vit.forward_tokens(x), model(x.transpose(1, 2)).last_hidden_state, atol=1e-4, rtol=0)
    back = to_transformers(vit.state_dict())
    assert list(back) != [] and all(torch.equal(back[k], v) for k, v in model.state_dict().items())
    other = ours()
    torch.nn.init.normal_(other.blocks[0].attn.q_bias)
    model.load_state_dict(to_transformers(other.state_dict()))
    torch.testing.assert_close(other.forward_tokens(x), model(x.transpose(1, 2)).last_hidden_state, atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalised", [True, False])
def test_pretraining_model_both_ways(normalised):
    model = theirs(VideoMAEForPreTraining, norm_pix_loss=normalised)
    vit = ours()
    pretext = attached(vit, target="channel" if normalised else "unit")
    state = to_official(model.state_dict())
    vit.load_state_dict({k: v for k, v in state.items() if k in vit.state_dict()})
    pretext.load_state_dict({k: v for k, v in state.items() if k in pretext.state_dict()})
    assert set(state) == {*vit.state_dict(), *pretext.state_dict()}  # nothing is left over
    mask = mask_cubes("tube", torch.rand(2, vit.num_cubes), vit.grid, 0.75)
    x = clips()
    out = model(x.transpose(1, 2), bool_masked_pos=mask.mask)
    pred = pretext.decode(vit.forward_tokens(x, mask.keep), mask.keep, mask.hidden)
    torch.testing.assert_close(pred, out.logits, atol=1e-4, rtol=0)
    assert pretext.loss_of(vit, x, mask).item() == pytest.approx(out.loss.item(), abs=1e-4)
    torch.testing.assert_close(pretext.reconstruct(vit, x, mask.mask)["loss"], out.loss, atol=1e-4, rtol=0)
    back = to_transformers({**vit.state_dict(), **pretext.state_dict()}, "videomae.")
    assert set(back) == set(model.state_dict())
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())


def test_gradients_are_those_of_transformers():
    model, vit, x = theirs(VideoMAEForPreTraining), ours(), clips()
    pretext = attached(vit)
    state = to_official(model.state_dict())
    vit.load_state_dict({k: v for k, v in state.items() if k in vit.state_dict()})
    pretext.load_state_dict({k: v for k, v in state.items() if k in pretext.state_dict()})
    mask = mask_cubes("tube", torch.rand(2, vit.num_cubes), vit.grid, 0.75)
    pretext.loss_of(vit, x, mask).backward()
    model(x.transpose(1, 2), bool_masked_pos=mask.mask).loss.backward()
    theirs_ = to_official({k: p.grad for k, p in model.named_parameters()})
    for name, parameter in [*vit.named_parameters(), *pretext.named_parameters()]:
        torch.testing.assert_close(parameter.grad, theirs_[name], atol=1e-4, rtol=1e-3, msg=name)


def test_classifier_of_transformers():
    model, x = theirs(VideoMAEForVideoClassification, use_mean_pooling=True), clips()
    state = to_official(model.state_dict())
    task = Classifier(ours(), num_classes=5, feature="norm-gap")
    load_state(task.backbone, {k: v for k, v in state.items() if not k.startswith("head.")}, "transformers")
    task.head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
    torch.testing.assert_close(task.logits({"video": x}), model(x.transpose(1, 2)).logits, atol=1e-4, rtol=0)


def test_older_transformers_names_of_biases():
    model, vit = theirs(VideoMAEModel), ours()
    old = {
        k.replace("attention.attention.query.bias", "attention.attention.q_bias").replace(
            "attention.attention.value.bias", "attention.attention.v_bias"
        ): v
        for k, v in model.state_dict().items()
    }
    load_state(vit, old, "transformers 4")
    assert torch.equal(vit.blocks[1].attn.v_bias, model.state_dict()["encoder.layer.1.attention.attention.value.bias"])


def test_file_of_the_official_repository_becomes_an_export(tmp_path):
    vit = ours()
    pretext = attached(vit)
    official = pretraining_state(vit.state_dict(), pretext.state_dict())
    names = {"encoder.patch_embed.proj.weight", "encoder.blocks.1.attn.q_bias", "encoder.norm.bias"}
    names |= {"encoder_to_decoder.weight", "mask_token", "decoder.blocks.0.attn.qkv.weight", "decoder.head.bias"}
    assert names <= set(official) and "encoder.pos_embed" not in official
    assert official["encoder.patch_embed.proj.weight"].shape == (32, 3, 2, 4, 4)
    file = tmp_path / "checkpoint.pth"
    save_checkpoint({"model": official}, file)
    config = {"model": {"type": "Pretrainer", "backbone": {"type": "VideoViT", **SIZES}}}
    count, left_out = export_public(file, config, tmp_path / "export")
    assert count == len(vit.state_dict()) and "mask_token" in left_out
    assert not any(key.startswith("blocks.") for key in left_out)
    loaded, x = load_backbone(tmp_path / "export"), clips()
    assert torch.equal(loaded.forward_tokens(x), vit.forward_tokens(x))


def test_pre_trained_weights_lack_nothing_of_the_fine_tuned_trunk():
    vit, task = ours(), Classifier(ours(init="normal"), num_classes=3, feature="mean", norm="layer")
    mismatch = load_state(task.backbone, vit.state_dict(), "a run")
    assert not mismatch
    x = clips()
    keep = torch.arange(vit.num_cubes).expand(2, -1)
    dense = vit.forward_tokens(x, keep)  # nothing hidden: the classifier's trunk before pooling, up to the norm
    tokens = task.backbone.tokens(x)
    for block in task.backbone.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(vit.norm(tokens), dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task.backbone.encode({"video": x}, "mean"), tokens.mean(1))


def test_bias_of_keys_changes_nothing():
    full, vit, x = ours(qkv_bias=True), ours(), clips()
    with torch.no_grad():
        for block in full.blocks:
            torch.nn.init.normal_(block.attn.qkv.bias)
    load_state(vit, full.state_dict(), "a timm-like file")
    torch.testing.assert_close(vit.forward_tokens(x), full.forward_tokens(x), atol=1e-5, rtol=1e-5)
    again = ours(qkv_bias=True)
    load_state(again, vit.state_dict(), "back")
    assert again.blocks[0].attn.qkv.bias[32:64].abs().max() == 0
    torch.testing.assert_close(again.forward_tokens(x), vit.forward_tokens(x))


def test_mae_st_has_separate_maps():
    vit, x = ours(position="separable", class_token=True, qkv_bias=True), clips()
    separate = {}
    for key, value in vit.state_dict().items():
        if "attn.qkv." in key:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                separate[key.replace("attn.qkv.", f"attn.{name}.")] = part
        else:
            separate[key] = value
    assert {"pos_embed_spatial", "pos_embed_temporal", "pos_embed_class", "cls_token"} <= set(separate)
    assert "blocks.0.attn.k.bias" in separate
    other = ours(position="separable", class_token=True, qkv_bias=True)
    load_state(other, separate, "mae_st")
    torch.testing.assert_close(other.forward_tokens(x), vit.forward_tokens(x))
