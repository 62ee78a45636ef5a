"""The encoder of tables with images: what each feature depends on, absent inputs, public weights, shared passes."""

import json

import pytest
import torch
import torch.nn.functional as F
from table_models import build, encoder_config, raw_batch, record, table_config

from perception.backbones.table_image_encoder import TableImageEncoder
from perception.checkpoint import save_checkpoint
from perception.errors import ConfigError, DataError
from perception.exporting import export_backbone, export_public, load_backbone
from perception.layers.table_interaction import Pairs, TableImageInteraction


def encoder(**changes):
    return build(encoder_config(**changes)).eval()


def noisy(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def literal(module, cells, image, heads=2):
    """The interaction written down anew, pair by pair."""
    eps = 1e-5

    def norm(x, layer):
        return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, eps)

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(0, 1)

    rows = []
    for x, tokens in zip(cells, image, strict=True):
        source = norm(tokens @ module.image_proj.weight.T + module.image_proj.bias, module.image_norm)
        for block in module.blocks:
            q, k, v = (norm(x, block.norm1) @ block.attn.qkv.weight.T).chunk(3, -1)
            weights = (split(q) @ split(k).transpose(1, 2) / split(q).shape[-1] ** 0.5).softmax(-1)
            x = x + block.attn.proj((weights @ split(v)).transpose(0, 1).flatten(1))
            cross = block.cross_attn
            k, v = (source @ cross.kv_proj.weight.T).chunk(2, -1)
            q = norm(x, block.cross_norm) @ cross.q_proj.weight.T + cross.q_proj.bias
            weights = (split(q) @ split(k).transpose(1, 2) / split(q).shape[-1] ** 0.5).softmax(-1)
            x = x + cross.proj((weights @ split(v)).transpose(0, 1).flatten(1))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(norm(x, block.norm2))))
        rows.append(norm(x, module.norm))
    return torch.stack(rows)


def interaction(depth=2):
    torch.manual_seed(0)
    return noisy(TableImageInteraction(12, 16, 16, depth, 2))


def test_the_interaction_computes_what_the_paper_says():
    module = interaction()
    cells, image = torch.randn(3, 5, 16), torch.randn(3, 7, 12)
    torch.testing.assert_close(module(cells, image), literal(module, cells, image), rtol=1e-4, atol=1e-4)
    assert "kv_proj.bias" not in " ".join(module.state_dict())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_pass_for_all_groups_equals_one_pass_a_group(depth):
    module = interaction(depth).double()
    cells = torch.randn(8, 5, 16, dtype=torch.double, requires_grad=True)
    image = torch.randn(4, 7, 12, dtype=torch.double, requires_grad=True)
    first = torch.zeros(4, 1, dtype=torch.long)
    own, other = torch.arange(4), torch.tensor([2, 3, 0, 0])
    hidden = torch.tensor([[1, 3], [4, 2], [2, 1], [3, 4]])
    groups = [
        Pairs(slice(0, 4), None, first),
        Pairs(slice(0, 4), other, first),
        Pairs(other, None, first),
        Pairs(slice(4, 8), None, hidden),
        Pairs(own, other),
    ]
    together = module.together(cells, image, groups)
    pairs = [(own, own), (own, other), (other, own), (own + 4, own), (own, other)]
    apart = [module(cells[a], image[b]) for a, b in pairs]
    wanted = [first, first, first, hidden, None]
    for got, whole, rows in zip(together, apart, wanted, strict=True):
        expected = whole if rows is None else torch.stack([w[r] for w, r in zip(whole, rows, strict=True)])
        torch.testing.assert_close(got, expected)
    picked = [
        w if r is None else torch.stack([x[i] for x, i in zip(w, r, strict=True)])
        for w, r in zip(apart, wanted, strict=True)
    ]
    gradients = [
        torch.autograd.grad(sum(part.pow(3).sum() for part in parts), (cells, image, *module.parameters()))
        for parts in (together, picked)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_with_all_cells_hidden_the_joint_feature_hangs_on_the_image_alone():
    model = noisy(encoder())
    raw = raw_batch()
    raw["table_missing"] = torch.ones_like(raw["table_missing"])
    cells = model.table_backbone.cells(*model.table_of(model.preprocess(raw)))
    assert torch.equal(cells, cells[:1].expand_as(cells))
    joint = model.embed(raw)
    assert (joint[0] - joint[1]).abs().max() > 1e-3
    same = raw | dict(image=raw["image"][:1].expand_as(raw["image"]).contiguous())
    torch.testing.assert_close(model.embed(same), model.embed(same)[:1].expand_as(joint))
    assert torch.equal(model.embed({"image": raw["image"]}), joint)  # no table at all is the same


def test_without_an_image_the_cross_attention_adds_nothing():
    model = noisy(encoder())
    raw = raw_batch(holes=0.3)
    whole = model.embed(raw)
    absent = model.embed({k: v for k, v in raw.items() if k != "image"})
    gone = torch.tensor([False, True, False, False, True, True])
    some = model.embed(raw | dict(image_missing=gone))
    torch.testing.assert_close(some[gone], absent[gone])
    torch.testing.assert_close(some[~gone], whole[~gone])
    assert (absent - whole).abs().max() > 1e-3
    every = model.embed(raw | dict(image_missing=torch.ones(6, dtype=torch.bool)))
    torch.testing.assert_close(every, absent)
    assert torch.equal(model.embed(raw | dict(image_missing=torch.zeros(6, dtype=torch.bool))), whole)


def test_features_are_those_of_the_branches_and_every_branch_runs_once():
    model = encoder()
    batch = model.preprocess(raw_batch(holes=0.3))
    runs = {"image": 0, "table": 0}

    def count(name):
        return lambda *_: runs.__setitem__(name, runs[name] + 1)

    model.image_backbone.stages[0].register_forward_hook(count("image"))
    model.table_backbone.tokens.register_forward_hook(count("table"))
    found = model.encode_features(batch, ("multimodal", "image", "table"))
    assert runs == {"image": 1, "table": 1}
    torch.testing.assert_close(found["image"], model.image_backbone.encode(batch))
    torch.testing.assert_close(found["table"], model.table_backbone.encode(batch))
    torch.testing.assert_close(found["multimodal"], model.encode(batch))
    assert {k: v.shape[1] for k, v in found.items()} == {k: model.feature_dims(k) for k in found}
    runs.update(image=0, table=0)
    assert torch.equal(model.encode(batch, "all"), torch.cat(list(found.values()), dim=1))
    assert runs == {"image": 1, "table": 1} and model.feature_dims("all") == 16 + 12 + 16
    runs.update(image=0, table=0)
    model.encode(batch, "image")
    assert runs == {"image": 1, "table": 0}
    assert model.unused_parts("image") == [model.table_backbone, model.interaction]
    assert model.unused_parts("table") == [model.image_backbone, model.interaction]
    assert model.unused_parts() == []


@pytest.mark.parametrize(
    "image",
    [
        dict(type="TimmModel", name="resnet18"),
        dict(type="TimmModel", name="vit_tiny_patch16_224"),
        dict(type="ViT", image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2),
        dict(type="ConvNet", widths=(8, 12), strides=(4, 2), out_indices=(0,)),
    ],
)
def test_any_image_encoder_gives_tokens(image):
    model = encoder(image_backbone=image, preprocess=record(32))
    raw = raw_batch(3)
    raw["image"] = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    batch = model.preprocess(raw)
    tokens, pooled = model.image_tokens(batch)
    width, count = {
        "resnet18": (512, 1),
        "vit_tiny_patch16_224": (192, 4 + 1),
        "ViT": (24, 16 + 1),
        "ConvNet": (8, 64),
    }[image.get("name", image["type"])]
    assert tokens.shape == (3, count, width) and pooled.shape == (3, width)
    if image["type"] == "ViT":
        torch.testing.assert_close(pooled, model.image_backbone.encode(batch, "cls"))
    elif image["type"] == "TimmModel":
        torch.testing.assert_close(pooled, model.image_backbone.encode(batch, "pooled"))
    assert model.embed(raw).shape == (3, 16)


def test_attention_of_the_class_token_sums_to_one():
    model = noisy(encoder())
    raw = raw_batch(holes=0.3)
    own, other = model.attention(model.preprocess(raw))
    assert own.shape == (2, 6, 4) and other.shape == (2, 6, 4)
    torch.testing.assert_close(other.sum(-1), torch.ones(2, 6))
    assert (own.sum(-1) < 1).all() and (own > 0).all()


def test_layer_groups_end_together():
    model = encoder(table_backbone=table_config(depth=1))
    groups = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    last = model.layer_count() - 1
    assert groups["interaction.norm.weight"] == last - 1 == groups["interaction.blocks.1.mlp.fc1.weight"]
    assert groups["interaction.image_proj.weight"] == last - 2 == groups["interaction.blocks.0.attn.proj.weight"]
    assert groups["table_backbone.transformer.blocks.0.attn.proj.weight"] == last - 3
    assert groups["image_backbone.stages.1.0.weight"] == last - 3
    assert min(groups.values()) >= 0


def test_export_and_branches_that_start_from_runs(tmp_path):
    model, config = noisy(encoder()), encoder_config()
    meta = {"config": json.dumps({"model": {"backbone": config}}), "preprocess": model.preprocess.record()}
    state = {f"backbone.{k}": v for k, v in model.state_dict().items()}
    file = save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "step_3.pth")
    export_backbone(file, tmp_path / "export")
    loaded = load_backbone(tmp_path / "export")
    raw = raw_batch(holes=0.3)
    assert isinstance(loaded, TableImageEncoder) and torch.equal(loaded.embed(raw), model.embed(raw))

    table = build(table_config() | dict(preprocess=record()), seed=5)
    meta = {
        "config": json.dumps({"model": {"backbone": table_config() | dict(preprocess=record())}}),
        "preprocess": table.preprocess.record(),
    }
    state = {f"backbone.{k}": v for k, v in table.state_dict().items()}
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "table" / "step_1.pth")
    image = build(
        dict(type="ConvNet", widths=(8, 12), strides=(4, 2), preprocess=dict(type="ImagePreprocess", size=16))
    )
    meta = {"config": json.dumps({"model": {"backbone": {"type": "ConvNet"}}}), "preprocess": image.preprocess.record()}
    state = {f"backbone.{k}": v for k, v in image.state_dict().items()}
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "image" / "step_1.pth")
    started = encoder(
        image_backbone=config["image_backbone"] | dict(init_from=str(tmp_path / "image" / "step_1.pth")),
        table_backbone=table_config(init_from=str(tmp_path / "table" / "step_1.pth")),
    )
    for branch, source in ((started.table_backbone, table), (started.image_backbone, image)):
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in branch.state_dict().items())
    bare = TableImageEncoder.bare_config(encoder_config(table_backbone=table_config(init_from="gone")))
    assert "init_from" not in bare["table_backbone"]


def test_public_weights_go_by_other_names(tmp_path):
    """Names of the authors' checkpoints (siyi-wind/TIP): a Lightning module with both towers, heads beside them."""
    config = encoder_config(image_backbone=dict(type="TimmModel", name="resnet18"), preprocess=record(32))
    model = noisy(build(config))
    renamed = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (
            ("image_backbone.trunk.", "encoder_imaging."),
            ("table_backbone.tokens.cat_embed.", "encoder_tabular.cat_embedding."),
            ("table_backbone.tokens.column_embed.", "encoder_tabular.column_embedding."),
            ("table_backbone.tokens.mask_token", "encoder_tabular.mask_special_token"),
            ("table_backbone.tokens.", "encoder_tabular."),
            ("table_backbone.transformer.blocks.", "encoder_tabular.transformer_blocks."),
            ("interaction.blocks.", "encoder_multimodal.transformer_blocks."),
            ("interaction.", "encoder_multimodal."),
        ):
            if key.startswith(ours):
                renamed[theirs + key.removeprefix(ours)] = value
                break
    assert len(renamed) == len(model.state_dict())
    heads = ("projector_imaging.layers.0.weight", "predictor_tabular.con_regressor.bias", "encoder_imaging.fc.weight")
    renamed |= {key: torch.zeros(3) for key in heads}
    file = tmp_path / "tip.pth"
    torch.save({"state_dict": renamed}, file)
    count, left = export_public(file, {"model": {"backbone": config}}, tmp_path / "export")
    assert count == len(model.state_dict()) and left == []
    loaded = load_backbone(tmp_path / "export")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_faults_are_told():
    with pytest.raises(ConfigError, match=r"image_backbone.*a backbone of images, not 'TableTransformer'"):
        encoder(image_backbone=table_config())
    with pytest.raises(ConfigError, match="needs a TableTransformer"):
        encoder(table_backbone=dict(type="TableMLP"))
    with pytest.raises(ConfigError, match="does not divide the width of the interaction, 16"):
        encoder(num_heads=3)
    with pytest.raises(ConfigError, match="the record of the whole backbone holds for it"):
        encoder(table_backbone=table_config(preprocess=record()))
    with pytest.raises(ConfigError, match="knows no columns"):
        encoder(preprocess=dict(type="ImagePreprocess", size=16))
    other = dict(
        type="ConvNet", widths=(8,), strides=(4,), preprocess=dict(type="ImagePreprocess", size=16, mean=(0, 0, 0))
    )
    with pytest.raises(Exception, match="mean"):
        encoder(image_backbone=other)
    model = encoder()
    with pytest.raises(DataError, match="reads 'image' and 'table'"):
        model.encode({})
    batch = model.preprocess(raw_batch())
    with pytest.raises(DataError, match="needs images"):
        model.encode({k: v for k, v in batch.items() if k != "image"}, "image")
    with pytest.raises(ConfigError, match=r"has multimodal, image, table, all.*Did you mean 'multimodal'"):
        model.encode(batch, "multimodel")


def deviation(module):
    return torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim == 2]).std().item()


def test_weights_start_with_the_deviation_asked_for():
    plain, changed = (
        build(encoder_config(table_backbone=table_config(**branch), **joint))
        for branch, joint in (({}, {}), ({"init_std": 0.05}, {"init_std": 0.1}))
    )
    for encoder, branch, joint in ((plain, 0.02, 0.02), (changed, 0.05, 0.1)):  # 0.02: TIP, and BERT before it
        # Of 6,000 draws and more; four standard errors are 4 %.
        assert deviation(encoder.table_backbone.transformer) == pytest.approx(branch, rel=0.04)
        assert deviation(encoder.interaction) == pytest.approx(joint, rel=0.04)
    assert torch.equal(changed.table_backbone.tokens.norm.weight, torch.ones(16))
    for config in (encoder_config(init_std=0), encoder_config(table_backbone=table_config(init_std=-1.0))):
        with pytest.raises(ConfigError, match=r"init_std.*must be positive"):
            build(config)
