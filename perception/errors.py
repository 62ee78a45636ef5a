"""Errors that are meant for the user: one message that names the thing, where it came from and the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any


class PerceptionError(Exception):
    """Base of every error that the command line prints as one message without a traceback."""


class DataError(PerceptionError):
    """A file or array of the user's that cannot be used as it is."""


class CheckpointError(PerceptionError):
    """A checkpoint or export that is damaged, unsafe or made for another model."""


class TrainingError(PerceptionError):
    """A run that cannot go on, such as a loss that is no longer finite."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a config.

    Attributes:
        path: dotted config path, such as ``model.backbone.depth``.
        value: the offending value as written.
        message: what is wrong, without the path.
        nearest: the nearest valid names or values, best first.
    """

    path: str
    value: object
    message: str
    nearest: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        hint = f" Did you mean {' or '.join(repr(n) for n in self.nearest)}?" if self.nearest else ""
        return f"{self.path} = {self.value!r}: {self.message}.{hint}"


class ConfigError(PerceptionError):
    """All faults of one config, reported at once."""

    def __init__(self, faults: Iterable[Fault] | str, source: str = "config") -> None:
        self.faults: list[Fault] = [] if isinstance(faults, str) else list(faults)
        if isinstance(faults, str):
            text = faults
        else:
            count = len(self.faults)
            lines = "\n".join(f"  - {fault}" for fault in self.faults)
            text = f"{source}: {count} fault{'s' if count != 1 else ''}\n{lines}"
        super().__init__(text)


def check_arguments(
    path: str, check: Callable[[dict[str, Any]], Iterable[tuple[str, str]]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """For constructors: what ``check_config`` says of a config holds for types that are built in code, too.

    Args:
        path: config path of the type, such as ``model.backbone``.
        check: the type's ``check_config``.
        given: ``locals()`` of the constructor, as its first statement.

    Returns:
        The arguments by name, without ``self``.

    Raises:
        ConfigError: the arguments have faults; all are named.
    """
    arguments = {key: value for key, value in given.items() if key not in ("self", "__class__")}
    faults = [Fault(f"{path}.{key}", arguments.get(key), text) for key, text in check(dict(arguments))]
    if faults:
        raise ConfigError(faults)
    return arguments


def not_among(value: object, choices: Iterable[object]) -> str:
    """Message about a ``value`` that is none of ``choices``: all of them, and the one that looks most like it."""
    names = [str(choice) for choice in choices]
    near = nearest(str(value), names, 1)
    return f"not one of {', '.join(names)}" + (f"; nearest is {near[0]!r}" if near else "")


def nearest(name: str, choices: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The ``count`` choices that look most like ``name``, best first; matching ignores case."""
    by_fold = {choice.lower(): choice for choice in choices}
    return tuple(by_fold[c] for c in get_close_matches(str(name).lower(), by_fold, n=count, cutoff=0.55))
