"""Plain fusions and the perceptron over filled-in tables, against numbers worked out by hand."""

import pytest
import torch
from table_models import build, encoder_config, raw_batch, record, table_config

from perception.errors import ConfigError, DataError


def fusion(kind="concat", **table):
    config = encoder_config(
        type="TableImageFusion", fusion=kind, table_backbone=dict(type="TableMLP", embed_dim=10) | table
    )
    for key in ("depth", "num_heads"):
        del config[key]
    return build(config).eval()


def mlp(**changes):
    return build(dict(type="TableMLP", embed_dim=10, preprocess=record()) | changes)


def test_holes_are_filled_with_the_mean_and_the_most_frequent_category_of_the_rows_seen():
    model = mlp()
    table = torch.tensor([[2.0, 1, 0.5, 3], [2, 0, 1, 1], [0, 1, 2, 2], [0, 0, 0, 0]])
    missing = torch.zeros(4, 4, dtype=torch.bool)
    missing[3] = True
    model.train()
    model.numbers(table, missing)
    assert model.category_counts.tolist() == [1, 0, 2, 1, 2]  # observed cells alone
    model.eval()
    filled = model.numbers(table, missing)
    assert filled[3].tolist() == [0, 0, 1, 0, 1, 0, 0]
    assert filled[0].tolist() == [0, 0, 1, 0, 1, 0.5, 3]
    assert model.category_counts.tolist() == [1, 0, 2, 1, 2]  # not counted in eval mode
    for kind, expected in (("mean", [1 / 3, 0, 2 / 3, 1 / 3, 2 / 3, 0, 0]), ("zero", [0] * 7)):
        model.impute = kind
        torch.testing.assert_close(model.numbers(table, missing)[3], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("value", [5.0, float("nan")])
def test_what_stands_in_a_hole_has_no_influence(value):
    model = mlp().eval()
    batch = model.preprocess(raw_batch(holes=0.4))
    other = torch.where(batch["table_missing"], torch.tensor(value), batch["table"])
    assert torch.equal(model.encode(batch | dict(table=other)), model.encode(batch))


def test_without_layers_it_gives_the_numbers_themselves():
    model = mlp(depth=0, impute="zero").eval()
    batch = model.preprocess(raw_batch(holes=0.3))
    assert torch.equal(model.encode(batch), model.raw_features(batch)) and model.embed_dims == 7


def test_concatenation_and_maximum():
    raw = raw_batch(holes=0.3)
    model = fusion()
    batch = model.preprocess(raw)
    image, table = model.encode(batch, "image"), model.encode(batch, "table")
    assert torch.equal(model.encode(batch), torch.cat([image, table], 1)) and model.embed_dims == 12 + 10
    model = fusion("max")
    image, table = model.encode(batch, "image"), model.encode(batch, "table")
    expected = torch.maximum(image @ model.image_proj.weight.T + model.image_proj.bias, table)
    torch.testing.assert_close(model.encode(batch), expected)
    assert model.embed_dims == 10


def test_the_affine_map_of_daft():
    model = fusion("daft", depth=0, impute="zero")
    batch = model.preprocess(raw_batch(holes=0.3))
    tokens, pooled = model.image_tokens(batch)
    first, _, second = model.affine.bottleneck
    assert first.out_features == int((12 + 7) / 7)
    hidden = torch.relu(first(torch.cat([pooled, model.encode(batch, "table")], 1)))
    scale, shift = second(hidden).split(12, dim=1)
    moved = (scale[:, None] * tokens + shift[:, None]) @ model.affine.map.weight.T
    moved = moved / (1 + 1e-5) ** 0.5  # a batch norm that has seen nothing
    expected = torch.relu(tokens + moved).mean(1)
    torch.testing.assert_close(model.encode(batch), expected)


def test_a_table_may_be_absent_and_an_image_may_not():
    model = fusion()
    raw = raw_batch()
    gone = raw | dict(table_missing=torch.ones(6, 4, dtype=torch.bool))
    assert torch.equal(model.embed({"image": raw["image"]}), model.embed(gone))
    with pytest.raises(DataError, match="needs images"):
        model.embed({k: v for k, v in raw.items() if k != "image"})
    with pytest.raises(DataError, match="reads 'image' and 'table'"):
        model.encode({})
    assert model.unused_parts("table") == [model.image_backbone]


def test_it_takes_a_transformer_of_tables_too():
    config = encoder_config(type="TableImageFusion", table_backbone=table_config())
    for key in ("depth", "num_heads"):
        del config[key]
    model = build(config)
    assert model.embed(raw_batch(holes=0.3)).shape == (6, 12 + 16)
    assert {model.layer_id(n) for n, _ in model.named_parameters()} <= set(range(model.layer_count()))


def test_faults_are_told():
    with pytest.raises(ConfigError, match=r"fusion.*not one of concat, max, daft; nearest is 'concat'"):
        fusion("concatenate")
    with pytest.raises(ConfigError, match=r"impute.*not one of mean, mode, zero"):
        mlp(impute="median")
    with pytest.raises(ConfigError, match=r"depth.*at least 0"):
        mlp(depth=-1)
