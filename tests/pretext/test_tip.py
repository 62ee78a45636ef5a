"""TIP's losses on a small encoder: values by hand, gradients where they belong, every loss alone, one pass a tower."""

import pytest
import torch
import torch.nn.functional as F
from table_models import encoder_config, raw_batch, record, table_config

from perception.errors import ConfigError, DataError
from perception.losses.table_image import HiddenCells
from perception.pretext.table_cells import CellHeads
from perception.registry import MODELS, PRETEXTS

THIRD = 1 / 3


def pretrainer(backbone=None, **options):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type="Pretrainer",
            backbone=backbone or encoder_config(),
            pretexts=dict(tip=dict(type="TIP") | options),
        )
    )


def losses_of(model, raw, seed=3):
    torch.manual_seed(seed)
    return model(*model.data_preprocessor(raw, True))


def test_all_three_by_hand():
    model = pretrainer()
    model.eval()  # batch norms of the projectors with their running statistics
    raw = raw_batch(holes=0.2)
    found = losses_of(model, raw)
    backbone, tip = model.backbone, model.pretexts["tip"]
    batch = backbone.preprocess(raw)
    tokens, pooled = backbone.image_tokens(batch)
    missing = batch["table_missing"]
    view = backbone.table_backbone.cells(batch["table_view"], missing)
    image = F.normalize(tip.image_projector(pooled), dim=1)
    table = F.normalize(tip.table_projector(view[:, 0]), dim=1)
    cosines = image @ table.T / 0.1
    right = torch.arange(6)
    itc = 0.5 * F.cross_entropy(cosines, right) + 0.5 * F.cross_entropy(cosines.T, right)
    torch.testing.assert_close(found["itc_loss"], itc)

    torch.manual_seed(3)  # the same draws: a table for every image, an image for every table, then cells

    def draw(similarity):
        weights = (similarity.softmax(1) + 1e-4).fill_diagonal_(0)
        return (weights / torch.empty(6, 6).exponential_()).argmax(1)

    other_table, other_image = draw(cosines.detach()), draw(cosines.detach().T)
    pairs = [(view, tokens), (view, tokens[other_image]), (view[other_table], tokens)]
    logits = tip.itm_head(torch.cat([backbone.interaction(a, b)[:, 0] for a, b in pairs]))
    target = torch.tensor([1] * 6 + [0] * 12)
    torch.testing.assert_close(found["itm_loss"], F.cross_entropy(logits, target))
    assert found["itm_accuracy"].item() == pytest.approx((logits.argmax(1) == target).float().mean().item())

    order = torch.rand(6, 4).masked_fill(missing, 2.0).argsort(1)
    hidden = torch.zeros(6, 4, dtype=torch.bool)
    for i in range(6):
        hidden[i, order[i, : round(0.5 * int((~missing[i]).sum()))]] = True
    cells = backbone.table_backbone.cells(batch["table"], missing | hidden)
    joint = backbone.interaction(cells, tokens)
    kinds = {True: [], False: []}
    for i, j in hidden.nonzero().tolist():
        value = batch["table"][i, j]  # before corruption
        if j < 2:
            own = slice(0, 3) if j == 0 else slice(3, 5)
            scores = tip.cell_heads.cat_classifier(joint[i, j + 1])[own]
            kinds[True].append(-scores.log_softmax(0)[int(value)])
        else:
            kinds[False].append((tip.cell_heads.con_regressor(joint[i, j + 1])[0] - value).square())
    assert kinds[True] and kinds[False]
    mtr = (torch.stack(kinds[True]).mean() + torch.stack(kinds[False]).mean()) / 2
    torch.testing.assert_close(found["mtr_loss"], mtr)


def test_gradients_reach_every_parameter_and_the_total_is_the_mean_of_three():
    model = MODELS.build(
        dict(
            type="Pretrainer",
            backbone=encoder_config(),
            pretexts=dict(tip=dict(type="TIP")),
            balance=dict(itc_loss=THIRD, itm_loss=THIRD, mtr_loss=THIRD),
        )
    )
    total, logged = model.parse_losses(losses_of(model, raw_batch()))
    parts = [logged[f"{name}_loss"] for name in ("itc", "itm", "mtr")]
    torch.testing.assert_close(total, torch.stack(parts).mean())
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("loss", ["itc", "itm", "mtr"])
def test_each_loss_works_alone_and_gives_what_it_gives_with_the_others(loss):
    model = pretrainer(losses=(loss,))
    found = losses_of(model, raw_batch(holes=0.2))
    assert [n for n in found if "loss" in n] == [f"{loss}_loss"]
    found[f"{loss}_loss"].backward()
    grads = {n.split(".")[1] for n, p in model.backbone.named_parameters(prefix="b") if p.grad is not None}
    expected = {"image_backbone", "table_backbone"} | ({"interaction"} if loss != "itc" else set())
    assert grads == expected
    if loss == "mtr":
        both = pretrainer(losses=("itc", "mtr"))
        both.backbone.load_state_dict(model.backbone.state_dict())
        both.pretexts["tip"].cell_heads.load_state_dict(model.pretexts["tip"].cell_heads.state_dict())
        again = losses_of(both, raw_batch(holes=0.2))["mtr_loss"]
        torch.testing.assert_close(again, losses_of(model, raw_batch(holes=0.2))["mtr_loss"])


def test_several_pretexts_share_one_pass_of_each_tower():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="Pretrainer",
            backbone=encoder_config(),
            pretexts={name: dict(type="TIP", losses=(name,)) for name in ("itc", "itm", "mtr")},
        )
    )
    runs = {"image": 0, "table": 0}

    def count(name):
        return lambda *_: runs.__setitem__(name, runs[name] + 1)

    model.backbone.image_backbone.stages[0].register_forward_hook(count("image"))
    model.backbone.table_backbone.tokens.register_forward_hook(count("table"))
    found = losses_of(model, raw_batch())
    assert {n for n in found if "loss" in n} == {"itc.itc_loss", "itm.itm_loss", "mtr.mtr_loss"}
    assert runs == {"image": 1, "table": 2}  # the view and the masked table


def heads(vocabulary="column", categories=(3, 2), continuous=2):
    torch.manual_seed(0)
    return CellHeads(8, categories, continuous, vocabulary)


def all_hidden(rows=4, columns=4):
    places = torch.arange(columns).expand(rows, -1)
    return HiddenCells(torch.ones(rows, columns, dtype=torch.bool), places, torch.ones(rows, columns, dtype=torch.bool))


def test_perfect_predictions_cost_nothing():
    for vocabulary in ("column", "global"):
        own = heads(vocabulary)
        table = torch.tensor([[0.0, 1.0, 0.5, -0.5]]).repeat(4, 1)
        tokens = torch.zeros(4, 4, 8)
        tokens[:, 0, 0] = tokens[:, 1, 1] = tokens[:, 2, 2] = tokens[:, 3, 3] = 1.0
        with torch.no_grad():
            own.cat_classifier.weight.zero_()
            own.cat_classifier.weight[0, 0] = own.cat_classifier.weight[3 + 1, 1] = 60.0
            own.con_regressor.weight.zero_()
            own.con_regressor.weight[0, 2], own.con_regressor.weight[0, 3] = 0.5, -0.5
        found = own(tokens, all_hidden(), table)
        assert abs(found["loss"].item()) <= 1e-6 and found["cell_accuracy"] == 1.0
        assert torch.equal(own.told(tokens), table)


def test_no_gradient_at_cells_that_are_not_hidden():
    own = heads()
    tokens = torch.randn(4, 4, 8, requires_grad=True)
    valid = torch.rand(4, 4) < 0.5
    hidden = HiddenCells(valid, torch.arange(4).expand(4, -1), valid)
    table = torch.tensor([[2.0, 1.0, 0.5, -0.5]]).repeat(4, 1)
    own(tokens, hidden, table)["loss"].backward()
    assert (tokens.grad[~valid] == 0).all() and (tokens.grad[valid].abs().sum(1) > 0).all()


def test_the_softmax_of_a_column_leaves_other_columns_alone():
    tokens, table = torch.randn(4, 4, 8), torch.tensor([[2.0, 1.0, 0.5, -0.5]]).repeat(4, 1)
    values = {}
    for vocabulary in ("column", "global"):
        own = heads(vocabulary)
        values[vocabulary] = own(tokens, all_hidden(), table)["loss"]
        scores = own.cat_classifier(tokens[:, :2])
        spans = ((0, 3), (3, 5)) if vocabulary == "column" else ((0, 5), (0, 5))
        by_hand = [
            -scores[i, j, a:b].log_softmax(0)[place - a]
            for i in range(4)
            for j, (place, (a, b)) in enumerate(zip((2, 4), spans, strict=True))
        ]
        errors = (own.con_regressor(tokens[:, 2:])[..., 0] - table[:, 2:]).square().mean()
        torch.testing.assert_close(values[vocabulary], (torch.stack(by_hand).mean() + errors) / 2)
    assert values["global"] > values["column"]


@pytest.mark.parametrize(("categories", "continuous"), [((3, 2), 0), ((), 2)])
def test_columns_of_one_kind(categories, continuous):
    own = heads(categories=categories, continuous=continuous)
    columns = len(categories) + continuous
    found = own(torch.randn(4, columns, 8), all_hidden(4, columns), torch.zeros(4, columns))
    assert found["loss"].isfinite() and found["loss"] > 0 and ("cell_accuracy" in found) == bool(categories)


def test_a_batch_without_an_observed_cell_costs_nothing_and_gives_no_nan():
    model = pretrainer()
    raw = raw_batch()
    raw["table_missing"] = torch.ones_like(raw["table_missing"])
    found = losses_of(model, raw)
    assert found["mtr_loss"] == 0 and all(v.isfinite() for v in found.values())
    found["mtr_loss"].backward()
    heads = model.pretexts["tip"].cell_heads
    assert all(p.grad is not None and (p.grad == 0).all() for p in heads.parameters())  # so that no rank is waited for


def test_rows_without_an_image_take_no_part():
    model = pretrainer().eval()
    raw = raw_batch(8)
    gone = torch.tensor([False, True] * 4)
    kept = {k: v[~gone] if isinstance(v, torch.Tensor) else v for k, v in raw.items()}
    some, all_ = losses_of(model, raw | dict(image_missing=gone)), losses_of(model, kept)
    for name, value in all_.items():
        torch.testing.assert_close(some[name], value)


def test_hidden_cells_alone_without_images():
    model = pretrainer(backbone=table_config() | dict(preprocess=record()), losses=("mtr",))
    raw = {k: v for k, v in raw_batch(holes=0.3).items() if k != "image"}
    loss = losses_of(model, raw)["mtr_loss"]
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters())
    joint = pretrainer(losses=("mtr",))
    losses_of(joint, raw)["mtr_loss"].backward()
    assert all(p.grad is None for p in joint.backbone.image_backbone.parameters())


def test_equal_tables_are_left_out_on_request():
    model = pretrainer(losses=("itm",), exclude_equal=True)
    raw = raw_batch(4)
    raw["table"][1], raw["table_view"][1] = raw["table"][0], raw["table_view"][0]
    seen = []
    pretext = model.pretexts["tip"]
    inner = pretext._matches
    pretext._matches = lambda *a: seen.append(inner(*a)) or seen[-1]
    for seed in range(60):
        losses_of(model, raw, seed)
    for _, images, tables in seen:
        assert images.images[0] not in (0, 1) and tables.tables[1] not in (0, 1)


def test_the_floor_of_negatives_reaches_the_draws():
    raw = raw_batch(16)
    drawn = {}
    for floor in (1e-4, 1e6):
        model = pretrainer(losses=("itm",), negative_floor=floor)
        pretext = model.pretexts["tip"]
        sure = torch.full((16, 16), -50.0)
        sure[:, 0] = sure[0, 1] = 50.0  # the first row is everyone's nearest, in both directions
        torch.manual_seed(0)
        pairs = [pretext._matches(sure, raw["table"], raw["table_missing"]) for _ in range(20)]
        drawn[floor] = torch.stack([tables.tables for _, _, tables in pairs])
    # Even draws of 15 others: one in fifteen; nearest ones: 1 against fourteen floors of 1e-4.
    assert (drawn[1e-4][:, 1:] == 0).float().mean() > 0.98
    assert 0.02 < (drawn[1e6][:, 1:] == 0).float().mean() < 0.12


def test_cells_are_told_and_the_picture_drawn():
    model = pretrainer().eval()
    batch = model.backbone.preprocess(raw_batch(holes=0.2))
    told = model.pretexts["tip"].tell_cells(model.backbone, batch, all_hidden(6))
    assert told.shape == (6, 4) and set(told[:, 0].tolist()) <= {0.0, 1.0, 2.0}
    assert set(told[:, 1].tolist()) <= {0.0, 1.0}
    pictures = model.pictures(batch)
    assert list(pictures) == ["tip_attention"]
    picture = pictures["tip_attention"]
    assert picture.dtype.name == "uint8" and picture.shape[0] == 6 * 132 and picture.std() > 10


def test_faults_are_told():
    with pytest.raises(ConfigError, match="'itd' is not one of itc, itm, mtr"):
        PRETEXTS.build(dict(type="TIP", losses=("itd",)))
    with pytest.raises(ConfigError, match=r"mask_ratio.*\(0, 1\]"):
        PRETEXTS.build(dict(type="TIP", mask_ratio=0))
    with pytest.raises(ConfigError, match="negative_floor"):
        PRETEXTS.build(dict(type="TIP", negative_floor=0.0))
    with pytest.raises(ConfigError, match="needs a TableImageEncoder"):
        pretrainer(backbone=dict(type="ConvNet"))
    with pytest.raises(ConfigError, match="no images to contrast"):
        pretrainer(backbone=table_config() | dict(preprocess=record()))
    with pytest.raises(ConfigError, match="hides none of the 4 cells"):
        pretrainer(mask_ratio=0.1)
    raw = raw_batch()
    del raw["table_view"]
    with pytest.raises(DataError, match="add CorruptTable"):
        losses_of(pretrainer(), raw)
    assert losses_of(pretrainer(corrupted=False), raw)["itc_loss"].isfinite()


def test_scarf_is_the_cross_entropy_of_rows_and_their_copies():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="Pretrainer",
            backbone=table_config() | dict(preprocess=record()),
            pretexts=dict(scarf=dict(type="SCARF", projection_dim=8)),
        )
    ).eval()
    raw = raw_batch(holes=0.2)
    found = model(*model.data_preprocessor(raw, True))
    batch = model.backbone.preprocess(raw)
    head = model.pretexts["scarf"].head
    own, copy = (
        F.normalize(head(model.backbone.pooled(batch[key], batch["table_missing"])), dim=1)
        for key in ("table", "table_view")
    )
    torch.testing.assert_close(found["loss"], -(own @ copy.T).log_softmax(1).diagonal().mean())
    found["loss"].backward()
    joint = MODELS.build(dict(type="Pretrainer", backbone=encoder_config(), pretexts=dict(scarf=dict(type="SCARF"))))
    joint(*joint.data_preprocessor(raw, True))["loss"].backward()
    trained = {n.split(".")[0] for n, p in joint.backbone.named_parameters() if p.grad is not None}
    assert trained == {"table_backbone"}
    with pytest.raises(ConfigError, match="SCARF needs a backbone of tables"):
        MODELS.build(dict(type="Pretrainer", backbone=dict(type="ConvNet"), pretexts=dict(s=dict(type="SCARF"))))


def three_kinds():
    """48 rows whose image tells one column, which tells all others."""
    raw = raw_batch(48)
    raw["table"][:, 1] = raw["table"][:, 0].clamp(max=1)
    raw["table"][:, 2:] = raw["table"][:, :1] - 1
    raw["table_view"] = raw["table"]
    raw["image"] = (raw["image"] // 8) + (80 * raw["table"][:, 0]).byte()[:, None, None, None]
    return raw


def trained(model, raw, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        total, logged = model.parse_losses(model(*model.data_preprocessor(raw, True)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return logged


def test_matching_leaves_the_share_of_pairs_that_do_not_belong():
    """Two of three pairs are wrong ones: who knows nothing says so, and is right for 2/3."""
    model = pretrainer(backbone=encoder_config(init_std=0.2), losses=("itm",), exclude_equal=True)
    logged = trained(model, three_kinds(), 60)
    assert logged["itm_accuracy"] > 0.95 and logged["itm_loss"] < 0.1


def test_the_encoder_learns_which_table_belongs_to_an_image():
    """Losses fall below those of guessing."""
    model = MODELS.build(
        dict(
            type="Pretrainer",
            backbone=encoder_config(),
            pretexts=dict(tip=dict(type="TIP")),
            balance=dict(itc_loss=THIRD, itm_loss=THIRD, mtr_loss=THIRD),
        )
    )
    logged = trained(model, three_kinds(), 60)
    assert logged["mtr_loss"] < 0.15 and logged["cell_accuracy"] > 0.95
    assert logged["itc_loss"] < 3.0 < torch.tensor(48.0).log()  # three groups of 16 are told apart: ln 16 = 2.77
