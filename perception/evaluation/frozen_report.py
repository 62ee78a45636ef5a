"""Table, markdown, JSON and picture of the frozen-feature benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

from perception.checkpoint import write_text
from perception.evaluation.frozen_features import BandStatistics
from perception.evaluation.results import Row
from perception.evaluation.stats import mean_std

TITLES = {"knn": "kNN-5", "knn_scaled": "kNN-5 scaled", "linear": "linear", "linear_raw": "linear raw"}
METRICS = {"accuracy": "accuracy", "ap_micro": "micro-averaged average precision"}
_PLACE = ("encoder", "size", "normalisation")
_COLOURS = ("#1b6ca8", "#e07b39", "#3a9d5d", "#8e5ea2")
_MARKS = ("o", "D", "s", "^")


def cells(rows: Sequence[Row]) -> list[Row]:
    """One row for every cell: encoder, size, normalisation, ``dims``, ``seeds`` and ``values`` by protocol.

    A value is (mean, sample standard deviation over the seeds); the deviation of one seed is 0.
    """
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in _PLACE), []).append(row)
    found = []
    for place, group in grouped.items():
        by_protocol: dict[str, list[float]] = {}
        for row in group:
            by_protocol.setdefault(row["protocol"], []).append(row["value"])
        values = {name: mean_std(series) for name, series in by_protocol.items()}
        seeds = sorted({row["seed"] for row in group})
        found.append({**dict(zip(_PLACE, place, strict=True)), "dims": group[0]["dims"], "seeds": seeds, **values})
    return found


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table: percent, with the deviation over seeds where there are several."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    heads = ["encoder", "px", "normalisation", "D", *(TITLES[name] for name in protocols)]
    lines = []
    for cell in cells(rows):
        figures = []
        for name in protocols:
            mean, std = cell[name]
            figures.append(f"{100 * mean:.1f} ± {100 * std:.1f}" if len(cell["seeds"]) > 1 else f"{100 * mean:.1f}")
        lines.append([cell["encoder"], str(cell["size"]), cell["normalisation"], str(cell["dims"]), *figures])
    return heads, lines


def caption(rows: Sequence[Row], data: str) -> str:
    """What the table holds."""
    first = rows[0]
    seeds = max(len(cell["seeds"]) for cell in cells(rows))
    spread = f"; random encoders: mean ± std over {seeds} seeds" if seeds > 1 else ""
    count = f"{first['sizes']['train']:,} training, {first['n']:,} test images"
    return f"{data}: {METRICS[first['metric']]} in %, {count}{spread}"


def print_table(rows: Sequence[Row], data: str) -> None:
    """Show the table in the terminal."""
    from rich.console import Console
    from rich.table import Table

    heads, lines = table(rows)
    shown = Table(title=caption(rows, data), title_justify="left", title_style="bold")
    for place, head in enumerate(heads):
        shown.add_column(head, justify="left" if place in (0, 2) else "right", overflow="fold")
    for line in lines:
        shown.add_row(*line)
    Console().print(shown)


def markdown(rows: Sequence[Row], data: str) -> str:
    """The table as a page of markdown."""
    heads, lines = table(rows)
    body = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines)]
    return "\n".join([caption(rows, data), "", *body, ""])


def draw(rows: Sequence[Row], data: str, path: Path) -> None:
    """Draw every cell as a line of marks, one for each protocol, with the deviation over seeds as a bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = cells(rows)
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.28 * len(found)), layout="constrained")
    for number, (name, colour, mark) in enumerate(zip(protocols, _COLOURS, _MARKS, strict=False)):
        offset = 0.14 * (number - (len(protocols) - 1) / 2)
        heights = [place + offset for place in range(len(found))]
        means, deviations = ([100 * cell[name][i] for cell in found] for i in (0, 1))
        axes.errorbar(
            means, heights, xerr=deviations, fmt=mark, color=colour, markersize=5, capsize=2, label=TITLES[name]
        )
    names = [f"{cell['encoder']}, {cell['size']} px, {cell['normalisation']}" for cell in found]
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    figure.suptitle(fill(caption(rows, data), 100), fontsize=9)
    axes.set_xlabel("%")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write_report(
    folder: Path, rows: Sequence[Row], data: str, statistics: BandStatistics, settings: Mapping[str, Any]
) -> list[Path]:
    """Write ``resize_benchmark`` as ``.json``, ``.md`` and ``.png``.

    Args:
        folder: created if it is not there.
        rows: of ``run_grid``.
        data: name of the data set.
        statistics: of its training split.
        settings: what the command line asked for.
    """
    paths = [folder / f"resize_benchmark.{suffix}" for suffix in ("json", "md", "png")]
    content = {"data": data, "settings": dict(settings), "statistics": asdict(statistics), "rows": list(rows)}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(paths[0], json.dumps(content, indent=1, sort_keys=True) + "\n")
    write_text(paths[1], markdown(rows, data))
    draw(rows, data, paths[2])
    return paths
