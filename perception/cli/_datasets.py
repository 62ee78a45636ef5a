"""Data sets on a command line, written as a call: ``RSICDMini(split='train', size=64)``."""

from __future__ import annotations

import ast
from typing import Any

from perception.config import literal
from perception.errors import ConfigError, Fault, nearest


def dataset_config(text: str) -> dict[str, Any]:
    """``Name(key=value, ...)`` or ``Name`` -> the config of that data set; runs nothing.

    Raises:
        ConfigError: it is no such call, or a value is no python literal.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"data set {text!r}: {error.msg}; write it as Name(key=value, ...)") from error
    if isinstance(node, ast.Name):
        return {"type": node.id}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ConfigError(f"data set {text!r}: write it as Name(key=value, ...), every argument by name")
    cfg: dict[str, Any] = {"type": node.func.id}
    for word in node.keywords:
        if word.arg is None:
            raise ConfigError(f"data set {text!r}: ** has no meaning here")
        try:
            cfg[word.arg] = literal(ast.unparse(word.value))
        except ValueError as error:
            raise ConfigError([Fault(word.arg, ast.unparse(word.value), str(error))], text) from error
    return cfg


def build_dataset(text: str, **changes: Any) -> Any:
    """Build the data set that ``text`` writes, with ``changes`` of its arguments.

    Raises:
        ConfigError: all faults of it, with the nearest names.
    """
    from perception.registry import DATASETS
    from perception.validation import validate_config

    cfg = {**dataset_config(text), **changes}
    if cfg["type"] not in DATASETS.names():
        raise ConfigError(
            [Fault("type", cfg["type"], "no such data set", nearest(cfg["type"], DATASETS.names()))], text
        )
    faults = validate_config({"evaluation": {"test": cfg}}, training=False)
    if faults:
        raise ConfigError(
            [Fault(f.path.removeprefix("evaluation.test."), f.value, f.message, f.nearest) for f in faults], text
        )
    return DATASETS.build(cfg)
