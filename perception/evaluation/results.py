"""Rows of an evaluation: written, read, aggregated over seeds, shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.checkpoint import write_text
from perception.config import plain
from perception.evaluation.stats import mean_std, t_interval

RESULT_FILE = "evaluation.json"
TIE_POINTS = 0.0005  # a share: 0.05 point of a percentage
TIE_NOTE = "ties a–b: the figure with ties broken at random, and in the worst order; before it, in the best one"
Row = dict[str, Any]


def write_result(path: Path, rows: Sequence[Row], hash_of_config: str, section: Mapping[str, Any]) -> None:
    """Write rows and what they depend on as JSON, atomically."""
    content = {"config_hash": hash_of_config, "evaluation": plain(section), "rows": list(rows)}
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def aggregate_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several seeds as one each: mean ``value``, ``std`` and t-interval ``ci95`` over the seeds."""
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for rows in runs:
        for row in rows:
            key = tuple(str(row[name]) for name in ("protocol", "variant", "source", "metric"))
            grouped.setdefault(key, []).append(row)
    merged = []
    for rows in grouped.values():
        values = [row["value"] for row in rows]
        mean, std = mean_std(values)
        interval = t_interval(values)
        extras: Row = {}
        for name, first in rows[0]["extras"].items():
            series = [row["extras"].get(name) for row in rows]
            if isinstance(first, float) and all(isinstance(v, float) for v in series):
                centre, spread = mean_std(series)
                extras[name] = {"mean": centre, "std": spread}
        merged.append(
            {
                **{key: rows[0][key] for key in ("protocol", "variant", "source", "metric", "n", "dims", "sizes")},
                "proportion": rows[0].get("proportion", True),
                "notes": list(dict.fromkeys(note for row in rows for note in row.get("notes") or ())),
                "value": mean,
                "std": std,
                "ci95": list(interval) if interval is not None else None,
                "values": {str(row["seed"]): row["value"] for row in rows},
                "seeds": len(rows),
                "extras": extras,
            }
        )
    return merged


def format_value(row: Row, interval: bool = True) -> str:
    """Percent with deviation, or with the interval of one run, as in ``54.1 ± 0.4`` or ``54.1 [51.0, 57.2]``.

    Where ties leave a figure open, the other readings of it stand in place of the interval.
    """
    digits, ties = decimals(row["metric"]), tie_bounds(row)
    text = f"{100 * row['value']:.{digits}f}"
    if row.get("seeds", 1) > 1:
        text = f"{text} ± {100 * row['std']:.{digits}f}"
    elif interval and row.get("ci95") and not ties:
        text = f"{text} [{100 * row['ci95'][0]:.{digits}f}, {100 * row['ci95'][1]:.{digits}f}]"
    return f"{text} {ties}" if ties else text


def decimals(metric: str) -> int:
    """Digits of a percentage: recall is compared with tables of two."""
    return 2 if "recall" in metric or "R@" in metric else 1


def tie_bounds(row: Row) -> str:
    """``(ties 3.12–2.91)``: at random and in the worst order, where that differs by more than 0.05 point."""
    found = {}
    for name in ("expected", "pessimistic"):
        value = row["extras"].get(name)
        found[name] = value["mean"] if isinstance(value, Mapping) else value
    if any(not isinstance(value, float) for value in found.values()):
        return ""
    if row["value"] - found["pessimistic"] <= TIE_POINTS:
        return ""
    return "(ties {expected:.2f}–{pessimistic:.2f})".format(**{k: 100 * v for k, v in found.items()})


def print_rows(rows: Sequence[Row], title: str) -> None:
    """A table with one line per figure and one column per source."""
    from rich.console import Console
    from rich.table import Table

    given = list(dict.fromkeys(row["source"] for row in rows))
    sources = [name for name in ("trained", "untrained") if name in given]
    sources += [name for name in given if name not in sources]
    several = any(row.get("seeds", 1) > 1 for row in rows)
    spread = "mean ± std over seeds" if several else "[95 % interval]"
    table = Table(title=f"{title}: % {spread}", title_justify="left", title_style="bold")
    table.add_column("protocol", overflow="fold")
    table.add_column("n", justify="right")
    for name in sources:
        table.add_column(name, justify="right", overflow="fold")
    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["protocol"], row["variant"], row["metric"]), {})[row["source"]] = row
    last: tuple[str, str] | None = None
    for (protocol, variant, metric), by_source in lines.items():
        # Of several figures of one thing, only the first says of what.
        repeated = (protocol, variant) == last
        last = (protocol, variant)
        label = f"  {metric}" if repeated else " ".join(filter(None, (protocol, variant, metric)))
        # The interval is much the same for all sources: one is enough, and the table stays narrow.
        cells = [format_value(by_source[name], name == sources[0]) if name in by_source else "-" for name in sources]
        table.add_row(label, str(next(iter(by_source.values()))["n"]), *cells)
    console = Console()
    console.print(table)
    notes = [TIE_NOTE] if any(map(tie_bounds, rows)) else []
    notes += [note for row in rows for note in row.get("notes") or ()]
    for note in dict.fromkeys(notes):
        console.print(f"note: {note}", highlight=False, markup=False)
