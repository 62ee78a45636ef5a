"""Whole runs of the tiny model in this process."""

from __future__ import annotations

import errno
import json
import math
import os
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from tiny import same_weights, tiny_config

from perception.checkpoint import find_checkpoint, load_checkpoint, model_state
from perception.engine import api
from perception.engine.api import build_runner, train
from perception.errors import CheckpointError, ConfigError, TrainingError

VALIDATION = dict(
    val_dataloader=dict(batch_size=8, dataset=dict(type="TinyVectors", size=21)),
    val_cfg=dict(type="ValLoop"),
    val_evaluator=[dict(type="TinyAccuracy")],
)
TEST = dict(
    test_dataloader=dict(batch_size=8, num_workers=1, dataset=dict(type="TinyVectors", size=13)),
    test_evaluator=[dict(type="TinyAccuracy")],
)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "scalars.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(find_checkpoint(run))["state_dict"]


class StopAfter(Hook):
    """Leaves a run as a kill between steps would, after the checkpoint hook."""

    priority = 95

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, runner) -> None:
        if runner.iter == self.step:
            raise KeyboardInterrupt


def train_in_parts(cfg: dict, run: Path, *stops: int, seed: int = 0) -> dict:
    for part, stop in enumerate(stops):
        runner = build_runner(cfg, run, seed, resume=part > 0)
        runner.register_hook(StopAfter(stop))
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    return train(cfg, run, seed, resume=True)


def test_run_folder_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "tiny" / "seed_0"
    summary = train(tiny_config(**VALIDATION, **TEST), run, seed=0)
    files = ["config.json", "config.py", "environment.json", "metrics.json", "scalars.jsonl", "summary.json"]
    assert sorted(os.listdir(run)) == sorted(["checkpoints", *files])
    assert sorted(os.listdir(run / "checkpoints")) == ["last_checkpoint", "step_00000020.pth"]
    assert (run / "checkpoints" / "last_checkpoint").read_text() == "step_00000020.pth\n"
    assert json.loads((run / "summary.json").read_text()) == summary
    assert summary["steps"] == 20 and summary["epochs"] == 4 and not summary["stopped_early"]
    assert summary["parameters"] == 6 + 3 * (36 + 6) + 14
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["count"] == 13 and metrics["val"]["count"] == 21
    environment = json.loads((run / "environment.json").read_text())
    assert environment["config_hash"] == summary["config_hash"] and environment["packages"]["torch"]
    out = capsys.readouterr().out
    assert "test accuracy" in out and "mmengine" not in out and len(out.splitlines()) < 30

    trained = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in trained] == list(range(2, 21, 2))
    assert {"epoch", "lr", "loss", "loss_label", "grad_norm", "time", "data_wait"} <= set(trained[0])
    # Warm-up of 5 steps: step 2 is made with 1/5 of the rate.
    assert trained[0]["lr"] == pytest.approx(0.2e-2)
    assert [line["step"] for line in lines(run) if "val/accuracy" in line] == [5, 10, 15, 20]


def test_checkpoint_holds_what_the_contract_says(tmp_path: Path) -> None:
    train(tiny_config(), tmp_path, seed=3)
    checkpoint = torch.load(find_checkpoint(tmp_path), weights_only=True)
    assert {"meta", "state_dict", "optimizer", "param_schedulers", "message_hub", "rng", "hooks"} <= set(checkpoint)
    meta = checkpoint["meta"]
    assert meta["step"] == 20 and meta["epoch"] == 4 and meta["seed"] == 3 and meta["world_size"] == 1
    assert meta["preprocess"] == {"type": "TinyPreprocess", "scale": 1.0}
    assert json.loads(meta["config"])["model"] == {"type": "TinyModel"}
    assert len(json.dumps(checkpoint["message_hub"], default=str)) < 2000


def test_seeds_decide(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_config(epochs=2), tmp_path / name, seed)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("length", [dict(max_epochs=4), dict(max_iters=18)])
def test_resume_is_exact_wherever_it_was_cut(tmp_path: Path, length: dict) -> None:
    cfg = tiny_config(**VALIDATION)
    cfg["train_cfg"] = dict(type="TrainLoop", **length)
    cfg["default_hooks"]["checkpoint"]["every_steps"] = 1
    cfg["custom_hooks"] = [dict(type="EMAHook", decay=0.9)]
    train(cfg, tmp_path / "whole", seed=0)
    # In mid-epoch, at its last step, and one step into the next.
    summary = train_in_parts(cfg, tmp_path / "parts", 3, 5, 6, 16)
    assert summary["resumed_at"] == 16
    whole, parts = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    assert same_weights(whole["state_dict"], parts["state_dict"])
    assert same_weights(whole["ema"], parts["ema"])
    timeless = [
        [{k: v for k, v in line.items() if k not in ("time", "data_wait")} for line in lines(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert timeless[0] == timeless[1]


def test_resume_repeats_the_steps_since_the_last_save(tmp_path: Path) -> None:
    cfg = tiny_config()
    cfg["default_hooks"]["checkpoint"]["every_steps"] = 4
    train(cfg, tmp_path / "whole", seed=0)
    train_in_parts(cfg, tmp_path / "parts", 7, 11)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [line["step"] for line in lines(tmp_path / "parts")] == list(range(2, 21, 2))


def test_accumulation_saves_only_whole_updates(tmp_path: Path) -> None:
    cfg = tiny_config()
    cfg["optim_wrapper"]["accumulative_counts"] = 3
    cfg["default_hooks"]["checkpoint"].update(every_steps=1, max_keep_ckpts=-1)
    train(cfg, tmp_path / "whole", seed=0)
    steps = sorted(int(p.stem[5:]) for p in (tmp_path / "whole" / "checkpoints").glob("*.pth"))
    assert steps == [3, 6, 9, 12, 15, 18, 20]
    train_in_parts(cfg, tmp_path / "parts", 8)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_resume_refuses_another_seed_and_other_weights(tmp_path: Path) -> None:
    train(tiny_config(epochs=1), tmp_path, seed=0)
    with pytest.raises(CheckpointError, match="seed 0"):
        train(tiny_config(epochs=1), tmp_path, seed=1, resume=True)
    cfg = tiny_config(epochs=1, model=dict(type="TinyModel", norm=True))
    with pytest.raises(CheckpointError, match=r"backbone.norm.weight"):
        train(cfg, tmp_path, seed=0, resume=True)


def test_longer_run_goes_on_and_names_the_change(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tiny_config(epochs=1), tmp_path, seed=0)
    summary = train(tiny_config(epochs=2), tmp_path, seed=0, resume=True)
    assert summary["steps"] == 10 and "train_cfg.max_epochs: 1 -> 2" in capsys.readouterr().out
    # The cosine of the longer run: 5 steps of warm-up, then 5 down from 1e-2; step 10 is made at position 9.
    rate = 1e-2 * (1 + math.cos(math.pi * 4 / 5)) / 2
    assert lines(tmp_path)[-1]["step"] == 10 and lines(tmp_path)[-1]["lr"] == pytest.approx(rate)


def test_resume_takes_changed_settings_of_the_optimiser(tmp_path: Path) -> None:
    train(tiny_config(epochs=2), tmp_path, seed=0)
    cfg = tiny_config(epochs=3)
    cfg["optim_wrapper"]["optimizer"].update(lr=1e-4, weight_decay=0.2)
    runner = build_runner(cfg, tmp_path, seed=0, resume=True)
    runner.register_hook(StopAfter(11))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    (group,) = runner.optim_wrapper.param_groups
    assert group["weight_decay"] == 0.2 and group["betas"] == (0.9, 0.999)
    # Step 12 will be made at position 11 of 15, with a warm-up of 5.
    assert group["lr"] == pytest.approx(1e-4 * (1 + math.cos(math.pi * 6 / 10)) / 2)


def test_resume_that_does_not_fit_leaves_the_config_of_the_run(tmp_path: Path) -> None:
    train(tiny_config(epochs=1), tmp_path, seed=0)
    before = (tmp_path / "config.json").read_text()
    sgd = {"optimizer": {"type": "SGD", "lr": 0.1}}
    for changes, message in (
        ({"param_scheduler": None}, "is of 1 schedules, param_scheduler has 0"),
        ({"model": {"type": "TinyModel", "norm": True}}, "backbone.norm.weight"),
        ({"optim_wrapper": sgd}, "another type of optimiser"),
        (
            {"optim_wrapper": {**tiny_config()["optim_wrapper"], "constructor": "LayerDecay"}},
            "does not fit the optimiser",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            train(tiny_config(epochs=2, **changes), tmp_path, seed=0, resume=True)
        assert (tmp_path / "config.json").read_text() == before
    train(tiny_config(epochs=2), tmp_path, seed=0, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["train_cfg"]["max_epochs"] == 2


def test_summary_of_a_run_that_was_killed_after_its_last_step(tmp_path: Path) -> None:
    summary = train(tiny_config(epochs=1, **VALIDATION), tmp_path, seed=0)
    again = train(tiny_config(epochs=1, **VALIDATION), tmp_path, seed=0, resume=True)
    assert again["losses"] == summary["losses"] != {}
    assert again["metrics"] == summary["metrics"] and again["metrics"]["val"]["count"] == 21


def test_load_from_takes_weights_only(tmp_path: Path) -> None:
    train(tiny_config(epochs=1), tmp_path / "first", seed=0)
    runner = build_runner(tiny_config(load_from=str(tmp_path / "first")), tmp_path / "second", seed=1)
    runner.register_hook(StopAfter(1))
    runner._train_loop["max_epochs"] = 1
    runner.optim_wrapper["optimizer"]["lr"] = 0.0
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.iter == 1
    assert same_weights(weights(tmp_path / "first"), dict(runner.model.state_dict()))


def test_pictures_are_drawn_and_change_nothing(tmp_path: Path) -> None:
    plain = tiny_config()
    drawing = tiny_config(custom_hooks=[dict(type="PicturesHook", interval=1)])
    train(plain, tmp_path / "plain", seed=0)
    train(drawing, tmp_path / "drawing", seed=0)
    assert same_weights(weights(tmp_path / "plain"), weights(tmp_path / "drawing"))
    names = sorted(os.listdir(tmp_path / "drawing" / "pictures"))
    assert names == [f"tiny_{step:08d}.png" for step in (5, 10, 15, 20)]


def test_pretext_hook_tells_step_and_length(tmp_path: Path) -> None:
    cfg = tiny_config(epochs=1)
    cfg["optim_wrapper"]["accumulative_counts"] = 2
    runner = build_runner(cfg, tmp_path, seed=0)
    runner.train()
    assert runner.model.calls == [(step, 5) for step in range(5)]
    assert runner.model.updates == 3  # after 2, 4 and the last step


@pytest.mark.parametrize("kind", ["loss", "gradients"])
def test_guard_stops_before_the_checkpoint_is_poisoned(tmp_path: Path, kind: str) -> None:
    cfg = tiny_config()
    cfg["default_hooks"]["checkpoint"]["every_steps"] = 1
    if kind == "loss":
        cfg["train_dataloader"]["dataset"]["nan_at"] = 11
        named = "loss_label, loss are not finite"
    else:
        cfg["model"]["blow_up_at"] = 7
        named = "the gradients of head.weight are not finite"
    with pytest.raises(TrainingError, match=named) as caught:
        train(cfg, tmp_path, seed=0)
    last = find_checkpoint(tmp_path)
    step = int(last.stem[5:])
    assert f"step {step + 1}:" in str(caught.value) and str(last) in str(caught.value)
    assert all(torch.isfinite(v).all() for v in weights(tmp_path).values())
    if kind == "gradients":
        assert step == 7


def test_guard_before_any_checkpoint(tmp_path: Path) -> None:
    cfg = tiny_config()
    cfg["train_dataloader"].update(batch_size=37)
    cfg["train_dataloader"]["dataset"]["nan_at"] = 0
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        train(cfg, tmp_path, seed=0)
    assert not list(tmp_path.rglob("*.pth"))


def test_early_stopping_and_best(tmp_path: Path) -> None:
    cfg = tiny_config(epochs=20, **VALIDATION, **TEST)
    cfg["optim_wrapper"]["optimizer"]["lr"] = 0.0  # accuracy never changes
    cfg["custom_hooks"] = [dict(type="EarlyStopping", monitor="accuracy", patience=2)]
    cfg["default_hooks"]["checkpoint"]["save_best"] = "accuracy"
    summary = train(cfg, tmp_path, seed=0)
    assert summary["epochs"] == 4 and summary["stopped_early"]  # best at 1, then 3 looks without a better one
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pth")["meta"]["epoch"] == 1
    assert find_checkpoint(tmp_path).name == "step_00000020.pth"
    assert train(cfg, tmp_path, seed=0, resume=True)["steps"] == 20  # stays stopped


def test_early_stopping_on_an_unknown_metric(tmp_path: Path) -> None:
    cfg = tiny_config(**VALIDATION, custom_hooks=[dict(type="EarlyStopping", monitor="acuracy")])
    with pytest.raises(TrainingError, match="did you mean 'accuracy'"):
        train(cfg, tmp_path, seed=0)


def test_average_follows_by_hand_and_is_what_gets_validated(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    validated: list[torch.Tensor] = []

    class Watch(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, **_) -> None:
            seen.append(runner.model.head.bias.detach().clone())

        def before_val_iter(self, runner, batch_idx, **_) -> None:
            validated.append(runner.model.head.bias.detach().clone())

    cfg = tiny_config(epochs=1, **VALIDATION, custom_hooks=[dict(type="EMAHook", decay=0.8, warmup=False)])
    runner = build_runner(cfg, tmp_path, seed=0)
    average = runner.model.head.bias.detach().clone()
    runner.register_hook(Watch())
    runner.train()
    for value in seen:
        average = 0.8 * average + 0.2 * value
    checkpoint = load_checkpoint(find_checkpoint(tmp_path))
    assert torch.allclose(checkpoint["ema"]["head.bias"], average, atol=1e-6)
    assert torch.equal(validated[-1], checkpoint["ema"]["head.bias"])
    assert torch.equal(checkpoint["state_dict"]["head.bias"], seen[-1])
    assert torch.equal(model_state(checkpoint)["head.bias"], checkpoint["ema"]["head.bias"])


def test_full_disk_stops_with_the_last_checkpoint_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(tiny_config(), tmp_path, seed=0)
    monkeypatch.undo()
    assert torch.isfinite(weights(tmp_path)["head.weight"]).all()
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert train(tiny_config(), tmp_path, seed=0, resume=True)["steps"] == 20


def test_run_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written.*--out"):
        train(tiny_config(), tmp_path / "file" / "seed_0", seed=0)

    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:  # nothing is read-only for root: let the system call say what it would say to others

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(TrainingError, match=r"read_only.*Permission denied"):
        train(tiny_config(), folder, seed=0)


def test_train_cfg_needs_one_length(tmp_path: Path) -> None:
    for length in ({}, dict(max_epochs=1, max_iters=1)):
        with pytest.raises(ConfigError, match="one of the two"):
            train(tiny_config(train_cfg=dict(type="TrainLoop", **length)), tmp_path, seed=0)
    cfg = tiny_config()
    cfg["train_dataloader"].update(batch_size=64, drop_last=True)
    with pytest.raises(ConfigError, match="no batch is left of the 37 samples"):
        train(cfg, tmp_path, seed=0)


def test_runtime_base_and_defaults_are_the_same() -> None:
    base = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "_base_" / "runtime.py"))
    assert base["default_hooks"] == api.DEFAULT_HOOKS
