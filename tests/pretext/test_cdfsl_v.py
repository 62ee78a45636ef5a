"""The curriculum of CDFSL-V: its weights, what learns from what, its teacher, and a run that is cut."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.hooks import Hook

from perception.backbones.video_vit import VideoViT
from perception.checkpoint import find_checkpoint, load_checkpoint
from perception.config import load_config
from perception.datasets.paired import PARTNER
from perception.engine.api import build_runner, train
from perception.errors import ConfigError, DataError
from perception.pretext.cdfsl_v import CDFSLV, consistency_loss, curriculum_weight
from perception.validation import validate_config


def small(**options):
    torch.manual_seed(0)
    record = dict(type="VideoPreprocess", size=(8, 8), frames=2)
    sizes = dict(image_size=8, frames=2, patch_size=4, tubelet=2, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2.0)
    vit = VideoViT(**sizes, preprocess=record)
    pretext = CDFSLV(num_classes=3, **options)
    pretext.attach(vit)
    pretext.before_training(epoch_length=2, total_steps=8)
    pretext.before_step(0, 8)
    return vit, pretext


def clips(count, seed):
    return torch.randn(count, 3, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def batch(source=4, target=4):
    views = [clips(target, 1), clips(target, 2)]
    return {"video": clips(source, 0), "label": torch.arange(source) % 3, PARTNER: {"views": views}}


def test_the_curriculum_by_hand():
    # arctan(5) = 1.373401: 0.5 -+ 0.437167.
    assert [curriculum_weight(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.062833, 0.5, 0.937167], abs=1e-6)
    falling = [math.atan(-10 * (i / 20 - 0.5)) / math.pi + 0.5 for i in range(21)]  # lambda_cls of the paper
    assert [1 - curriculum_weight(i / 20) for i in range(21)] == pytest.approx(falling)


def test_lambda_goes_by_epochs_and_is_a_function_of_the_step():
    _, pretext = small()
    found = []
    for step in (0, 1, 2, 5, 7, 1):  # epochs of two steps, four of them
        pretext.before_step(step, 8)
        found.append(pretext.weight)
    assert found == [curriculum_weight(x) for x in (0, 0, 0.25, 0.5, 0.75, 0)]
    _, pretext = small(curriculum=False, consistency=0.5)
    assert pretext.weight == 0.5
    with pytest.raises(ConfigError, match="before_training"):
        CDFSLV(num_classes=3).before_step(0, 8)


def test_consistency_is_a_divergence_and_an_entropy():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    q, p = (teacher / 0.1).softmax(1).double(), student.softmax(1).double()
    kl = (q * (q.clamp_min(1e-300).log() - p.log())).sum(1).mean()
    entropy = -(q * q.clamp_min(1e-300).log()).sum(1).mean()
    assert consistency_loss(student, q.float()).item() == pytest.approx((kl + entropy).item(), rel=1e-5)
    assert consistency_loss(teacher / 0.1, q.float()).item() == pytest.approx(entropy.item(), rel=1e-4)
    # By hand: q = (0.5, 0.5), p = (0.8, 0.2): -(ln 0.8 + ln 0.2) / 2.
    one = consistency_loss(torch.tensor([[math.log(4.0), 0.0]]), torch.tensor([[0.5, 0.5]]))
    assert one.item() == pytest.approx(0.9162907, abs=1e-6)


@pytest.mark.parametrize("target", [4, 6])  # the second does not go through the student together with the source
def test_losses_by_hand(target):
    vit, pretext = small()
    data = batch(target=target)
    with torch.no_grad():
        pretext.head.weight.mul_(50)
        pretext.teacher["head"].weight.mul_(30)
    pretext.before_step(5, 8)
    found = pretext(vit, data)
    weak, strong = data[PARTNER]["views"]
    on_source = pretext.head(vit.encode({"video": data["video"]}))
    on_strong = pretext.head(vit.encode({"video": strong})).log_softmax(1)
    q = (pretext.teacher["head"](vit.encode({"video": weak})) / 0.1).softmax(1)  # the teacher's backbone is a copy
    supervised = -on_source.log_softmax(1)[range(4), data["label"]].mean()
    torch.testing.assert_close(found["supervised_loss"], supervised)
    torch.testing.assert_close(found["consistency_loss"], -0.5 * (q * on_strong).sum(1).mean())
    assert found["curriculum"] == 0.5
    assert found["accuracy"] == (on_source.argmax(1) == data["label"]).float().mean()
    torch.testing.assert_close(found["teacher_entropy"], -(q * q.log()).sum(1).mean())


def test_gradients_reach_the_student_alone_and_only_through_the_strong_view():
    vit, pretext = small()
    data = batch()
    views = data[PARTNER]["views"]
    for view in views:
        view.requires_grad_(True)
    found = pretext(vit, data)
    found["consistency_loss"].backward()
    assert views[0].grad is None and views[1].grad.abs().sum() > 0
    assert all(p.grad is not None for p in vit.parameters()) and pretext.head.weight.grad.abs().sum() > 0
    assert not list(pretext.teacher.parameters())  # buffers: no optimiser can meet them
    assert all(not b.requires_grad and b.grad is None for b in pretext.teacher.buffers())


def test_supervised_alone_needs_no_target():
    vit, pretext = small(consistency=0.0)
    data = batch()
    whole = pretext(vit, {k: v for k, v in data.items() if k != PARTNER})
    assert set(whole) == {"supervised_loss", "accuracy"}
    torch.testing.assert_close(whole["supervised_loss"], small()[1](vit, data)["supervised_loss"])


def test_unlabelled_rows_of_the_source_do_not_count():
    vit, pretext = small()
    data = batch()
    data["label"] = torch.tensor([0, -1, 2, -1])
    rows = {**data, "video": data["video"][[0, 2]], "label": data["label"][[0, 2]]}
    torch.testing.assert_close(pretext(vit, data)["supervised_loss"], pretext(vit, rows)["supervised_loss"])


@pytest.mark.parametrize(("update", "moments"), [("step", range(1, 7)), ("epoch", (2, 4, 6))])
def test_the_teacher_is_the_moving_average(update, moments):
    vit, pretext = small(teacher_momentum=0.9, teacher_update=update)
    start = vit.blocks[0].attn.proj.weight.detach().clone()
    head = pretext.head.weight.detach().clone()
    for step in range(6):  # the student's weights are start + step + 1 after the step
        pretext.before_step(step, 8)
        with torch.no_grad():
            vit.blocks[0].attn.proj.weight.add_(1.0)
            pretext.head.weight.sub_(2.0)
        pretext.after_step(vit)
    moved, left = 0.0, 1.0  # closed form: sum over the n updates of 0.1 * 0.9 ** (n - 1 - i) * student_i
    count = len(moments)
    for i, value in enumerate(moments):
        moved += 0.1 * 0.9 ** (count - 1 - i) * value
    left = 0.9**count + sum(0.1 * 0.9 ** (count - 1 - i) for i in range(count))
    assert left == pytest.approx(1.0)
    state = pretext.teacher.state_dict()
    torch.testing.assert_close(state["backbone.blocks.0.attn.proj.weight"], start + moved)
    torch.testing.assert_close(state["head.weight"], head - 2 * moved)


def test_the_teacher_starts_as_the_student_and_stays_in_eval_mode():
    vit, pretext = small()
    pretext.train()
    assert not any(part.training for part in pretext.teacher.modules()) and pretext.head.training
    weak = batch()[PARTNER]["views"][0]
    torch.testing.assert_close(pretext.teacher_logits(weak), pretext.head(vit.encode({"video": weak})))
    names = set(pretext.teacher["backbone"].state_dict())
    assert names == set(vit.state_dict()) and set(pretext.teacher["head"].state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(label=None), "learns from labels"),
        (dict(label=torch.tensor([0, 1, 2, 3])), "label 3 of sample 3 is out of range"),
        ({PARTNER: None}, "let the data set be Paired"),
        ({PARTNER: {"video": clips(4, 0)}}, "finds no views"),
        ({PARTNER: {"views": [clips(4, 0)]}}, "finds 1 views"),
    ],
)
def test_other_batches_are_refused(change, said):
    vit, pretext = small()
    data = {k: v for k, v in {**batch(), **change}.items() if v is not None}
    with pytest.raises(DataError, match=said):
        pretext(vit, data)


@pytest.mark.parametrize(
    "cfg",
    [
        dict(num_classes=1),
        dict(temperature=0),
        dict(teacher_momentum=2),
        dict(teacher_update="stp"),
        dict(consistency=-1),
    ],
)
def test_arguments_are_checked(cfg):
    with pytest.raises(ConfigError, match=next(iter(cfg))):
        CDFSLV(**{"num_classes": 3, **cfg})


class CutAfter(Hook):
    """Leaves the run between two steps, after what is saved there."""

    priority = 95

    def after_step(self, runner) -> None:
        if runner.iter == 6:
            raise KeyboardInterrupt


def config(**changes):
    """Moving digits with labels, and others without, in epochs of four steps."""
    cfg = load_config("video/videomae_vit-tiny_moving-digits")
    crop = dict(type="ClipResizedCrop", size=32, scale=(0.5, 1.0))
    views = [[crop], [crop, dict(type="ClipJitter"), dict(type="ClipBlur")]]
    cfg.model.backbone.update(embed_dim=16, depth=1, num_heads=2, drop_rate=0.1)
    cfg.model.pretexts = dict(cdfsl_v=dict(type="CDFSLV", num_classes=4, teacher_update="epoch", feature="norm-gap"))
    cfg.train_dataloader = dict(
        batch_size=4,
        dataset=dict(
            type="Paired",
            datasets=[
                dict(type="MovingDigits", split="train", count=16, transforms=[crop]),
                dict(type="MovingDigits", count=10, transforms=[dict(type="ClipViews", views=views)]),
            ],
        ),
    )
    cfg.train_cfg = dict(type="TrainLoop", max_epochs=3)
    optimizer = dict(type="SGD", lr=0.01, momentum=0.9, nesterov=True)
    part = "pretexts.cdfsl_v.head"
    cfg.optim_wrapper = dict(
        constructor="LayerDecay", paramwise_cfg=dict(separate=[part]), optimizer=optimizer, clip_grad=dict(max_norm=5.0)
    )
    cfg.param_scheduler = dict(type="CurriculumRate", group=part)
    cfg.default_hooks.checkpoint.every_steps = 2
    cfg.pop("evaluation")
    cfg.update(changes)
    return cfg


def test_a_run_that_is_cut_ends_exactly_as_a_whole_one(tmp_path):
    assert validate_config(config()) == []
    train(config(), tmp_path / "whole", seed=0)
    runner = build_runner(config(), tmp_path / "cut", 0)
    runner.register_hook(CutAfter())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    rates = {group["name"]: group["lr"] for group in runner.optim_wrapper.optimizer.param_groups}
    head = [rates.pop(f"pretexts.cdfsl_v.head{ending}") for ending in ("", "_no_decay")]
    # In the second epoch of three: x = 1/3.
    assert head == pytest.approx([0.01 * (0.5 + math.atan(10 / 6) / math.pi)] * 2) and set(rates.values()) == {0.01}
    summary = train(config(), tmp_path / "cut", seed=0, resume=True)
    assert summary["resumed_at"] == 6
    cut, whole = (load_checkpoint(find_checkpoint(tmp_path / name))["state_dict"] for name in ("cut", "whole"))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[k], whole[k]) for k in whole)
    student, teacher = (whole[f"{p}.weight"] for p in ("pretexts.cdfsl_v.head", "pretexts.cdfsl_v.teacher.head"))
    assert not torch.equal(student, teacher)
