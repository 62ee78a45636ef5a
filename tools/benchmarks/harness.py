"""Side-by-side timing: every contender in one process, turn by turn, and the peak memory of each on its own.

A contender is a function that builds everything and returns ``step``, a function without arguments that does one unit
of work. Turns are interleaved and their order rotates, so that a busy machine slows all contenders alike; medians and
the median of the ratios within a turn are reported. With one thread the CPU time of the process is reported as well,
which other processes hardly touch.

Memory on a CPU is the rise of the peak resident set of a process of its own from before the contender is built to the
end of three steps (weights, gradients, optimiser state, activations and workspaces), imports excluded; on a GPU it is
the peak of the allocator. The allocations of torch are invisible to ``tracemalloc``.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

Step = Callable[[], object]
Build = Callable[[str], Step]


@dataclass(frozen=True)
class Contender:
    """One column of a comparison.

    Attributes:
        name: what the table calls it.
        build: module-level function ``build(device) -> step``; module-level, so that a fresh process finds it.
    """

    name: str
    build: Build


@dataclass(frozen=True)
class Target:
    """``ours`` must take at most ``limit`` times as long as ``peer``, or as much memory at its peak."""

    ours: str
    peer: str
    limit: float
    measure: Literal["time", "memory"] = "time"


def compare(
    contenders: Sequence[Contender], targets: Sequence[Target], rounds: int, warmup: int, threads: int, device: str
) -> dict[str, Any]:
    """Time all contenders turn by turn, then measure the memory of each in a process of its own."""
    torch.set_num_threads(threads)
    steps = {contender.name: contender.build(device) for contender in contenders}
    names = list(steps)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()  # a collection in the middle of one contender's turn would be charged to it
    try:
        for turn in range(-warmup, rounds):
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                seconds, cpu_seconds = timed(steps[name], device)
                if turn >= 0:
                    wall[name].append(seconds)
                    cpu[name].append(cpu_seconds)
            gc.collect()
    finally:
        gc.enable()
    del steps
    rows = [
        {
            "name": c.name,
            "median_s": median(wall[c.name]),
            "fastest_s": min(wall[c.name]),
            "median_cpu_s": median(cpu[c.name]),
            "peak_mib": peak_memory(c.build, threads, device) / 2**20,
        }
        for c in contenders
    ]
    peaks = {row["name"]: row["peak_mib"] for row in rows}
    ratios = [_memory_ratio(t, peaks) if t.measure == "memory" else _time_ratio(t, wall, cpu) for t in targets]
    return {"rows": rows, "ratios": ratios, "settings": settings(rounds, warmup, threads, device)}


def _time_ratio(target: Target, wall: dict[str, list[float]], cpu: dict[str, list[float]]) -> dict[str, Any]:
    ours, peer = target.ours, target.peer
    return {
        "ours": ours,
        "peer": peer,
        "limit": target.limit,
        "measure": "time",
        "ratio": median(wall[ours]) / median(wall[peer]),
        "ratio_within_turns": median(a / b for a, b in zip(wall[ours], wall[peer], strict=True)),
        "ratio_cpu": median(cpu[ours]) / max(median(cpu[peer]), 1e-9),
    }


def _memory_ratio(target: Target, peaks: dict[str, float]) -> dict[str, Any]:
    ratio = peaks[target.ours] / max(peaks[target.peer], 1e-9)
    return {"ours": target.ours, "peer": target.peer, "limit": target.limit, "measure": "memory", "ratio": ratio}


def timed(step: Step, device: str) -> tuple[float, float]:
    """Wall and CPU seconds of one step, the queued GPU work included."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(build: Build, threads: int, device: str) -> float:
    """Bytes that one contender adds at its peak; see the head of this file."""
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step = build(device)
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_memory_child, args=(theirs, build.__module__, build.__name__, threads))
    child.start()
    theirs.close()
    try:
        return float(ours.recv())
    except EOFError as error:
        raise RuntimeError(f"the process that measures {build.__name__} ended without a figure") from error
    finally:
        child.join()


def _memory_child(pipe: Any, module: str, function: str, threads: int) -> None:
    torch.set_num_threads(threads)
    build: Build = getattr(importlib.import_module(module), function)
    # Once beforehand: imports, the autograd engine and kernels compiled on first use belong to no contender.
    step = build("cpu")
    step()
    del step
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the pages that were freed would hide what the next build takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's peak of the resident set
    before = _status_bytes("VmRSS")
    step = build("cpu")
    for _ in range(3):
        step()
    pipe.send(_status_bytes("VmHWM") - before)
    pipe.close()


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")


def settings(rounds: int, warmup: int, threads: int, device: str) -> dict[str, Any]:
    """What a figure depends on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "rounds": rounds,
        "warmup": warmup,
        "threads": threads,
        "device": device,
        "device_name": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def training_step(loss: Callable[[], torch.Tensor], parameters: Sequence[torch.nn.Parameter], lr: float = 1e-4) -> Step:
    """Forward, backward and AdamW update: the unit in which all trained contenders are compared."""
    optimizer = torch.optim.AdamW(parameters, lr=lr)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def report(name: str, result: dict[str, Any], out: Path | None) -> None:
    """Print the tables and, if asked, write the figures as JSON."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    told = result["settings"]
    table = Table(title=f"{name}: {told['rounds']} turns, {told['threads']} thread(s), {told['device']}")
    for column in ("contender", "median ms", "fastest ms", "CPU ms", "peak MiB"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for row in result["rows"]:
        times = [f"{1e3 * row[key]:.1f}" for key in ("median_s", "fastest_s", "median_cpu_s")]
        table.add_row(row["name"], *times, f"{row['peak_mib']:.0f}")
    console.print(table)
    for r in result["ratios"]:
        verdict = "met" if r["ratio"] <= r["limit"] else "NOT met"
        if r.get("measure") == "memory":
            detail = "(peak memory)"
        else:
            detail = f"(within turns {r['ratio_within_turns']:.2f}, CPU {r['ratio_cpu']:.2f})"
        console.print(
            f"{r['ours']} / {r['peer']} = {r['ratio']:.2f} {detail}; target <= {r['limit']:.2f}: {verdict}",
            highlight=False,
        )
    for note in result.get("notes", []):
        console.print(note, highlight=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        console.print(f"figures: {out}", highlight=False)
