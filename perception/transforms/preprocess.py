"""The Preprocess record: what was done to raw data before a backbone saw it.

Wrong resizing or normalisation is the commonest silent bug of the field, so the record is part of the backbone's
config, travels in every checkpoint and export, and is what ``Backbone.embed`` applies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from perception.errors import CheckpointError

Batch = dict[str, Any]


@dataclass(frozen=True)
class Preprocess(ABC):
    """Base of the records. A subclass is a frozen dataclass of plain values registered in ``PREPROCESSES``.

    Calling it takes a RAW batch (values as the data set gives them) to the form that the backbone's ``forward``
    expects, on whatever device the batch lies on. It never changes the batch that it is given.
    """

    modality: ClassVar[str]

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Return a shallow copy of ``batch`` with its raw fields normalised."""

    def record(self) -> dict[str, Any]:
        """Plain values for checkpoints and exports; ``type`` names the class."""
        return {"type": type(self).__name__, **asdict(self)}

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """Raise a ``CheckpointError`` that lists every field in which ``other`` differs from this record."""
        mine = _plain(self.record())
        theirs = _plain(other)
        differing = [k for k in sorted({*mine, *theirs}) if mine.get(k) != theirs.get(k)]
        if differing:
            lines = "\n".join(f"  - {k}: {_short(theirs.get(k))} there, {_short(mine.get(k))} here" for k in differing)
            way_out = "Set model.backbone.preprocess to the recorded values."
            if "type" in differing:
                way_out = "A record of another type belongs to another kind of backbone: give weights of this kind."
            raise CheckpointError(
                f"{source} was trained with another Preprocess record than this config asks for:\n{lines}\n{way_out}"
            )

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the recorded values."""
        return tuple(f.name for f in fields(cls))


def _short(value: Any) -> str:
    """``value`` in at most 200 characters: a vocabulary would bury the rest of a message."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:160]}... ({len(text)} characters)"


def _plain(value: Any) -> Any:
    """Tuples and lists compare equal once a record has been through JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
