"""Whether the images of a test set, or their corpus, were trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.config import run_for_seed
from perception.errors import PerceptionError

# Names under which one and the same set of images goes.
_SAME = {
    "nwpuresisc45": "resisc45",
    "ucmerced": "ucm",
    "ucmercedlanduse": "ucm",
    "ucmcaptions": "ucm",
    "nwpucaptions": "resisc45",
    "rsicdmini": "rsicd",
    "eurosatmini": "eurosat",
    "sydneycaptions": "sydney",
}


def sources_of(dataset: Any) -> tuple[str, ...]:
    """Public corpora of a data set: what it states as ``sources``, else the name of its type."""
    inner = getattr(dataset, "dataset", dataset)
    stated = getattr(inner, "sources", None)
    return (type(inner).__name__,) if stated is None else tuple(stated)


def recorded_sources(run: str | Path) -> tuple[str, ...]:
    """Corpora that a finished run was trained on, as its ``summary.json`` says; none where it does not say."""
    file = Path(run) / "summary.json"
    if not file.is_file():
        return ()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PerceptionError(f"{file} is damaged: {error}") from error
    return tuple(content.get("sources") or ())


def all_sources(dataset: Any, backbone: Mapping[str, Any], seed: int) -> list[str]:
    """Corpora of a training data set, and of the run that the weights of its backbone config come from."""
    start = backbone.get("init_from")
    earlier = recorded_sources(run_for_seed(start, seed)) if start else ()
    return list(dict.fromkeys((*sources_of(dataset), *earlier)))


def shared_sources(trained_on: Iterable[str], judged_on: Iterable[str]) -> list[str]:
    """Corpora of ``judged_on`` that occur in ``trained_on``, under any of their names."""
    known = {_key(name) for name in trained_on}
    return [name for name in judged_on if _key(name) in known]


def overlap_note(trained_on: Sequence[str], judged_on: Sequence[str], data: str) -> tuple[str, ...]:
    """A sentence about corpora that were trained on and judged on, or nothing."""
    shared = shared_sources(trained_on, judged_on)
    if not shared:
        return ()
    return (f"{data}: trained on the same corpus ({', '.join(shared)}), so these figures are in-domain, not zero-shot",)


def _key(name: str) -> str:
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return _SAME.get(key, key)
