"""CLIP on open_clip's towers: the same numbers, whatever is skipped on the way."""

import copy

import clip_models as models
import pytest
import torch
from torch.nn import functional as F

from perception.backbones import clip_towers
from perception.checkpoint import load_state
from perception.errors import ConfigError, DataError
from perception.layers.positions import resample_positions

CASES = [(name, False) for name in models.KINDS] + [("vit", True)]


def images(model, count=3, size=None):
    size = size or model["vision_cfg"]["image_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def texts_of(backbone, texts=models.TEXTS):
    ids, mask = backbone.tokenizer(texts)
    return {"text": ids, "text_mask": mask}


@pytest.mark.parametrize(("kind", "quick_gelu"), CASES)
def test_random_weights_go_round_and_outputs_are_open_clips(kind, quick_gelu):
    model = models.KINDS[kind]
    ours = models.build(model, quick_gelu=quick_gelu)
    public = models.theirs(model, ours, quick_gelu)
    state = {k: v for k, v in public.state_dict().items() if not k.startswith("text_decoder.")}
    assert load_state(ours, state, "open_clip", strict=True).unexpected == ()
    x = images(model)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encode({"image": x}), public.encode_image(x, normalize=False), atol=1e-5, rtol=1e-5
        )
        expected = public.encode_text(models.whole_context(ours, models.TEXTS), normalize=False)
        torch.testing.assert_close(ours.encode_text(texts_of(ours)), expected, atol=1e-5, rtol=1e-5)
    back = models.theirs(model, ours, quick_gelu)
    back.load_state_dict(models.build(model, seed=5).state_dict(), strict="multimodal_cfg" not in model)


def test_quick_gelu_is_another_function_and_the_state_dict_does_not_tell():
    plain, quick = models.build(models.VIT), models.build(models.VIT, quick_gelu=True)
    quick.load_state_dict(plain.state_dict())
    x = images(models.VIT)
    assert (plain.encode({"image": x}) - quick.encode({"image": x})).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["vit", "unusual", "resnet", "xlm_r"])
def test_gradients_of_both_towers_are_open_clips(kind):
    model = models.KINDS[kind]
    ours = models.build(model)
    public = models.theirs(model, ours)
    public.load_state_dict(ours.state_dict())
    x = images(model, 4)

    def loss(image, text, scale):
        logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        return F.cross_entropy(logits, torch.arange(4))

    loss(ours.encode({"image": x}), ours.encode_text(texts_of(ours)), ours.logit_scale.exp()).backward()
    text = public.encode_text(models.whole_context(ours, models.TEXTS))
    loss(public.encode_image(x), text, public.logit_scale.exp()).backward()
    expected = {name: p.grad for name, p in public.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        if expected[name] is not None:
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("kind", list(models.KINDS))
def test_a_text_depends_neither_on_padding_nor_on_its_neighbours(kind):
    backbone = models.build(models.KINDS[kind])
    short, long = "a river", "many green trees of many planes"
    with torch.no_grad():
        alone = backbone.encode_text(texts_of(backbone, [short]))
        beside = backbone.encode_text(texts_of(backbone, [long, short, "forest"]))[1:2]
        ids, mask = backbone.tokenizer([short])
        room = backbone.tokenizer.context_length - ids.shape[1]
        padded = {
            "text": F.pad(ids, (0, room), value=backbone.tokenizer.pad_id),
            "text_mask": F.pad(mask, (0, room), value=False),
        }
        assert room > 0 and beside.shape == alone.shape
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.encode_text(padded), alone, atol=1e-5, rtol=0)
        other = backbone.encode_text(texts_of(backbone, [long]))
    assert (other - alone).abs().max() > 1e-2


@pytest.mark.parametrize("kind", list(models.KINDS))
def test_features_have_the_widths_they_claim_and_the_first_derives_from_the_second(kind):
    model = models.KINDS[kind]
    backbone = models.build(model)
    x = images(model, 2)
    with torch.no_grad():
        found = {name: backbone.encode({"image": x}, name) for name in backbone.feature_choices()}
        assert {name: value.shape for name, value in found.items()} == {
            name: (2, backbone.feature_dims(name)) for name in found
        }
        assert torch.equal(backbone.derive("projected", found["pooled"]), found["projected"])
        maps = backbone(x)
    assert [m.shape[-1] * s for m, s in zip(maps, backbone.strides, strict=True)] == [x.shape[-1]] * len(maps)
    with pytest.raises(ConfigError, match="pooled"):
        backbone.encode({"image": x}, "pool")


def test_gap_and_maps_of_a_vit_are_its_patch_tokens():
    backbone = models.build(models.VIT, out_indices=(0, -1))
    first, last = backbone(images(models.VIT))
    torch.testing.assert_close(
        last.mean(dim=(2, 3)), backbone.encode({"image": images(models.VIT)}, "gap"), atol=1e-5, rtol=1e-5
    )
    tokens = clip_towers.vit_tokens(backbone.visual, images(models.VIT))
    expected = backbone.visual.transformer.resblocks[0](tokens)[:, 1:]
    torch.testing.assert_close(first.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_native_positions_are_used_bit_for_bit_and_others_leave_the_class_token_alone():
    backbone = models.build(models.VIT)
    visual, x = backbone.visual, images(models.VIT)
    with torch.no_grad():
        visual.conv1.weight.zero_()
        visual.ln_pre = torch.nn.Identity()
        native = clip_towers.vit_tokens(visual, x)
        cls = visual.class_embedding + visual.positional_embedding[0]
        assert torch.equal(native[0, 1:], visual.positional_embedding[1:]) and torch.equal(native[0, 0], cls)
        local = clip_towers.vit_tokens(visual, images(models.VIT, size=24))
    assert local.shape[1] == 10 and torch.equal(local[0, 0], cls)
    expected = resample_positions(visual.positional_embedding[None], (4, 4), (3, 3), 1)[0, 1:]
    torch.testing.assert_close(local[0, 1:], expected)


@pytest.mark.parametrize(("kind", "size"), [("vit", 48), ("resnet", 96), ("siglip", 96)])
def test_another_size_at_forward_is_a_model_of_that_size(kind, size):
    model = models.KINDS[kind]
    backbone = models.build(model)
    larger = models.build(model, preprocess={**models.record(model), "size": size})
    load_state(larger, backbone.state_dict(), "the smaller one")
    x = images(model, size=size)
    with torch.no_grad():
        torch.testing.assert_close(
            larger.encode({"image": x}),
            backbone.encode({"image": x}),
            atol=1e-4 if kind == "siglip" else 1e-5,
            rtol=1e-4,
        )


def test_pixels_that_make_no_whole_patch_are_refused():
    with pytest.raises(DataError, match="divisible by patches"):
        models.build(models.VIT).encode({"image": images(models.VIT, size=30)})


def test_embed_text_keeps_order_and_modes_and_needs_no_gradient():
    backbone = models.build(models.VIT).train()
    backbone.visual.eval()
    found = backbone.embed_text(models.TEXTS * 2, batch_size=3)
    assert backbone.training and not backbone.visual.training and not found.requires_grad
    assert found.shape == (8, 24) and found.dtype == torch.float32
    for text, row in zip(models.TEXTS * 2, found, strict=True):
        torch.testing.assert_close(backbone.embed_text([text])[0], row, atol=1e-5, rtol=0)
    assert backbone.embed_text([]).shape == (0, 24)
    repeated = backbone.embed_text(["a river", *models.TEXTS, "a river"], batch_size=2)
    assert torch.equal(repeated[0], repeated[-1])  # equal texts tie exactly


def test_embed_takes_raw_images_and_texts_are_optional():
    backbone = models.build(models.VIT)
    raw = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with_texts = backbone.preprocess({"image": raw, "text": ["a river", "forest"]})
    assert torch.equal(backbone.embed({"image": raw}), backbone.embed({"image": raw, "text": ["a river", "forest"]}))
    assert backbone.encode_text(with_texts).shape == (2, 24)
    with pytest.raises(DataError, match="preprocessed"):
        backbone.encode_text({"text": ["a river"]})


def test_a_clip_for_images_alone_has_no_texts():
    record = {k: v for k, v in models.record(models.VIT).items() if k != "tokenizer"} | {"type": "ImagePreprocess"}
    sizes = dict(models.VIT["text_cfg"], vocab_size=13, context_length=8)
    backbone = models.build({**models.VIT, "text_cfg": sizes}, preprocess=record)
    with pytest.raises(ConfigError, match="no tokenizer"):
        backbone.embed_text(["a"])


def test_the_scale_is_kept_between_one_and_a_hundred():
    backbone = models.build(models.VIT)
    assert backbone.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
    for value, kept in ((-1.0, 1.0), (9.0, 100.0), (3.0, 20.0855)):
        backbone.logit_scale.data.fill_(value)
        backbone.clamp_logit_scale()
        assert backbone.logit_scale.exp().item() == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("kind", list(models.KINDS))
def test_layer_groups_rise_with_depth_and_the_towers_end_together(kind):
    backbone = models.build(models.KINDS[kind])
    ids = {name: backbone.layer_id(name) for name, _ in backbone.named_parameters()}
    last = backbone.layer_count() - 1
    assert set(ids.values()) <= set(range(last + 1)) and min(ids.values()) == 0
    assert ids["logit_scale"] == last
    words = "text.transformer.embeddings.word_embeddings.weight" if kind == "xlm_r" else "token_embedding.weight"
    embedding = next(value for name, value in ids.items() if name.endswith(words))
    assert embedding == last - 1 - 2  # two blocks of text below the last group
    if kind == "vit":
        assert [ids[f"visual.transformer.resblocks.{i}.ln_1.weight"] for i in range(3)] == [1, 2, 3]
        assert [ids[f"transformer.resblocks.{i}.ln_1.weight"] for i in range(2)] == [2, 3]
        assert ids["visual.conv1.weight"] == ids["visual.positional_embedding"] == 0
        assert ids["visual.proj"] == ids["visual.ln_post.bias"] == ids["ln_final.weight"] == last


def test_recomputed_activations_give_the_same_gradients():
    plain, saving = models.build(models.VIT), models.build(models.VIT, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    for backbone in (plain, saving):
        total = backbone.encode({"image": images(models.VIT)}).square().sum()
        (total + backbone.encode_text(texts_of(backbone)).square().sum()).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_a_teacher_sees_the_same_without_a_text_tower():
    backbone = models.build(models.VIT)
    teacher, x = backbone.teacher_copy(), images(models.VIT)
    assert torch.equal(teacher.encode({"image": x}), backbone.encode({"image": x}))
    assert not any(name.startswith(("transformer.", "token_embedding", "logit")) for name in teacher.state_dict())
    backbone.visual.proj.data.add_(1)
    assert not torch.equal(teacher.encode({"image": x}), backbone.encode({"image": x}))
    whole = copy.deepcopy(backbone)
    assert torch.equal(whole.embed_text(models.TEXTS), backbone.embed_text(models.TEXTS))


def test_bfloat16_stays_close():
    backbone = models.build(models.VIT)
    x = images(models.VIT)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image, text = backbone.encode({"image": x}), backbone.encode_text(texts_of(backbone))
    with torch.no_grad():
        torch.testing.assert_close(image.float(), backbone.encode({"image": x}), atol=0.1, rtol=0.1)
        torch.testing.assert_close(text.float(), backbone.encode_text(texts_of(backbone)), atol=0.1, rtol=0.1)
