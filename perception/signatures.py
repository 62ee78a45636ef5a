"""What a registered type accepts, read off its signature: names, defaults and simple annotations."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perception.errors import Fault, nearest

MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """One keyword argument of a type.

    Attributes:
        default: its default, ``MISSING`` where there is none.
        hint: its annotation, ``Any`` where there is none or it cannot be resolved.
        required: whether a config must give it.
    """

    default: Any
    hint: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """Arguments of a type by name; ``open`` where any other keyword is accepted too."""

    arguments: dict[str, Argument]
    open: bool


def signature_of(target: Any) -> Signature:
    """Arguments that ``target``, a class or function, takes by keyword.

    ``**kwargs`` of an ``__init__`` are followed to the next class of the resolution order. What only a base takes is
    never required: the subclass may pass it itself.
    """
    if not inspect.isclass(target):
        return _own(target, skip_self=False)
    arguments: dict[str, Argument] = {}
    inherited = False
    for cls in target.__mro__:
        if "__init__" not in vars(cls) or cls is object:
            continue
        own = _own(vars(cls)["__init__"], skip_self=True)
        for name, argument in own.arguments.items():
            if name not in arguments:
                required = argument.required and not inherited
                arguments[name] = Argument(argument.default, argument.hint, required)
        if not own.open:
            return Signature(arguments, open=False)
        inherited = True
    return Signature(arguments, open=inherited)


def _own(function: Any, skip_self: bool) -> Signature:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built in C: nothing is known
        return Signature({}, open=True)
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation that only a type checker can resolve: nothing to compare with
        hints = {}
    arguments = {}
    accepts_any = False
    for parameter in parameters[1 if skip_self else 0 :]:
        if parameter.kind is parameter.VAR_KEYWORD:
            accepts_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            required = parameter.default is MISSING
            arguments[parameter.name] = Argument(parameter.default, hints.get(parameter.name, Any), required)
    return Signature(arguments, accepts_any)


def at_least(cfg: Mapping[str, Any], least: float, *keys: str) -> Iterable[tuple[str, str]]:
    """Faults, for a ``check_config``, of the ``keys`` whose value is a number below ``least``."""
    for key in keys:
        value = cfg.get(key)
        if isinstance(value, (int, float)) and value < least:
            yield key, f"must be at least {least}, got {value}"


def mismatch(value: Any, hint: Any) -> str | None:
    """What ``hint`` expects if ``value`` clearly is not that, else None.

    Only data is judged: numbers, texts, booleans, None, literals, and lists, tuples and mappings of these. Whatever a
    config of another object may stand for is left to that object's own check.
    """
    if hint is Any or hint is MISSING or isinstance(hint, typing.TypeVar):
        return None
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return mismatch(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        return None if any(mismatch(value, part) is None for part in parts) else describe(hint)
    if origin is Literal:
        return None if value in parts else describe(hint)
    if hint is None or hint is type(None):
        return None if value is None else "None"
    kind = origin or hint
    if kind is bool:
        return None if isinstance(value, bool) else "bool"
    if kind is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else "int"
    if kind is float:
        return None if isinstance(value, (int, float)) and not isinstance(value, bool) else "float"
    if kind is str:
        return None if isinstance(value, str) else "str"
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            return describe(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            parts = (parts[0],) * len(value)
        wrong = bool(parts) and (len(parts) != len(value) or any(map(mismatch, value, parts)))
        return describe(hint) if wrong else None
    if kind in _SEQUENCES:
        fits = isinstance(value, (list, tuple)) and not any(mismatch(v, parts[0]) for v in value if parts)
        return None if fits else describe(hint)
    if kind in _MAPPINGS:
        if not isinstance(value, dict):
            return describe(hint)
        return describe(hint) if parts and any(mismatch(v, parts[1]) for v in value.values()) else None
    if inspect.isclass(kind) and not isinstance(value, kind):
        # A number where an object or its config belongs, or a text where a tensor does.
        number = isinstance(value, (bool, int, float)) and kind.__name__ not in ("Tensor", "ndarray")
        text = isinstance(value, str) and kind.__name__ in ("Tensor", "ndarray", "Generator", "Module")
        if value is None or number or text:
            return describe(hint)
    return None


_SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def describe(hint: Any) -> str:
    """Readable form of an annotation: ``int | None``, ``tuple[float, ...]``, ``'mean' or 'cls'``."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(describe(part) for part in parts)
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if hint is Ellipsis:
        return "..."
    if hint is type(None):
        return "None"
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(describe(part) for part in parts)}]" if parts else name


def argument_faults(path: str, given: dict[str, Any], target_name: str, signature: Signature) -> list[Fault]:
    """Faults of the keywords ``given`` to a type: unknown, missing, or of the wrong kind."""
    faults = []
    missing = [n for n, a in signature.arguments.items() if a.required and n not in given]
    for name, value in given.items():
        argument = signature.arguments.get(name)
        where = f"{path}.{name}" if path else name
        if argument is None:
            if not signature.open:
                hint = nearest(name, signature.arguments)
                faults.append(Fault(where, value, f"{target_name} takes no argument {name!r}", hint))
            continue
        if value is None and argument.default is None:  # annotated without None, as older code does
            continue
        expected = mismatch(value, argument.hint)
        if expected is not None:
            choices = [str(p) for p in _literals(argument.hint)]
            near = nearest(value, choices) if isinstance(value, str) else ()
            faults.append(Fault(where, value, f"{target_name} expects {expected} here", near))
    for name in missing:
        faults.append(Fault(f"{path}.{name}" if path else name, None, f"{target_name} needs this argument"))
    return faults


def _literals(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [value for part in typing.get_args(hint) for value in _literals(part)] if typing.get_args(hint) else []
