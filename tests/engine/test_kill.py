"""Runs that are killed from outside, at random moments, end with the weights of the run that was not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import DRIVING, DUAL_ENCODER, FUSION, same_weights, speech_folder, video_folder

from perception.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint

SCRIPT = Path(__file__).parent / "run_tiny.py"
BALLAST = 500_000  # numbers: 2 MB per checkpoint, one after every step


def start(run: Path, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,  # so that nothing survives the test
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(process: subprocess.Popen, count: int = 1, timeout: float = 90) -> None:
    """Return when the process has made ``count`` steps."""
    deadline = time.monotonic() + timeout
    seen: list[str] = []
    while count and time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        if not ready:
            continue
        line = process.stdout.readline()
        seen.append(line)
        if not line:
            break
        count -= line.startswith("STEP")
    assert not count, "".join(seen)


def end(process: subprocess.Popen) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # orphaned workers notice by themselves only after seconds
    return process.returncode, out


def finish(run: Path, **options: object) -> str:
    code, out = end(start(run, **options))
    assert code == 0, out
    return out


def state(run: Path) -> dict:
    return load_checkpoint(find_checkpoint(run))


def kill_until_done(tmp_path: Path, kills: int, epochs: int, longest: float, **options: object) -> int:
    """SIGKILL a run of 5 steps an epoch ``kills`` times and compare it with one that was left alone.

    Returns saves that were hit.
    """
    options["epochs"] = epochs
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, **options)
    rng = random.Random(0)
    hit = 0
    for _ in range(kills):
        process = start(killed, resume=True, **options)
        wait_for_steps(process, 2)  # with the second, the checkpoint of the first is whole
        time.sleep(rng.uniform(0.0, longest))
        assert process.poll() is None, "the run was over before the kill: give it more epochs"
        process.kill()
        end(process)
        hit += bool(list((killed / "checkpoints").glob(".*.tmp")))
        # A loadable checkpoint exists, the newest one at that: nothing half-written has a checkpoint's name.
        newest = list_checkpoints(killed / "checkpoints")[0]
        assert load_checkpoint(newest)["meta"]["step"] == int(newest.stem[5:])
    finish(killed, resume=True, **options)
    one, other = state(whole), state(killed)
    assert one["meta"]["step"] == other["meta"]["step"] == epochs * 5
    assert same_weights(one["state_dict"], other["state_dict"])
    assert [p.name for p in (killed / "checkpoints").iterdir() if p.name.startswith(".")] == []
    steps = [json.loads(line)["step"] for line in (killed / "scalars.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (whole / "scalars.jsonl").read_text().splitlines()]
    return hit


def test_sigkill_of_a_dual_encoder_with_teacher_and_views(tmp_path: Path) -> None:
    kill_until_done(tmp_path, kills=1, epochs=12, longest=0.2, **DUAL_ENCODER)
    weights = state(tmp_path / "killed")["state_dict"]
    teacher, student = (weights[f"{p}backbone.visual.proj"] for p in ("pretexts.distill.teacher.", ""))
    assert weights["pretexts.distill.centre"].abs().max() > 0 and not teacher.equal(student)


@pytest.mark.parametrize("options", [DRIVING, FUSION], ids=["point_contrast", "fusion_detector"])
def test_sigkill_of_driving_runs(tmp_path: Path, options: dict) -> None:
    kill_until_done(tmp_path, kills=1, epochs=4, longest=0.2, **options)
    weights = state(tmp_path / "killed")["state_dict"]
    # Statistics of batch norms are resumed as well, and at the momentum that a hook sets.
    assert all(v.isfinite().all() for v in weights.values())
    assert any(k.endswith("running_mean") and v.abs().max() > 0 for k, v in weights.items())


@pytest.mark.parametrize("folder", [video_folder, speech_folder], ids=["video", "speech"])
def test_sigkill_of_a_run_on_files(tmp_path: Path, folder: Callable) -> None:
    kill_until_done(tmp_path, kills=1, epochs=8, longest=0.2, **folder(tmp_path / "files"))
    found = [(tmp_path / run / "scalars.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    losses = [[json.loads(line).get("loss") for line in lines] for lines in found]
    assert losses[0] == losses[1] and any(losses[0])


@pytest.mark.slow
def test_sigkill_twenty_times(tmp_path: Path) -> None:
    hit = kill_until_done(tmp_path, kills=20, epochs=150, longest=0.4, ballast=BALLAST)
    assert hit > 0, "no kill fell into a save: the test has not tested what it is for"


@pytest.mark.parametrize("group", [False, True], ids=["process", "process_group"])
def test_sigterm_saves_and_exits_143(tmp_path: Path, group: bool) -> None:
    options = dict(epochs=40, every_steps=1000, accumulative_counts=2)
    process = start(tmp_path / "stopped", **options)
    wait_for_steps(process, 7)
    # Schedulers signal every process of a job, the loader's workers included.
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    code, out = end(process)
    assert code == 143, out
    assert "SIGTERM: stopped after step" in out and "Traceback" not in out
    step = state(tmp_path / "stopped")["meta"]["step"]
    assert step >= 7 and step % 2 == 0
    if not group:
        return  # what was saved does not depend on who else got the signal
    out = finish(tmp_path / "stopped", resume=True, **options)
    assert f"resumed from step_{step:08d}.pth" in out
    finish(tmp_path / "whole", **options)
    assert same_weights(state(tmp_path / "whole")["state_dict"], state(tmp_path / "stopped")["state_dict"])


def test_guard_reaches_the_user_as_one_message(tmp_path: Path) -> None:
    dataset = dict(type="TinyVectors", nan_at=3)
    code, out = end(start(tmp_path, epochs=2, dataloader=dict(dataset=dataset)))
    assert code == 1
    assert "TrainingError: training stopped at step" in out and "Traceback" not in out
