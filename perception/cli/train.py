"""``perception train``: one seed in this process, several in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from perception.cli._common import (
    add_config_arguments,
    add_threads_argument,
    aggregate,
    claim_run_folder,
    figures,
    positive,
    print_table,
    seed_number,
    use_threads,
    valid_config,
)
from perception.cli._runs import read_json
from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from mmengine.config import Config

HELP = "Pre-train or fine-tune from a config. Each seed gets a folder seed_<s> below runs/<short name> or --out."
_STRANGE_DEATH = 20  # lines of a seed's output that are shown if it ends without a message of ours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_config_arguments(parser)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=seed_number, metavar="S", help="seed of the run (default: 0)")
    seeds.add_argument(
        "--seeds", type=seed_number, nargs="+", metavar="S", help="several seeds, each in its own process"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="seeds at a time (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the seed_<s> folders")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with runs that are there already")
    existing.add_argument("--overwrite", action="store_true", help="empty run folders that are there already")
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="who started the processes of this run; 'pytorch' is torchrun",
    )
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train every seed, then print and save what came out."""
    base, own_seed = _base_folder(args.config, args.out)
    if args.seeds and len(set(args.seeds)) != len(args.seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, args.seeds))}: a seed is named twice")
    seeds = args.seeds or [args.seed if args.seed is not None else own_seed]
    if len(seeds) > 1:
        if args.launcher != "none":
            raise ConfigError("--seeds with --launcher: a launcher starts the processes of one seed, give it --seed")
        return _run_many(args, base, seeds)
    use_threads(args.threads)
    return _run_one(args, base / f"seed_{seeds[0]}", seeds[0])


def _base_folder(config: str, out: Path | None) -> tuple[Path, int]:
    """Folder of the seeds, and the seed that ``config`` itself stands for where it is a run folder."""
    from perception.config import short_name

    folder = Path(config).expanduser()
    if (folder / "config.json").is_file() and folder.name.removeprefix("seed_").isdigit():
        return out or folder.parent, int(folder.name.removeprefix("seed_"))
    if folder.is_dir() and not (folder / "config.json").is_file() and any(folder.glob("seed_*/config.json")):
        return out or folder, 0
    return out or Path("runs") / short_name(config), 0


def _run_one(args: argparse.Namespace, run_dir: Path, seed: int) -> int:
    rank = int(os.environ.get("RANK", "0")) if args.launcher != "none" else 0
    if rank == 0:
        cfg = valid_config(args.config, args.overrides, seed)
        if args.resume:
            finished = _finished(run_dir, cfg, args.overrides)
            if finished is not None:
                print(f"{run_dir}: this run is finished")
                _print_one(run_dir, finished)
                return 0
        claim_run_folder(run_dir, args.resume, args.overwrite)
    else:
        # Rank 0 reports the faults of the config and of the run folder; its exit ends all ranks.
        from perception.config import load_config

        cfg = load_config(args.config, args.overrides, seed)
        if args.resume and _finished(run_dir, cfg, args.overrides) is not None:
            return 0  # as rank 0 does: a rank that went on would wait for it
    from perception.engine.api import train

    train(cfg, run_dir, seed, resume=args.resume, launcher=args.launcher)  # prints what came out
    return 0


def _finished(run_dir: Path, cfg: Config, overrides: Sequence[str]) -> dict[str, Any] | None:
    """Summary of a run that has nothing left to do; raises if the run belongs to another config."""
    from perception.config import config_differences, load_config

    if not (run_dir / "config.json").is_file():
        return None
    named = {o.partition("=")[0].strip() for o in overrides}
    differing = {
        key: values
        for key, values in config_differences(load_config(run_dir), cfg).items()
        if not any(key == n or key.startswith(f"{n}.") for n in named)
    }
    if differing:
        lines = "\n".join(f"  - {key}: {there!r} in the run, {here!r} now" for key, (there, here) in differing.items())
        raise ConfigError(
            f"{run_dir} was started with another config:\n{lines}\n"
            f"Resume it as it was with 'perception train {run_dir} --resume', or name the changes with --set."
        )
    path = run_dir / "summary.json"
    if not path.is_file() or config_differences(load_config(run_dir), cfg):
        return None
    return read_json(path)


def _print_one(run_dir: Path, summary: Mapping[str, Any]) -> None:
    results = figures(_results_only(summary))
    if results:
        print_table(
            f"{run_dir}: shares in %", ("figure", "value"), [(name, _show(name, v)) for name, v in results.items()]
        )
    else:
        print(f"run folder: {run_dir}")


@dataclass
class _Child:
    """One seed's process and how it ended."""

    seed: int
    command: list[str]
    environment: dict[str, str]
    captured: bool
    process: subprocess.Popen[str] | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    code: int = -1

    def run(self, stopped: threading.Event) -> None:
        if stopped.is_set():
            return
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdout=subprocess.PIPE if self.captured else None,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        readers = [threading.Thread(target=self._read, args=(self.process.stderr, sys.stderr))]
        if self.captured:
            readers.append(threading.Thread(target=self._read, args=(self.process.stdout, sys.stdout)))
        for reader in readers:
            reader.start()
        self.code = self.process.wait()
        for reader in readers:
            reader.join()

    def _read(self, source: IO[str], target: IO[str]) -> None:
        prefix = f"[seed {self.seed}] " if self.captured else ""
        for line in source:
            if target is sys.stderr:
                self.tail.append(line.rstrip("\n"))
            if not (target is sys.stderr and line.startswith("perception: ")):  # shown at the end, with the seed
                print(f"{prefix}{line}", end="", file=target, flush=True)

    def message(self) -> str:
        """What the seed said when it failed."""
        lines = list(self.tail)
        starts = [i for i, line in enumerate(lines) if line.startswith("perception: ")]
        shown = lines[starts[-1] :] if starts else lines[-_STRANGE_DEATH:]
        text = "\n".join(shown).removeprefix("perception: ").strip()
        return text or (f"killed by signal {-self.code}" if self.code < 0 else f"exit code {self.code}")


def _run_many(args: argparse.Namespace, base: Path, seeds: Sequence[int]) -> int:
    for seed in seeds:  # everything that can be said beforehand is said before the first seed starts
        valid_config(args.config, args.overrides, seed)
        run_dir = base / f"seed_{seed}"
        if not args.overwrite:
            claim_run_folder(run_dir, args.resume, overwrite=False)
    jobs = min(args.jobs, len(seeds))
    children = [_child(args, base, seed, jobs) for seed in seeds]
    stopped = threading.Event()

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda child: child.run(stopped), children))
    except KeyboardInterrupt:
        stop(signal.SIGINT, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped.is_set():
        print(f"perception: stopped; 'perception train {args.config} ... --resume' goes on", file=sys.stderr)
        return 143
    return _collect(base, children)


def _child(args: argparse.Namespace, base: Path, seed: int, jobs: int) -> _Child:
    import perception

    command = [sys.executable, "-m", "perception", "train", args.config, "--seed", str(seed), "--out", str(base)]
    command += [f"--{flag}" for flag in ("resume", "overwrite") if getattr(args, flag)]
    environment = dict(os.environ)
    if args.threads or jobs > 1:
        threads = max(1, (args.threads or os.cpu_count() or 1) // jobs)
        command += ["--threads", str(threads)]
        environment["OMP_NUM_THREADS"] = str(threads)
    if args.overrides:
        command += ["--set", *args.overrides]
    home = str(Path(perception.__file__).resolve().parent.parent)  # children find the package wherever we found it
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH")]))
    return _Child(seed, command, environment, captured=jobs > 1)


def _collect(base: Path, children: Sequence[_Child]) -> int:
    summaries, failed = {}, []
    for child in children:
        path = base / f"seed_{child.seed}" / "summary.json"
        if child.code == 0 and path.is_file():
            summaries[child.seed] = _results_only(read_json(path))
        else:
            failed.append(child)
    if summaries:
        values = {seed: figures(summary) for seed, summary in summaries.items()}
        table = aggregate(values)
        summary = {
            "seeds": list(values),
            "failed": {str(c.seed): c.message() for c in failed},
            "figures": table,
        }
        (base / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        _print_many(base, summaries)
    if failed:
        lines = "\n".join(f"seed {c.seed} failed: {c.message()}" for c in failed)
        done = f"\n{len(summaries)} of {len(children)} seeds finished." if summaries else ""
        error = ConfigError if all(c.code == 2 for c in failed) else PerceptionError
        raise error(f"{lines}{done}")
    return 0


def _results_only(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a summary that differ between seeds because of the method, not of the clock."""
    return {k: summary[k] for k in ("evaluation", "metrics", "losses") if summary.get(k)}


def _print_many(base: Path, summaries: Mapping[int, Mapping[str, Any]]) -> None:
    """Probes as one table with a column a source, everything else as one line a figure."""
    from perception.evaluation.results import aggregate_rows, print_rows

    judged = [summary["evaluation"] for summary in summaries.values() if "evaluation" in summary]
    if judged:
        print_rows(aggregate_rows(judged), f"{base}, {len(judged)} seeds")
    others = {seed: {k: v for k, v in summary.items() if k != "evaluation"} for seed, summary in summaries.items()}
    rows = []
    for name, row in aggregate({seed: figures(other) for seed, other in others.items()}).items():
        spread = f"{_show(name, row['mean'])} ± {_show(name, row['std'])}"
        interval = "-" if row["ci95"] is None else " to ".join(_show(name, v) for v in row["ci95"])
        rows.append((name, spread, interval, *(_show(name, v) for v in row["values"].values())))
    if rows:
        title = f"{base}, {len(summaries)} seeds: shares in %"
        print_table(title, ("figure", "mean ± std", "95 % interval", *(f"seed {s}" for s in summaries)), rows)


def _show(name: str, value: float) -> str:
    """Shares in percent, four digits else; JSON keeps fractions."""
    words = name.lower().replace(".", " ").replace("_", " ").replace("/", " ").split()
    shares = ("accuracy", "f1", "top1", "top5", "precision", "recall", "auroc")
    share = any(w in shares or w.startswith("r@") for w in words)
    return f"{100 * value:.2f}" if share else f"{value:.4g}"
