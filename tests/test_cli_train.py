"""The command line: exit codes, messages, and training from a config to an aggregated table."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

import perception
from perception.cli import COMMANDS, _message, main
from perception.cli._common import aggregate, claim_run_folder, figures
from perception.config import load_config, save_config
from perception.errors import ConfigError, DataError, PerceptionError

ROOT = Path(perception.__file__).resolve().parent.parent
TINY = '''"""MAE on digits, small enough for a test."""
model = dict(
    type="Pretrainer",
    backbone=dict(
        type="ViT", image_size=8, patch_size=2, in_channels=1, embed_dim=16, depth=1, num_heads=2,
        preprocess=dict(type="ImagePreprocess", size=(8, 8), bands=("grey",), mean=(0.3,), std=(0.4,)),
    ),
    pretexts=dict(mae=dict(type="MAE", decoder_dim=16, decoder_depth=1, decoder_num_heads=2)),
)
train_dataloader = dict(batch_size=64, num_workers=0, dataset=dict(type="Digits", split="train"))
train_cfg = dict(type="TrainLoop", max_iters=3)
optim_wrapper = dict(type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="AdamW", lr=1e-3))
evaluation = dict(
    train=dict(type="Digits", split="train"),
    val=dict(type="Digits", split="val"),
    test=dict(type="Digits", split="test"),
    protocols=dict(knn=dict(type="KNN")),
)
'''


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return str(path)


def command(*words: str, launcher: tuple[str, ...] = (sys.executable, "-m", "perception"), **options: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, *words], env=environment, text=True, **options)


def finished(*words: str, **options: Any) -> tuple[int, str, str]:
    process = command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


# -- the command as a whole


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"  {name} " in text
        assert line in text


def test_every_listed_command_is_there() -> None:
    from importlib import import_module

    for name in COMMANDS:
        module = import_module(f"perception.cli.{name}")
        assert isinstance(module.HELP, str)
        assert callable(module.add_arguments)
        assert callable(module.run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert perception.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["trian"], 2, "Did you mean 'train'"),
        (["train", "no/such/config"], 2, "no config of that name"),
        (["list", "bakbones"], 2, "Did you mean 'backbones'"),
        (["list", "configs", "qqqqq"], 2, "contains 'qqqqq'"),
        (["validate", "CONFIG", "--set", "optim_wrapper.optimizer.lrr=1"], 2, "Did you mean 'lr'"),
        (["validate", "CONFIG", "--set", "model.backbone.num_heads=3"], 2, "model.backbone.num_heads = 3"),
        (["train", "CONFIG", "--set", "model.backbone.init_from=gone"], 2, "no such file or folder"),
        (["train", "CONFIG", "--set", "train_dataloader.batch_size=0"], 2, "must be at least 1"),
        (["train", "CONFIG", "--set", "custom_hooks=[dict(type='EMAHook'"], 2, "not a python literal"),
        (["train", "CONFIG", "--set", "evaluation.protocols={}"], 2, "at least one protocol"),
        (["train", "/"], 2, "not a run folder"),
        (["probe", "CONFIG", "--untrained", "--protocols", "kn"], 2, "Did you mean 'KNN'"),
        (["probe", "CONFIG", "--untrained", "--device", "meta"], 2, "--device meta"),
        (["train", "CONFIG", "--seeds", "1", "1"], 2, "named twice"),
        (["train", "CONFIG", "--seeds", "1", "2", "--launcher", "pytorch"], 2, "one seed"),
        (["train", "CONFIG", "--out", "/proc/nowhere"], 1, "cannot be written"),
    ],
)
def test_bad_usage_is_one_message(
    words: list[str], code: int, said: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config if w == "CONFIG" else w for w in words]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("perception: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("number", ["-1", "1.5", str(2**32)])
def test_seeds_are_what_generators_take(number: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", config, f"--seed={number}"])
    assert left.value.code == 2 and "whole number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "words", "said"),
    [
        ("config.json", "{broken", ["probe", "RUN"], "config.json: not readable as JSON"),
        ("evaluation.json", '{"rows": 3', ["report", "RUN"], "evaluation.json is not readable"),
        ("evaluation.json", '{"else": 1}', ["report", "RUN"], "not the result of an evaluation"),
        ("evaluation.json", '{"rows": [{"value": 1}]}', ["report", "RUN"], "not the result of an evaluation"),
        ("summary.json", "{", ["train", "RUN", "--resume"], "summary.json is not readable"),
        ("summary.json", "[]", ["train", "RUN", "--resume"], "an object was expected"),
    ],
)
def test_damaged_files_of_a_run_are_named(
    file: str,
    content: str,
    words: list[str],
    said: str,
    config: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "seed_0"
    save_config(load_config(config), run)
    (run / file).write_text(content)
    assert main([str(run) if w == "RUN" else w for w in words]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("perception: ") and said in error and "Traceback" not in error


def test_debug_shows_the_traceback(config: str) -> None:
    with pytest.raises(ConfigError):
        main(["validate", config, "--set", "zzz=1", "--debug"])


def test_errors_of_loader_workers_lose_their_traceback() -> None:
    text = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "  File \"x.py\", line 1, in y\nperception.errors.DataError: image 'a.png' is truncated\n"
    )
    assert _message(DataError(text)) == "image 'a.png' is truncated"


def test_wrong_overrides_and_wrong_values_come_in_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["optim_wrapper.optimizer.lrr=3", "model.pretexts.mae.mask_ratio=1.2", "nonsense"]
    assert main(["validate", "image/mae_vit-tiny_digits", "--set", *overrides]) == 2
    errors = capsys.readouterr().err
    assert "3 faults" in errors
    for path in ("optim_wrapper.optimizer.lrr", "model.pretexts.mae.mask_ratio", "'nonsense'"):
        assert path in errors


def test_list_prints_name_and_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "backbones"]) == 0
    assert re.search(r"^ViT +Plain vision transformer\.$", capsys.readouterr().out, re.MULTILINE)
    assert main(["list", "configs", "mae", "digits"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "image/mae_vit-tiny_digits" in shown and "graph/graphmae_gat_cora" not in shown


# -- run folders


def test_claiming_a_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "a" / "seed_0"
    claim_run_folder(run, resume=False, overwrite=False)
    assert list(run.iterdir()) == []
    (run / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not empty: --resume"):
        claim_run_folder(run, resume=False, overwrite=False)
    claim_run_folder(run, resume=True, overwrite=False)
    assert (run / "config.json").exists()
    claim_run_folder(run, resume=False, overwrite=True)
    assert list(run.iterdir()) == []
    (run / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="does not look like a run folder"):
        claim_run_folder(run, resume=False, overwrite=True)
    assert (run / "thesis.tex").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        claim_run_folder(tmp_path / "file", resume=False, overwrite=False)


def test_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PerceptionError, match="cannot be written: No space left on device"):
        claim_run_folder(tmp_path / "run", resume=False, overwrite=False)


# -- aggregation, against numbers computed by hand


def test_figures_name_rows_by_protocol_and_source() -> None:
    summary = {
        "metrics": {"test": {"accuracy/top1": 0.5, "flag": True}},
        "evaluation": [
            {"protocol": "knn", "variant": "", "source": "trained", "metric": "accuracy", "value": 0.25},
            {"protocol": "low", "variant": "5 per class", "source": "raw", "metric": "accuracy", "value": 0.1},
        ],
    }
    assert figures(summary) == {
        "metrics.test.accuracy/top1": 0.5,
        "knn trained accuracy": 0.25,
        "low 5 per class raw accuracy": 0.1,
    }


def test_aggregate_against_hand_computed_values() -> None:
    table = aggregate({0: {"a": 1.0, "b": 5.0}, 1: {"a": 2.0}, 2: {"a": 6.0}})
    assert list(table) == ["a"]  # b is not of every seed
    row = table["a"]
    assert row["mean"] == 3.0
    assert row["std"] == pytest.approx(7.0**0.5)  # squares 4 + 1 + 9 over n - 1
    half = 4.302652729911275 * 7.0**0.5 / 3.0**0.5  # t quantile of 2 degrees of freedom
    assert row["ci95"] == pytest.approx([3.0 - half, 3.0 + half])
    assert row["values"] == {"0": 1.0, "1": 2.0, "2": 6.0}
    assert aggregate({0: {"a": 1.0}})["a"]["ci95"] is None


# -- real runs


def test_two_seeds_are_trained_aggregated_and_resumed(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    words = ("train", config, "--seeds", "0", "1", "--jobs", "2", "--out", str(out))
    code, printed, errors = finished(*words)
    assert code == 0, errors
    assert "mean ± std" in printed
    assert "[seed 0] " in printed
    summary = json.loads((out / "summary.json").read_text())
    singles = [json.loads((out / f"seed_{s}" / "summary.json").read_text()) for s in (0, 1)]
    row = summary["figures"]["losses.loss"]
    assert row["mean"] == pytest.approx(sum(s["losses"]["loss"] for s in singles) / 2)
    assert row["values"]["0"] != row["values"]["1"]
    assert summary["seeds"] == [0, 1]
    assert (out / "seed_0" / "config.json").is_file()

    # Again: refused. With --resume: both are finished.
    assert main(list(words)) == 2
    assert "--resume" in capsys.readouterr().err
    code, printed, errors = finished(*words, "--resume")
    assert code == 0, errors
    assert printed.count("this run is finished") == 2

    # A run folder stands for its own config; another config is refused, a named change goes on.
    run = out / "seed_0"
    assert main(["train", str(run), "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert main(["train", str(run), "--resume", "--set", "train_cfg.max_iters=4"]) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 4
    capsys.readouterr()
    assert main(["train", config, "--out", str(out), "--resume"]) == 2
    assert "train_cfg.max_iters: 4 in the run, 3 now" in capsys.readouterr().err


def test_a_seed_that_fails_is_named_and_the_others_finish(config: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (out / "seed_1").mkdir(parents=True)
    # --resume lets the parent start; seed 1 then finds a checkpoint that does not open.
    (out / "seed_1" / "checkpoints").mkdir()
    (out / "seed_1" / "checkpoints" / "step_00000001.pth").write_bytes(b"no checkpoint")
    (out / "seed_1" / "checkpoints" / "last_checkpoint").write_text("step_00000001.pth")
    code, printed, errors = finished("train", config, "--seeds", "0", "1", "--out", str(out), "--resume")
    assert code == 1, (printed, errors)
    assert "seed 1 failed: " in errors
    assert "step_00000001.pth" in errors.rsplit("seed 1 failed: ", 1)[1]
    assert "1 of 2 seeds finished" in errors
    assert list(json.loads((out / "summary.json").read_text())["failed"]) == ["1"]
    assert (out / "seed_0" / "summary.json").is_file()


def test_sigterm_reaches_every_seed_and_all_resume(config: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ("train", config, "--seeds", "0", "1", "--jobs", "2", "--out", str(out))
    endless = ("--set", "train_cfg.max_iters=1000000")
    process = command(*words, *endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not all((out / f"seed_{s}" / "scalars.jsonl").is_file() for s in (0, 1)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    for seed in (0, 1):
        assert list((out / f"seed_{seed}" / "checkpoints").glob("step_*.pth"))


@pytest.mark.slow
def test_torchrun_with_two_processes_prints_once(config: str, tmp_path: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617")
    out = tmp_path / "runs"
    words = ("-m", "perception", "train", config, "--launcher", "pytorch", "--out", str(out))
    code, printed, errors = finished(*words, launcher=launcher)
    assert code == 0, errors
    assert printed.count("run folder") == 1
    assert json.loads((out / "seed_0" / "summary.json").read_text())["world_size"] == 2


def test_dry_run_prints_sizes_and_losses(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", config, "--dry-run"]) == 0
    text = capsys.readouterr().out
    # Counted by hand: patch 4*16+16, class token 16, block 2 norms of 32, qkv 48*17, projection 16*17,
    # two layers of the MLP 64*17 + 16*65, final norm 32; positions are a buffer.
    by_hand = 80 + 16 + 64 + 48 * 17 + 16 * 17 + 64 * 17 + 16 * 65 + 32
    assert f"{by_hand:,}" in text
    assert "batch of 64 (estimate)" in text
    assert "gradient norm" in text


def test_saved_bytes_count_each_storage_once_and_no_parameter() -> None:
    import torch

    from perception.cli._dry_run import SavedBytes

    layer = torch.nn.Linear(10, 20)
    x = torch.randn(5, 10)
    with SavedBytes(layer) as saved:
        hidden = layer(x)  # keeps x (5 x 10)
        (hidden.sigmoid() * hidden[:, :]).sum()  # keeps sigmoid's result and hidden (5 x 20 each), the slice is a view
    assert saved.total == 4 * (5 * 10 + 2 * 5 * 20)


# -- scripts for people used to OpenMMLab


def test_tools_translate_their_arguments() -> None:
    import importlib.util

    def load(name: str) -> Namespace:
        spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module  # type: ignore[return-value]

    train = load("train").translated(["c.py", "--work-dir", "w", "--cfg-options", "a.b=1", "--resume", "--amp"])
    assert train[:8] == ["train", "c.py", "--seed", "0", "--launcher", "none", "--out", "w"]
    assert train[8:11] == ["--resume", "--set", "a.b=1"]
    assert "optim_wrapper.dtype=bfloat16" in train
    assert load("eval").translated(["run", "x.pth"]) == ["eval", "run", "--checkpoint", "x.pth"]
