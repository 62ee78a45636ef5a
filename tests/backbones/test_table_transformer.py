"""The table encoder: hidden cells reach nobody, and what it computes is what the paper says, written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from table_models import COLUMNS, build, encoder_config, raw_batch, record, table_config

from perception.errors import CheckpointError, ConfigError, DataError
from perception.transforms.table_columns import Column


def tables(**changes):
    return build(table_config(**changes) | dict(preprocess=record())).eval()


def cells_of(holes=0.0, count=6):
    batch = raw_batch(count, holes=holes)
    return batch["table"], batch["table_missing"]


def literal(model, table, missing):
    """The encoder written down anew: an additive mask of -1e9, attention and blocks in plain tensors."""
    tokens, eps = model.tokens, 1e-5
    rows = []
    for row, gone in zip(table, missing, strict=True):
        cells = [tokens.cls_token[0, 0]]
        for j, value in enumerate(row):
            if gone[j]:
                cells.append(tokens.mask_token[0, 0])
            elif j < 2:
                cells.append(tokens.cat_embed.weight[int(value) + (0, 3)[j]])
            else:
                cells.append(tokens.con_proj.weight[:, 0] * value + tokens.con_proj.bias)
        x = torch.stack(cells) + tokens.column_embed.weight
        x = F.layer_norm(x, (16,), tokens.norm.weight, tokens.norm.bias, eps)
        added = torch.zeros(5, 5)
        for i in range(5):
            for j in range(1, 5):
                if gone[j - 1] and i != j:
                    added[i, j] = -1e9
        for block in model.transformer.blocks:
            y = F.layer_norm(x, (16,), block.norm1.weight, block.norm1.bias, eps)
            q, k, v = (y @ block.attn.qkv.weight.T).view(5, 3, 2, 8).permute(1, 2, 0, 3)
            weights = (q @ k.transpose(1, 2) / 8**0.5 + added).softmax(-1)
            x = x + block.attn.proj((weights @ v).transpose(0, 1).reshape(5, 16))
            y = F.layer_norm(x, (16,), block.norm2.weight, block.norm2.bias, eps)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(y)))
        rows.append(x)
    return torch.stack(rows)


@pytest.mark.parametrize("holes", [0.0, 0.4, 1.0])
def test_it_computes_what_the_paper_says(holes):
    model, (table, missing) = tables(), cells_of(holes)
    for parameter in model.parameters():  # zeros and ones would hide a term that is left out
        torch.nn.init.normal_(parameter, std=0.3)
    torch.testing.assert_close(model.cells(table, missing), literal(model, table, missing), rtol=1e-4, atol=1e-5)


def test_how_it_begins():
    model = build(table_config(embed_dim=128, depth=4, num_heads=8) | dict(preprocess=record()))
    for name, value in model.named_parameters():
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            assert (value == 1).all()
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            assert abs(value.mean()) < 0.01 and 0.012 < value.std() < 0.028, name
    assert model.tokens.cat_embed.weight.shape == (5, 128)  # of all columns together
    assert model.tokens.con_proj.weight.shape == (128, 1)  # one for all of them
    assert model.tokens.column_embed.weight.shape == (5, 128)
    assert not any("qkv.bias" in name for name in model.state_dict())


@pytest.mark.parametrize("value", [7.0, -1e30, float("nan"), float("inf")])
def test_what_stands_in_a_hidden_cell_changes_no_output_and_no_gradient(value):
    model, (table, missing) = tables(), cells_of(0.5)
    assert missing[:, :2].any() and missing[:, 2:].any()
    results = []
    for inside in (table, torch.where(missing & (torch.arange(4) >= 2), torch.tensor(value), table)):
        inside = inside.clone().requires_grad_()
        model.zero_grad()
        out = model.cells(inside, missing)
        out.square().sum().backward()
        assert out.isfinite().all() and (inside.grad[missing] == 0).all()
        results.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()


def test_a_hidden_code_changes_nothing_either():
    model, (table, missing) = tables(), cells_of(0.5)
    other = torch.where(missing & (torch.arange(4) < 2), 1 - table.clamp(0, 1), table)
    assert not torch.equal(other, table) and torch.equal(model.cells(table, missing), model.cells(other, missing))


def test_visible_outputs_do_not_depend_on_the_mask_token():
    model, (table, missing) = tables(), cells_of(0.5)
    before = model.cells(table, missing)
    model.tokens.mask_token.data += 1.0
    after = model.cells(table, missing)
    seen = torch.cat([torch.ones(6, 1, dtype=torch.bool), ~missing], dim=1)
    assert torch.equal(before[seen], after[seen]) and not torch.equal(before[~seen], after[~seen])


def test_rows_without_a_visible_cell_are_all_the_same():
    model, (table, _) = tables(), cells_of()
    out = model.cells(table, torch.ones_like(table, dtype=torch.bool))
    assert out.isfinite().all() and torch.equal(out, out[:1].expand_as(out))


def test_nothing_missing_is_the_path_without_a_mask_bit_for_bit():
    model, (table, missing) = tables(), cells_of()
    plain = model.tokens(table)
    for block in model.transformer.blocks:
        plain = block(plain)
    assert torch.equal(model.cells(table), plain) and torch.equal(model.cells(table, missing), plain)
    batch = raw_batch()
    del batch["table_missing"]
    assert torch.equal(model.embed(raw_batch()), model.embed(batch))


def test_columns_permuted_with_their_embeddings_leave_the_class_token():
    model, (table, missing) = tables(), cells_of(0.3)
    before = model.pooled(table, missing)
    order = [0, 1, 3, 2]  # the two continuous columns, which share their map
    weight = model.tokens.column_embed.weight.data
    weight[1:] = weight[1:][order]
    torch.testing.assert_close(model.pooled(table[:, order], missing[:, order]), before)
    assert not torch.allclose(model.pooled(table, missing), before)


def test_rows_permuted_permute_the_outputs():
    model, (table, missing) = tables(), cells_of(0.3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(model.cells(table[order], missing[order]), model.cells(table, missing)[order])


def test_a_category_that_no_training_row_has_is_a_missing_cell():
    model, raw = tables(), raw_batch()
    given = (Column("colour", "categorical", ("red", "green", "blue", "pink")), *COLUMNS[1:])
    raw["table"][2, 0] = 3.0
    unseen = model.embed(raw | dict(table_columns=given))
    raw["table"][2, 0], raw["table_missing"][2, 0] = 0.0, True
    assert torch.equal(unseen, model.embed(raw)) and model.preprocess.unseen["colour"] == 1


@pytest.mark.parametrize("kind", [True, False])
def test_tables_of_one_kind_of_columns(kind):
    columns = tuple(c for c in COLUMNS if c.categorical == kind)
    model = build(table_config() | dict(preprocess=record(columns=columns)))
    raw = raw_batch(holes=0.3)
    places = [COLUMNS.index(c) for c in columns]
    raw |= {k: raw[k][:, places] for k in ("table", "table_missing", "table_view")}
    assert model.embed(raw | dict(table_columns=columns)).shape == (6, 16)


def test_features_baselines_and_layers():
    model = tables()
    batch = model.preprocess(raw_batch(holes=0.3))
    assert model.encode(batch).shape == (6, model.feature_dims()) == (6, 16)
    found = model.baselines(batch)
    assert torch.equal(found["raw"], model.raw_features(batch)) and found["raw"].shape == (6, 3 + 2 + 2)
    assert torch.equal(found["mask"], batch["table_missing"].float())
    groups = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert groups["tokens.cls_token"] == 0 and groups["transformer.blocks.1.attn.proj.weight"] == 2
    assert model.layer_count() == 4 and set(groups.values()) == {0, 1, 2}
    assert model.describe() == {"columns": "2 categorical (5 values), 2 continuous"}


def test_faults_are_told():
    with pytest.raises(ConfigError, match=r"num_heads.*does not divide embed_dim = 16"):
        tables(num_heads=3)
    with pytest.raises(ConfigError, match=r"drop_rate.*\[0, 1\)"):
        tables(drop_rate=1.0)
    with pytest.raises(ConfigError, match="knows no columns"):
        build(table_config() | dict(preprocess=dict(type="ImagePreprocess", size=16)))
    model = tables()
    with pytest.raises(DataError, match=r"reads 'table', but the batch holds \['image'\]"):
        model.encode({"image": torch.zeros(1)})
    with pytest.raises(DataError, match=r"4 columns, not of shape \(6, 3\)"):
        model.encode({"table": torch.zeros(6, 3)})
    with pytest.raises(ConfigError, match="TableTransformer has cls"):
        model.encode(model.preprocess(raw_batch()), "gap")


def test_weights_of_other_columns_are_refused(tmp_path):
    from perception.checkpoint import save_checkpoint
    from perception.exporting import load_weights

    other = (Column("colour", "categorical", ("red", "green", "pink")), *COLUMNS[1:])
    theirs = build(table_config() | dict(preprocess=record(columns=other)))
    file = save_checkpoint(
        {
            "meta": {"preprocess": theirs.preprocess.record(), "config": '{"model": {}}'},
            "state_dict": {f"backbone.{k}": v for k, v in theirs.state_dict().items()},
        },
        tmp_path / "step_1.pth",
    )
    with pytest.raises(CheckpointError, match="column 'colour' had other categories"):
        load_weights(tables(), file)


def test_the_encoder_with_images_has_a_table_branch_of_the_same_names():
    names = set(build(encoder_config()).table_backbone.state_dict())
    assert names == set(tables().state_dict())
