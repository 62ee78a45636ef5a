"""SelfDistillation: head, teacher, centre, schedule, and what the card says must not happen."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_towers import LOCAL, SIZE, TwoTowers, raw_batch, tiny_clip, tiny_vit

from perception.engine.pretrainer import Pretrainer
from perception.errors import ConfigError, DataError
from perception.layers.positions import resample_positions
from perception.pretext.self_distillation import PrototypeHead, SelfDistillation

K = 8


def attached(backbone, seed=1, **options):
    torch.manual_seed(seed)
    pretext = SelfDistillation(**{**dict(prototypes=K, hidden_dim=12, bottleneck_dim=6), **options})
    pretext.attach(backbone)
    return pretext


def cooked(backbone, **options):
    return backbone.preprocess(raw_batch(texts=False, **options))


def disturb(pretext):
    """A teacher and a centre that differ from the student and from zero."""
    with torch.no_grad():
        for tensor in (*pretext.teacher.buffers(), pretext.centre):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return pretext


def states(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def step(pretext, backbone, batch, optimiser):
    loss = pretext(backbone, batch)["loss"]
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    pretext.after_step(backbone)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_head_is_the_card_s(norm_last_layer):
    torch.manual_seed(0)
    head = PrototypeHead(5, 7, 12, 4, norm_last_layer)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
            assert name in {f"mlp.{i}.{x}" for i in (0, 2, 4) for x in ("weight", "bias")} | {
                "last_layer.weight_v",
                "last_layer.weight_g",
            }
    w = head.state_dict()
    x = torch.randn(3, 5)
    for row, out in zip(x, head(x), strict=True):
        hidden = F.gelu(w["mlp.0.weight"] @ row + w["mlp.0.bias"])
        hidden = F.gelu(w["mlp.2.weight"] @ hidden + w["mlp.2.bias"])
        low = w["mlp.4.weight"] @ hidden + w["mlp.4.bias"]
        low = low / low.norm()
        for k in range(7):
            v = w["last_layer.weight_v"][k]
            assert out[k].item() == pytest.approx((w["last_layer.weight_g"][k] * (v / v.norm() @ low)).item(), abs=1e-5)
    assert (head(x).abs().max() <= 1 + 1e-6) or not norm_last_layer  # cosines
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert ("last_layer.weight_g" in trained) is not norm_last_layer
    fresh = PrototypeHead(64, 7, 200, 40)
    assert fresh.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.05) and fresh.mlp[2].bias.abs().max() == 0


@pytest.mark.parametrize("build", [tiny_vit, tiny_clip, TwoTowers])
def test_loss_matches_views_one_by_one(build):
    backbone = build().eval()
    pretext = disturb(attached(backbone)).eval()
    pretext.before_step(0, 100)
    batch = cooked(backbone)
    out = pretext(backbone, batch)
    teacher = pretext.teacher["backbone"]
    terms, entropies = [], []
    for u in range(2):
        logits = pretext.teacher["head"](teacher.encode({"image": batch["views"][u]}))
        p = ((logits - pretext.centre) / 0.04).softmax(1)
        entropies.append(-(p * p.log()).sum(1).mean())
        for v in range(5):
            if v != u:
                q = (pretext.head(backbone.encode({"image": batch["views"][v]})) / 0.1).log_softmax(1)
                terms.append(-(p * q).sum(1).mean())
    assert len(terms) == 2 * (5 - 1)
    torch.testing.assert_close(out["loss"], sum(terms) / 8, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out["teacher_entropy"], sum(entropies) / 2, atol=1e-5, rtol=1e-5)


def test_local_views_go_through_the_student_alone():
    backbone = TwoTowers()
    pretext = attached(backbone)
    pretext(backbone, cooked(backbone))
    assert backbone.calls == [(10, 3, SIZE, SIZE), (15, 3, LOCAL, LOCAL)]  # views of one size in one batch
    assert pretext.teacher["backbone"].calls == [(10, 3, SIZE, SIZE)]


def test_teacher_starts_equal_and_is_trained_by_nobody():
    backbone = tiny_vit(drop_rate=0.3, drop_path_rate=0.2)
    pretext = attached(backbone).train()
    model = Pretrainer(backbone, {"distil": pretext}).train()
    mine, own = pretext.teacher["backbone"].state_dict(), backbone.state_dict()
    assert mine.keys() == own.keys() and all(torch.equal(mine[k], own[k]) for k in own)
    assert pretext.teacher["head"].state_dict().keys() == pretext.head.state_dict().keys()
    assert not any("teacher" in name for name, _ in model.named_parameters())  # no optimiser can find it
    assert not any(module.training for module in pretext.teacher.modules()) and pretext.head.training
    batch = cooked(backbone)
    twice = [pretext.teacher_logits(batch["views"][:2]) for _ in range(2)]
    assert torch.equal(*twice)  # no dropout
    before = states(pretext.teacher)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    pretext(backbone, batch)["loss"].backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in pretext.teacher.state_dict().items())
    assert all(t.grad is None for t in pretext.teacher.state_dict(keep_vars=True).values())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pretext.head.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.7, 0.996])
def test_teacher_is_the_closed_form_average(momentum):
    backbone = tiny_vit(position="learned")
    pretext = attached(backbone, momentum=momentum)
    optimiser = torch.optim.SGD([*backbone.parameters(), *pretext.head.parameters()], lr=0.5)
    start = states(pretext.teacher)
    students = []
    for seed in range(4):
        step(pretext, backbone, cooked(backbone, seed=seed), optimiser)
        students.append(
            {f"{p}.{k}": v for p, m in (("backbone", backbone), ("head", pretext.head)) for k, v in states(m).items()}
        )
    for name, value in pretext.teacher.state_dict().items():
        expected = momentum**4 * start[name].double()
        for n, student in enumerate(students):
            expected = expected + (1 - momentum) * momentum ** (3 - n) * student[name].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)


def test_momentum_one_keeps_the_teacher_to_the_bit_and_statistics_follow():
    backbone = TwoTowers()  # has a batch norm, whose statistics move in training
    pretext = attached(backbone, momentum=1.0)
    before = states(pretext.teacher)
    optimiser = torch.optim.SGD([*backbone.parameters(), *pretext.head.parameters()], lr=0.5)
    for seed in range(3):
        step(pretext, backbone, cooked(backbone, seed=seed), optimiser)
    moved = {"backbone.trunk.1.running_mean", "backbone.trunk.1.running_var", "backbone.trunk.1.num_batches_tracked"}
    for name, value in pretext.teacher.state_dict().items():
        if name in moved:
            assert torch.equal(value, backbone.state_dict()[name.removeprefix("backbone.")])
        else:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(before["backbone.trunk.1.running_mean"], backbone.trunk[1].running_mean)


def test_batch_norms_of_the_teacher_take_the_statistics_of_the_batch():
    backbone = TwoTowers()
    pretext = attached(backbone).train()
    norm = pretext.teacher["backbone"].trunk[1]
    with torch.no_grad():
        norm.running_mean.fill_(1e3)  # would reach the logits if it were used
    views = cooked(backbone)["views"][:2]
    expected = pretext.head(torch.stack([backbone.train().encode({"image": v}, None) for v in (torch.cat(views),)])[0])
    torch.testing.assert_close(pretext.teacher_logits(views).flatten(0, 1), expected, atol=1e-4, rtol=0)
    trained = {type(m).__name__ for m in pretext.teacher.modules() if m.training}
    assert trained == {"BatchNorm2d"}
    assert not any(m.training for m in pretext.eval().teacher.modules())


def test_teacher_of_a_dual_encoder_is_its_image_tower():
    backbone = tiny_clip()
    pretext = attached(backbone)
    names = set(pretext.teacher["backbone"].state_dict())
    image = {name for name in backbone.state_dict() if name.startswith("visual.")}
    assert names == image
    assert backbone.transformer is not None and backbone.logit_scale is not None  # the student keeps its own
    assert pretext.teacher["backbone"].preprocess is backbone.preprocess
    shared = {t.data_ptr() for t in backbone.state_dict().values()}
    assert not shared & {t.data_ptr() for t in pretext.teacher.state_dict().values()}
    optimiser = torch.optim.SGD([*backbone.parameters(), *pretext.head.parameters()], lr=0.5)
    step(pretext, backbone, cooked(backbone), optimiser)  # follows by name


def test_centre_moves_after_the_loss_by_the_mean_of_the_teacher():
    backbone = tiny_vit()
    pretext = attached(backbone, centre_momentum=0.9)
    batches = [cooked(backbone, seed=seed) for seed in range(2)]
    assert pretext.centre.abs().max() == 0
    centre = torch.zeros(K)
    for batch in batches:
        logits = pretext.teacher_logits(batch["views"][:2])
        expected = pretext.eval()(backbone, batch)["loss"]  # with the centre of before
        pretext.train()
        torch.testing.assert_close(pretext(backbone, batch)["loss"], expected)
        torch.testing.assert_close(pretext.centre, centre)  # the loss alone has not moved it
        pretext.after_step(backbone)
        centre = 0.9 * centre + 0.1 * logits.flatten(0, 1).mean(0)
        torch.testing.assert_close(pretext.centre, centre)
    pretext.after_step(backbone)  # nothing new was seen
    torch.testing.assert_close(pretext.centre, centre)


def test_centre_of_an_update_over_several_batches_is_that_of_all_of_them():
    backbone = tiny_vit()
    one, two = attached(backbone), attached(backbone)
    parts = [cooked(backbone, seed=seed) for seed in range(2)]
    for part in parts:
        one(backbone, part)
    two(backbone, {"views": [torch.cat(pair) for pair in zip(*(p["views"] for p in parts), strict=True)]})
    for pretext in (one, two):
        pretext.after_step(backbone)
    torch.testing.assert_close(one.centre, two.centre)


def test_teacher_temperature_is_a_function_of_the_step():
    def at(pretext, at_step, total=1000):
        pretext.before_step(at_step, total)
        return pretext.teacher_temperature

    steps = attached(tiny_vit(), warmup_steps=10)
    assert [at(steps, s) for s in (0, 5, 10, 999)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert at(steps, 5) == pytest.approx(0.055)  # nothing is remembered
    share = attached(tiny_vit())
    assert [at(share, s) for s in (0, 150, 300)] == pytest.approx([0.04, 0.055, 0.07])
    epochs = attached(tiny_vit(), warmup_epochs=2.5)
    with pytest.raises(ConfigError, match="before_training"):
        at(epochs, 0)
    Pretrainer(tiny_vit(), {"distil": epochs}).before_training(epoch_length=8, total_steps=80)
    assert [at(epochs, s) for s in (0, 10, 20, 79)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert at(attached(tiny_vit(), warmup_steps=0), 0) == 0.07


def test_constant_outputs_without_centre_cost_ln_k():
    backbone = tiny_vit()
    pretext = attached(backbone)
    for head in (pretext.head, pretext.teacher["head"]):
        with torch.no_grad():
            head.last_layer.weight_v.copy_(head.last_layer.weight_v[:1].clone().expand(K, -1))
    out = pretext(backbone, cooked(backbone))
    assert out["loss"].item() == pytest.approx(math.log(K), rel=1e-6)
    assert out["teacher_entropy"].item() == pytest.approx(math.log(K), rel=1e-6)


def test_state_goes_through_a_checkpoint():
    backbone = tiny_vit()
    pretext = attached(backbone)
    optimiser = torch.optim.SGD([*backbone.parameters(), *pretext.head.parameters()], lr=0.5)
    for seed in range(2):
        step(pretext, backbone, cooked(backbone, seed=seed), optimiser)
    other_backbone = tiny_vit(seed=5)
    other = attached(other_backbone, seed=6)
    other.load_state_dict(pretext.state_dict())
    other_backbone.load_state_dict(backbone.state_dict())
    batch = cooked(backbone, seed=9)
    torch.testing.assert_close(other(other_backbone, batch)["loss"], pretext(backbone, batch)["loss"], atol=0, rtol=0)
    assert {"centre", "head.last_layer.weight_g", "teacher.backbone.cls_token"} <= set(pretext.state_dict())
    # After a move to another type (or device) the teacher still follows: nothing points to old memory.
    both = torch.nn.ModuleDict({"backbone": other_backbone, "pretext": other}).double()
    with torch.no_grad():
        other_backbone.cls_token.add_(1.0)
    before = other.teacher["backbone"].cls_token.clone()
    other.after_step(both["backbone"])
    torch.testing.assert_close(
        other.teacher["backbone"].cls_token - before, 0.004 * (other_backbone.cls_token - before)
    )


def test_tied_weights_stay_tied_in_the_teacher():
    backbone = tiny_vit()
    backbone.blocks[1].mlp.fc1.weight = backbone.blocks[0].mlp.fc1.weight
    pretext = attached(backbone, momentum=0.5)
    one, other = (pretext.teacher["backbone"].blocks[i].mlp.fc1.weight for i in range(2))
    assert one is other
    before = one.clone()
    with torch.no_grad():
        backbone.blocks[0].mlp.fc1.weight.add_(1.0)
    pretext.after_step(backbone)
    torch.testing.assert_close(one, before + 0.5)  # moved once


def test_positions_at_the_native_grid_are_the_originals_and_others_are_interpolated():
    for position in ("learned", "sincos"):
        vit = tiny_vit(position=position)
        assert torch.equal(resample_positions(vit.pos_embed, vit.grid, (4, 4), 1), vit.pos_embed)
        small = resample_positions(vit.pos_embed, vit.grid, (2, 2), 1)
        assert small.shape == (1, 5, 16) and torch.equal(small[:, :1], vit.pos_embed[:, :1])
        table = vit.pos_embed[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
        expected = F.interpolate(table, size=(2, 2), mode="bicubic", antialias=True)
        torch.testing.assert_close(small[:, 1:], expected.flatten(2).transpose(1, 2))


def test_the_student_learns_what_a_fixed_teacher_says():
    backbone = tiny_vit()
    pretext = disturb(attached(backbone, momentum=1.0, centre_momentum=1.0, warmup_steps=0))
    pretext.before_step(0, 1)
    pretext.after_step(backbone)  # buffers of the backbone, disturbed too, are not the teacher's own
    batch = cooked(backbone)
    batch["views"][2:] = [view[..., :LOCAL, :LOCAL] for view in (batch["image"],) * 3]
    batch["views"][1] = batch["image"]
    optimiser = torch.optim.AdamW([*backbone.parameters(), *pretext.head.parameters()], lr=1e-2)
    first = pretext(backbone, batch)
    for _ in range(60):
        step(pretext, backbone, batch, optimiser)
    last = pretext(backbone, batch)
    # No student can do better than the entropy of what it is told.
    assert first["teacher_entropy"] == last["teacher_entropy"] < last["loss"] < first["loss"]
    assert last["loss"] - last["teacher_entropy"] < 0.2 * (first["loss"] - first["teacher_entropy"])


def test_picture_shows_image_components_and_likeness():
    backbone = tiny_vit()
    pretext = attached(backbone, picture_count=3)
    batch = cooked(backbone)
    before = deepcopy(states(pretext))
    picture = pretext.pictures(backbone, batch)["self_distillation_features"]
    cell, gap = 64, 2
    assert picture.dtype == np.uint8 and picture.shape == (3 * (cell + gap) + gap, 3 * (cell + gap) + gap, 3)
    raw = raw_batch(texts=False)["image"][2].permute(1, 2, 0).numpy()
    top = gap + 2 * (cell + gap)
    assert np.array_equal(picture[top : top + cell : 4, gap : gap + cell : 4], raw)
    assert np.array_equal(picture, pretext.pictures(backbone, batch)["self_distillation_features"])
    assert all(torch.equal(v, before[k]) for k, v in pretext.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(prototypes=1), "prototypes = 1: must be a whole number of at least 2"),
        (dict(student_temperature=0.0), "student_temperature"),
        (dict(teacher_temperature=0.04), "pair of positive numbers"),
        (dict(teacher_temperature=(0.04, -0.07)), "pair of positive numbers"),
        (dict(warmup_epochs=1, warmup_steps=3), "not both"),
        (dict(warmup_steps=-1), "must not be negative"),
        (dict(momentum=1.1), "momentum"),
        (dict(centre_momentum=-0.1), "centre_momentum"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        SelfDistillation(**options)


def test_a_batch_without_views_is_refused():
    backbone = tiny_vit()
    with pytest.raises(DataError, match="add MultiCrop"):
        attached(backbone)(backbone, {"image": torch.zeros(2, 3, SIZE, SIZE)})
