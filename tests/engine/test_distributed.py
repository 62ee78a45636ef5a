"""Two processes on gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import same_weights

from perception.checkpoint import find_checkpoint, load_checkpoint
from perception.engine.distributed import agree, gather, init_distributed
from perception.errors import ConfigError

WORKER = Path(__file__).parent / "run_tiny_ranks.py"


def launch(run: Path, world: int, **options: object) -> subprocess.Popen:
    """One process per rank, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(run), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(world)
    ]


def outcome(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    outs = [p.communicate(timeout=120)[0] for p in processes]
    return [(p.returncode, out) for p, out in zip(processes, outs, strict=True)]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    results = outcome(processes)
    assert all(code == 0 for code, _ in results), results
    return [out for _, out in results]


def test_two_ranks_agree_and_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    # 36 samples without dropout and noise: 2 x 4 a step are the same samples as 1 x 8.
    outs = finish(launch(tmp_path / "two", 2, batch_size=4))
    finish(launch(tmp_path / "one", 1, batch_size=8))
    ranks = [torch.load(tmp_path / "two" / f"rank_{rank}.pth", weights_only=True) for rank in range(2)]
    assert same_weights(ranks[0]["weights"], ranks[1]["weights"])
    single = torch.load(tmp_path / "one" / "rank_0.pth", weights_only=True)
    for name, value in single["weights"].items():
        assert torch.allclose(value, ranks[0]["weights"][name], atol=1e-5), name
    # Validation: each of the 21 samples once, the same answer on both ranks and as in one process.
    assert ranks[0]["metrics"] == ranks[1]["metrics"] == single["metrics"]
    assert single["metrics"]["count"] == 21
    # One rank speaks, and one writes.
    assert "run folder" in outs[0] and outs[1].strip() == ""
    saved = load_checkpoint(find_checkpoint(tmp_path / "two"))
    assert saved["meta"]["world_size"] == 2 and len(saved["rng"]) == 2
    assert not torch.equal(saved["rng"][0]["torch"], saved["rng"][1]["torch"])  # noise differs between ranks
    assert same_weights(saved["state_dict"], ranks[0]["weights"])


def test_sigterm_to_one_rank_stops_both_and_resume_is_exact(tmp_path: Path) -> None:
    options = dict(batch_size=4, epochs=60, dropout=0.3)
    processes = launch(tmp_path / "stopped", 2, pause=0.01, **options)
    marks = [tmp_path / "stopped" / f"started_{rank}" for rank in range(2)]
    deadline = time.monotonic() + 90
    while not all(mark.exists() for mark in marks) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    results = outcome(processes)
    assert [code for code, _ in results] == [143, 143], results
    finish(launch(tmp_path / "stopped", 2, resume=True, **options))
    finish(launch(tmp_path / "whole", 2, **options))
    one, other = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("stopped", "whole"))
    assert same_weights(one["state_dict"], other["state_dict"])


def test_alone_everything_is_local() -> None:
    assert init_distributed("none") is False
    assert agree(True) and not agree(False)
    assert gather(3) == [3]


def test_launcher_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        init_distributed("pytorch")
    with pytest.raises(ConfigError, match="pytorch"):
        init_distributed("pytorchh")
