"""The benchmark's harness on contenders whose cost is known."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from benchmarks import harness
from benchmarks.harness import Contender, Target, compare, peak_memory, report, training_step

ROOT = Path(__file__).resolve().parents[2]

MIB = 2**20


def build_slow(device):
    return lambda: time.sleep(0.02)


def build_fast(device):
    return lambda: time.sleep(0.005)


def build_heavy(device):
    return lambda: torch.ones(64 * MIB // 4).sum()


def build_light(device):
    return lambda: None


def test_ratio_of_known_times_and_interleaved_turns(monkeypatch):
    monkeypatch.setattr(harness, "peak_memory", lambda *_: 3 * MIB)
    order = []
    contenders = [
        Contender("fast", lambda device: lambda: (order.append("fast"), time.sleep(0.005))),
        Contender("slow", lambda device: lambda: (order.append("slow"), time.sleep(0.02))),
    ]
    result = compare(contenders, [Target("fast", "slow", 0.5)], rounds=6, warmup=1, threads=1, device="cpu")
    assert 0.15 < result["ratios"][0]["ratio"] < 0.6
    assert len(order) == 14
    assert [order[i : i + 2] for i in (0, 2)] == [["slow", "fast"], ["fast", "slow"]]  # the order rotates
    assert [row["peak_mib"] for row in result["rows"]] == [3, 3]


def test_memory_is_a_target_too(monkeypatch, capsys):
    peaks = {build_light: 3 * MIB, build_heavy: 12 * MIB}
    monkeypatch.setattr(harness, "peak_memory", lambda build, *_: peaks[build])
    contenders = [Contender("light", build_light), Contender("heavy", build_heavy)]
    target = Target("light", "heavy", 0.5, measure="memory")
    result = compare(contenders, [target], rounds=1, warmup=0, threads=1, device="cpu")
    assert result["ratios"] == [{"ours": "light", "peer": "heavy", "limit": 0.5, "measure": "memory", "ratio": 0.25}]
    report("case", result, None)
    assert "light / heavy = 0.25 (peak memory); target <= 0.50: met" in capsys.readouterr().out


def test_peak_memory_sees_what_torch_allocates():
    heavy, light = (peak_memory(build, 1, "cpu") / MIB for build in (build_heavy, build_light))
    assert 60 < heavy < 75
    assert light < 8


def test_training_step_updates_the_weights():
    layer = torch.nn.Linear(4, 1)
    before = layer.weight.clone()
    step = training_step(lambda: layer(torch.ones(2, 4)).square().mean(), list(layer.parameters()), lr=0.1)
    assert step() >= 0
    assert not torch.equal(layer.weight, before)


def test_report_prints_verdicts_and_writes_json(capsys, tmp_path):
    row = {"name": "a", "median_s": 0.01, "fastest_s": 0.01, "median_cpu_s": 0.01, "peak_mib": 5.0}
    ratio = {"ours": "a", "peer": "b", "limit": 0.5, "ratio": 0.7, "ratio_within_turns": 0.7, "ratio_cpu": 0.7}
    result = {"rows": [row], "ratios": [ratio], "settings": harness.settings(1, 1, 1, "cpu")}
    report("case", result, tmp_path / "deep" / "out.json")
    assert "NOT met" in capsys.readouterr().out
    assert json.loads((tmp_path / "deep" / "out.json").read_text())["rows"] == [row]


def test_dense_graphmae_is_the_model_of_the_paper():
    from benchmarks.graphmae import DenseGraphMAE

    model = DenseGraphMAE(1433)
    assert sum(p.numel() for p in model.parameters()) == 2_000_486
    x = torch.rand(30, 1433)
    edges = torch.cat([torch.randint(30, (2, 90)), torch.arange(30).expand(2, -1)], dim=1)
    loss = model(x, edges)
    loss.backward()
    assert 0 < loss.item() < 8 and all(p.grad is not None for p in model.parameters())


def test_contenders_of_mae_have_equal_encoders():
    pytest.importorskip("lightly", reason="lightly is in the extra 'bench'")
    from benchmarks.mae import LightlyMAE, backbone

    from perception.registry import BACKBONES

    ours = BACKBONES.build(backbone())
    theirs = LightlyMAE().backbone.vit
    trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for n, p in theirs.named_parameters() if n != "pos_embed")


def test_contenders_of_the_contrastive_loss_agree():
    pytest.importorskip("open_clip")
    from benchmarks.clip_loss import open_clip_loss, our_loss

    image, text = (torch.nn.functional.normalize(torch.randn(12, 8), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(14.0, requires_grad=True)
    ours, theirs = our_loss(image, text, scale), open_clip_loss(image, text, scale)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(x, (image, text, scale)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_contenders_of_video_mae_have_equal_sizes():
    from benchmarks.video_mae import DECODER_DEPTH, DECODER_HEADS, DECODER_WIDTH, backbone, transformers_model

    from perception.registry import BACKBONES, PRETEXTS

    ours = BACKBONES.build(backbone())
    pretext = PRETEXTS.build(
        dict(
            type="VideoMAE",
            decoder_dim=DECODER_WIDTH,
            decoder_depth=DECODER_DEPTH,
            decoder_num_heads=DECODER_HEADS,
        )
    )
    pretext.attach(ours)
    theirs = transformers_model()
    assert sum(p.numel() for m in (ours, pretext) for p in m.parameters()) == sum(
        p.numel() for p in theirs.parameters()
    )


def test_contenders_of_tip_have_equal_losses_and_gradients():
    from benchmarks.tip import OnePassALoss, Size, model, raw_batch

    from perception.pretext.tip import TIP

    mini = Size(image=32, batch=5, width=16, heads=2)
    batch = raw_batch(mini)
    found = []
    for pretext in (TIP(), OnePassALoss()):
        built = model(mini, pretext)
        torch.manual_seed(1)
        total, logged = built.parse_losses(built(*built.data_preprocessor(batch, True)))
        total.backward()
        assert all(p.grad is not None for p in built.parameters())
        found.append([logged[f"{k}_loss"] for k in ("itc", "itm", "mtr")] + [p.grad for p in built.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
