"""``perception report``: a table and pictures out of run folders."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.cli._runs import read_json, read_rows, run_folders
from perception.errors import ConfigError, PerceptionError

HELP = """Make a markdown table of the results in run folders: one line per run and figure, mean ± std over the seeds,
with the untrained backbone and the training-free features beside it. With --readme the table replaces what stands
between the markers, with --update the lines of these runs alone; with --pictures loss curves and a map of the
embeddings are drawn."""

BEGIN = "<!-- results: made by 'perception report', do not edit -->"
END = "<!-- end of results -->"
Figure = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or parents of seed_<s> folders")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table between the markers of this file")
    parser.add_argument("--update", action="store_true", help="with --readme: leave the lines of other runs there")
    parser.add_argument("--brief", action="store_true", help="only the headline of every protocol and metric")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table to this file")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw loss curves and embedding maps here")
    parser.add_argument("--map", choices=("pca", "tsne"), default="pca", help="kind of embedding map (default: pca)")


def run(args: argparse.Namespace) -> int:
    """Collect, print, write, draw."""
    groups = {str(path): run_folders(path) for path in args.runs}
    named = [(run_name(path, folders), folders) for path, folders in groups.items()]
    table = markdown([line for name, folders in named for line in lines_of(name, folders, args.brief)])
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(table + "\n", encoding="utf-8")
    if args.readme:
        replace_between_markers(args.readme, table, args.update)
        print(f"written: {args.readme}")
    if args.pictures:
        from perception.cli._pictures import draw

        for path, folders in groups.items():
            for file in draw(run_name(path, folders), folders, args.pictures, args.map):
                print(f"written: {file}")
    return 0


def run_name(path: str, folders: Sequence[Path]) -> str:
    """Name of a run for people: its path below ``runs/`` without the seed."""
    folder = Path(path)
    if folder.name.startswith("seed_"):
        folder = folder.parent
    parts = folder.parts
    if "runs" in parts:
        parts = parts[len(parts) - parts[::-1].index("runs") :]
        return "/".join(parts) or folder.name
    return folder.name or folders[0].name


def lines_of(name: str, folders: Sequence[Path], brief: bool = False) -> list[Figure]:
    """Figures of the seeds of one run, aggregated; ``brief`` gives the first of every protocol and metric alone.

    Raises:
        PerceptionError: no seed has a result.
    """
    from perception.evaluation.results import RESULT_FILE, aggregate_rows, tie_bounds
    from perception.evaluation.stats import mean_std

    evaluations = [read_rows(f / RESULT_FILE) for f in folders if (f / RESULT_FILE).is_file()]
    tests = [read_json(f / "metrics.json").get("test", {}) for f in folders if (f / "metrics.json").is_file()]
    tests = [metrics for metrics in tests if metrics]
    if not evaluations and not tests:
        raise PerceptionError(f"{name}: no evaluation.json or metrics.json in {', '.join(map(str, folders))}")
    found: dict[str, Figure] = {}
    headlines: dict[str, str] = {}
    for row in aggregate_rows(evaluations):
        label = " ".join(filter(None, (row["protocol"], row["variant"], row["metric"])))
        if brief and headlines.setdefault(row["protocol"], label) != label:
            continue
        line = found.setdefault(label, {"run": name, "figure": label, "n": row["n"], "seeds": len(evaluations)})
        line[row["source"]] = (row["value"], row["std"])
        line.setdefault("bounds", {})[row["source"]] = tie_bounds(row)
        line["interval"] = line.get("interval", False) or (row["source"] == "trained" and row["proportion"])
    for metric in tests[0] if tests else ():
        values = [float(metrics[metric]) for metrics in tests if metric in metrics]
        first = headlines.setdefault(f"test {metric.split('/')[0]}", metric) == metric
        if not metric.endswith("/n") and (first or not brief):
            n = next((int(v) for k, v in tests[0].items() if k == f"{metric.split('/')[0]}/n"), None)
            line = {"run": name, "figure": f"test {metric}", "n": n, "seeds": len(values), "trained": mean_std(values)}
            found[f"test {metric}"] = line
    return list(found.values())


def markdown(lines: Sequence[Figure]) -> str:
    """The table. Shares are in percent; a binomial interval tells what the test set's size allows to say."""
    from perception.evaluation.results import TIE_NOTE
    from perception.evaluation.stats import binomial_interval

    fixed = ("run", "figure", "n", "seeds", "trained", "untrained", "bounds", "interval")
    head = ["run", "figure", "seeds", "trained", "untrained", "beside it", "test samples", "95 % of one run"]
    rows = [head, ["---", "---", *["---:"] * 3, "---", "---:", "---:"]]
    for line in lines:
        others = [key for key in line if key not in fixed]
        values = [line[c][0] for c in ("trained", "untrained", *others) if c in line]
        share = "nll" not in line["figure"] and all(0 <= value <= 1 for value in values)
        width = "-"
        if line["n"] and share and "trained" in line and line.get("interval", True) and "auroc" not in line["figure"]:
            low, high = binomial_interval(line["trained"][0], line["n"])
            width = f"± {50 * (high - low):.1f}"
        bounds = line.get("bounds", {})
        told = {
            c: " ".join(filter(None, (_cell(line.get(c), share, line["seeds"], line["figure"]), bounds.get(c))))
            for c in ("trained", "untrained", *others)
        }
        # Pixels, counts, chance: each run has its own, and a column for each would make tables that nobody can read.
        beside = ", ".join(f"{c} {told[c]}" for c in others) or "-"
        cells = [told["trained"], told["untrained"], beside]
        rows.append([line["run"], line["figure"], str(line["seeds"]), *cells, str(line["n"] or "-"), width])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    tied = any(text for line in lines for text in line.get("bounds", {}).values())
    return f"{table}\n\n{TIE_NOTE[0].upper()}{TIE_NOTE[1:]}." if tied else table


def _cell(value: tuple[float, float] | None, share: bool, seeds: int, figure: str) -> str:
    from perception.evaluation.results import decimals

    if value is None or not math.isfinite(value[0]):
        return "-"
    scale, digits = (100, decimals(figure)) if share else (1, 4)
    # What no seed changes, such as raw pixels, has no spread.
    spread = f" ± {scale * value[1]:.{digits}f}" if seeds > 1 and value[1] > 1e-12 else ""
    return f"{scale * value[0]:.{digits}f}{spread}"


def merged(old: str, new: str) -> str:
    """The table ``old`` with the lines of the runs in ``new`` in the place of theirs; new runs come last.

    Columns that one of them lacks show ``-`` there; what stands below a table is kept once.
    """
    (columns, before, notes), (more, now, fresh) = _parsed(old), _parsed(new)
    rows: dict[str, list[dict[str, str]]] = {}
    for row in before:
        rows.setdefault(row["run"], []).append(row)
    rows |= {run: [row for row in now if row["run"] == run] for run in dict.fromkeys(row["run"] for row in now)}
    last = [name for name in more if name in ("test samples", "95 % of one run")]
    columns = [name for name in dict.fromkeys((*columns, *more)) if name not in last] + last
    rule = ["---" if name in ("run", "figure") else "---:" for name in columns]
    body = [[row.get(name, "-") for name in columns] for own in rows.values() for row in own]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *body))
    return "\n\n".join((table, *dict.fromkeys((*notes, *fresh))))


def _parsed(text: str) -> tuple[list[str], list[dict[str, str]], list[str]]:
    """Columns, rows and the lines below of a markdown table; nothing of a text without one."""
    lines = [line for line in text.splitlines() if line.strip()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if not cells:
        return [], [], []
    return cells[0], [dict(zip(cells[0], row, strict=True)) for row in cells[2:]], lines[len(cells) :]


def replace_between_markers(file: Path, table: str, update: bool = False) -> None:
    """Put ``table`` between the markers of a file; ``update`` keeps the lines of other runs there.

    Raises:
        ConfigError: the file or the markers are missing, doubled or in the wrong order.
    """
    from perception.checkpoint import write_text

    if not file.is_file():
        raise ConfigError(f"--readme {file}: no such file")
    text = file.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"--readme {file}: it must hold these two lines once, in this order:\n{BEGIN}\n{END}")
    before, rest = text.split(BEGIN)
    there, after = rest.split(END)
    table = merged(there, table) if update else table
    write_text(file, f"{before}{BEGIN}\n{table}\n{END}{after}")
