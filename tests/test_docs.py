"""Every python and bash block of the guides runs, in order, in one folder and one namespace a guide.

A block that cannot run here carries ``<!-- not tested: reason -->`` on the line before it; one that reads
``$PERCEPTION_DATA`` carries ``<!-- needs PERCEPTION_DATA -->``. ``<!-- tested with: key=value ... -->`` gives the first
command of a block overrides that a reader does not need, such as smaller sets to evaluate on. The counts below make
sure that no block escapes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from perception.cli import main

ROOT = Path(__file__).resolve().parents[1]
# guide -> (blocks that run, blocks that say why they do not)
COUNTS: dict[str, tuple[int, int]] = {
    "README.md": (2, 2),
    "docs/adding_a_method.md": (4, 0),
    "docs/configs.md": (4, 0),
    "docs/data.md": (15, 1),
    "docs/driving.md": (7, 2),
    "docs/evaluation.md": (5, 1),
    "docs/getting_started.md": (6, 1),
    "docs/remote_sensing.md": (4, 1),
    "docs/remote_sensing_benchmark.md": (2, 3),
    "docs/scaling.md": (1, 3),
    "docs/speech.md": (6, 0),
    "docs/tabular_image.md": (4, 0),
    "docs/video.md": (7, 1),
}
FENCE = re.compile(r"^(?P<marks>(?:<!--.*?-->\n)*)```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    reason: str
    needs_data: bool
    overrides: tuple[str, ...] = ()


def blocks(path: Path) -> list[Block]:
    source = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(source):
        if match["kind"] not in ("python", "bash"):
            continue
        reason = re.search(r"<!-- not tested: (.+?) -->", match["marks"])
        line = source[: match.start("text")].count("\n") + 1
        needs = "<!-- needs PERCEPTION_DATA -->" in match["marks"]
        shorter = re.search(r"<!-- tested with: (.+?) -->", match["marks"])
        overrides = tuple(shorter[1].split()) if shorter else ()
        found.append(Block(match["kind"], match["text"], line, reason[1] if reason else "", needs, overrides))
    return found


def guides() -> list[str]:
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


def commands(text: str) -> list[list[str]]:
    """Commands of a bash block: comments dropped, continued lines joined."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if shlex.split(line, comments=True)]


def tool(path: str) -> Callable[[list[str]], int]:
    """``main`` of a script below ``tools/``."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def run_bash(block: Block, place: str) -> None:
    for number, words in enumerate(commands(block.text)):
        if words[0] == "python" and words[1].startswith("tools/"):
            assert tool(words[1])(words[2:]) == 0, f"{place}: {' '.join(words)}"
            continue
        text = f"{place}: only perception commands and tools run here; mark the block as not tested"
        assert words[0] == "perception", text
        words += ["--set", *block.overrides] if block.overrides and not number else []
        assert main(words[1:]) == 0, f"{place}: {' '.join(words)}"


def test_every_guide_is_listed_and_no_block_escapes():
    found = {}
    for name in guides():
        tested = sum(not b.reason for b in blocks(ROOT / name))
        found[name] = (tested, len(blocks(ROOT / name)) - tested)
    assert found == COUNTS
    fences = sum((ROOT / n).read_text().count(f"```{kind}\n") for n in guides() for kind in ("python", "bash"))
    assert fences == sum(sum(pair) for pair in COUNTS.values()), "a block is indented or not closed"


@pytest.mark.parametrize("name", [n for n, (tested, _) in COUNTS.items() if tested])
def test_blocks_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    left_out = []
    for block in blocks(ROOT / name):
        place = f"{name}:{block.line}"
        if block.reason:
            continue
        if block.needs_data and "PERCEPTION_DATA" not in os.environ:
            left_out.append(place)
        elif block.kind == "bash":
            run_bash(block, place)
        else:
            # Padded to its line, so that a traceback points into the guide.
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / name), "exec"), namespace)
    if left_out:
        pytest.skip(f"the others ran; PERCEPTION_DATA is needed by {', '.join(left_out)}")


def test_links_lead_somewhere():
    broken = []
    for name in guides():
        for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8")):
            if "://" not in target and not ((ROOT / name).parent / target).exists():
                broken.append(f"{name}: {target}")
    assert not broken
