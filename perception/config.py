"""Configs: found by short name, loaded without running imports, overridden, hashed and saved as plain data.

A config is a python file of assignments (mmengine's lazy syntax, ``with read_base(): from .._base_.x import *``). Once
a run has started only its ``config.json`` counts: it is data, so that opening somebody's run folder executes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pprint
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mmengine.config import Config

import perception
from perception.errors import ConfigError, Fault, nearest

_NOT_IN_HASH = ("work_dir", "launcher", "resume", "experiment_name", "log_level", "randomness", "demo")
_WORDS = {"true": True, "false": False, "null": None}
_OPENERS = ("[", "{", "(", "dict(", "'", '"')  # what begins so is meant as a literal


def config_root() -> Path:
    """Folder of the shipped configs."""
    for base in perception.__path__:
        folder = Path(base) / "configs"
        if folder.is_dir():
            return folder.resolve()
    raise ConfigError("the folder of shipped configs is missing: the installation is incomplete")


def list_configs() -> list[str]:
    """Short names of all shipped configs, sorted: paths below ``configs/`` without ``.py``."""
    root = config_root()
    paths = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(path.as_posix() for path in paths if not any(part.startswith(("_", ".")) for part in path.parts))


def short_name(name_or_path: str | os.PathLike[str]) -> str:
    """Short name of a config, the file's stem where it lies outside the shipped configs."""
    path = find_config(name_or_path).resolve()
    try:
        return path.relative_to(config_root()).with_suffix("").as_posix()
    except ValueError:
        return path.stem if path.name != "config.json" else path.parent.name


def find_config(name_or_path: str | os.PathLike[str]) -> Path:
    """File of a config given by short name, path, or run folder (whose ``config.json`` it is).

    Raises:
        ConfigError: nothing of that name; the message offers the nearest short names.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix not in (".py", ".json"):
            raise ConfigError([Fault("config", text, "a config is a .py or .json file")])
        return path
    root = config_root()
    short = text.removesuffix(".py").strip("/")
    for candidate in (short, short.removeprefix("configs/")):
        file = root / f"{candidate}.py"
        if file.is_file():
            return file
    if path.is_dir():
        for folder in (path, *seed_folders(path)):
            if (folder / "config.json").is_file():
                return folder / "config.json"
        raise ConfigError([Fault("config", text, "the folder holds no config.json, so it is not a run folder")])
    names = list_configs()
    stems = {name.rsplit("/", 1)[-1]: name for name in names}
    hints = [*nearest(short, names), *(stems[s] for s in nearest(short.rsplit("/", 1)[-1], stems))]
    fault = Fault("config", text, "no config of that name, nor a file or run folder", tuple(dict.fromkeys(hints))[:3])
    raise ConfigError(f"{fault} 'perception list configs' shows all {len(names)}.")


def seed_folders(parent: Path) -> list[Path]:
    """The ``seed_<s>`` folders below ``parent``, by seed."""
    found = [f for f in parent.glob("seed_*") if f.is_dir() and f.name[5:].isdigit()]
    return sorted(found, key=lambda f: int(f.name[5:]))


def run_for_seed(path: str | os.PathLike[str], seed: int | None) -> Path:
    """The run that a run of ``seed`` starts from: of a parent of ``seed_*`` folders the same seed's, else the only one.

    Files, run folders, export folders and paths that do not exist are returned as they are.

    Raises:
        ConfigError: the parent holds several seeds and not this one.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file() or (folder / "backbone.json").is_file():
        return folder
    folders = seed_folders(folder)
    if not folders:
        return folder
    same = [f for f in folders if f.name == f"seed_{seed}"]
    if same:
        return same[0]
    if len(folders) == 1:
        return folders[0]
    names = tuple(f.name for f in folders)
    raise ConfigError(
        [Fault("init_from", str(path), f"holds {', '.join(names)} but not seed_{seed}: name one of these folders")]
    )


def load_config(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = (), seed: int | None = None) -> Config:
    """Load a config, apply overrides, and settle ``init_from`` and ``load_from`` for ``seed``.

    Args:
        name_or_path: short name, path of a ``.py`` or ``.json`` file, or run folder.
        overrides: ``key.path=value`` strings; values are python literals (``dict(...)`` too), else text. ``{seed}``
            in them is replaced.
        seed: seed of the run, where known.

    Raises:
        ConfigError: not found, not readable as a config, or an unknown key in ``overrides``.
    """
    file = find_config(name_or_path)
    cfg = _read_json(file) if file.suffix == ".json" else _read_python(file)
    apply_overrides(cfg, overrides, seed)
    _settle_sources(cfg, seed)
    return Config(cfg, filename=str(file))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(cfg, dict):
        raise ConfigError(f"{file}: a config is a JSON object, this is a {type(cfg).__name__}")
    return cfg


def _read_python(file: Path) -> dict[str, Any]:
    files = _check_source(file, ())
    try:
        raw = Config.fromfile(str(file), lazy_import=True, format_python_code=False).to_dict()
    except Exception as error:
        # Whatever a config's own code raises is a fault of the config: show its line instead of our frames.
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if Path(os.path.normpath(f.filename)) in files]
        place = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else str(file)
        # The stand-in that mmengine puts for every import raises an empty RuntimeError when it is called.
        what = str(error) or "imported things are names only in a config, they cannot be called"
        raise ConfigError(f"{place}: {type(error).__name__}: {what}") from error
    return {
        key: value
        for key, value in raw.items()
        if not key.startswith("_") and not isinstance(value, (ModuleType, FunctionType, type))
    }


def _check_source(file: Path, chain: tuple[Path, ...]) -> set[Path]:
    """Syntax of ``file`` and of its bases, and that every base is there, each with file and line; the files read."""
    files = {Path(os.path.normpath(file))}
    if file in chain:
        raise ConfigError(f"{chain[-1]}: the bases form a circle through {file}")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except SyntaxError as error:
        shown = f"\n    {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}{shown}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a text file: {error}") from error
    for block in tree.body:
        if not isinstance(block, ast.With):
            continue
        for node in block.body:
            if not isinstance(node, ast.ImportFrom) or not node.level or node.module is None:
                continue
            base = file.parent.joinpath(*[".."] * (node.level - 1), *node.module.split(".")).with_suffix(".py")
            base = Path(os.path.normpath(base))
            if not base.is_file():
                there = [p.stem for p in base.parent.glob("*.py")]
                hint = nearest(base.stem, there)
                tail = f" Did you mean {' or '.join(map(repr, hint))}?" if hint else ""
                raise ConfigError(f"{file}:{node.lineno}: the base {str(base)!r} does not exist.{tail}")
            files |= _check_source(base, (*chain, file))
    return files


def apply_overrides(cfg: dict[str, Any], overrides: Sequence[str], seed: int | None = None) -> None:
    """Set ``key.path=value`` pairs in place; all unknown keys are reported at once.

    A key that is absent is legal where the type at that place takes an argument of that name. List items are
    addressed by index.
    """
    faults = []
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key.strip():
            faults.append(Fault("--set", override, "an override reads key.path=value"))
            continue
        try:
            value = _parse(text, seed)
        except ValueError as error:
            faults.append(Fault(key.strip(), text, str(error)))
            continue
        fault = _assign(cfg, key.strip(), value)
        if fault is not None:
            faults.append(fault)
    if faults:
        raise ConfigError(faults, "--set")


def _parse(text: str, seed: int | None) -> Any:
    """Value of an override: a word of JSON, a python literal, else the text itself.

    Raises:
        ValueError: it begins like a list, a dict or a quoted text and is none.
    """
    text = text.strip()
    if seed is not None:  # before parsing: split_seed={seed} is a number
        text = text.replace("{seed}", str(seed))
    if text in _WORDS:
        return _WORDS[text]
    try:
        return literal(text)
    except ValueError:
        if text.startswith(_OPENERS) and not text.startswith("{seed}"):
            raise
        return text


def literal(text: str) -> Any:
    """Value of a python literal, in which dicts may also be written ``dict(key=value)``, as in configs; runs nothing.

    Raises:
        ValueError: it is none; the message says why.
    """
    try:
        return ast.literal_eval(_DictCalls().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error).partition(":")[0] or type(error).__name__
        raise ValueError(f"not a python literal ({why}); names and calls have no value here") from error


class _DictCalls(ast.NodeTransformer):
    """``dict(a=1)`` -> ``{"a": 1}``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        named = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not named or any(word.arg is None for word in node.keywords):
            return node
        keys: list[ast.expr | None] = [ast.Constant(word.arg) for word in node.keywords]
        return ast.copy_location(ast.Dict(keys, [word.value for word in node.keywords]), node)


def _assign(cfg: dict[str, Any], key: str, value: Any) -> Fault | None:
    """Walk to ``key`` and set it; the fault, if there is no such place."""
    parts = key.split(".")
    node: Any = cfg
    fresh = False
    for depth, part in enumerate(parts):
        done, last = tuple(parts[:depth]), depth == len(parts) - 1
        here = ".".join(parts[: depth + 1])
        if isinstance(node, list):
            if not part.lstrip("-").isdigit() or not -len(node) <= int(part) < len(node):
                return Fault(here, value, f"not an index of that list, which has {len(node)} items")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if part not in node and not fresh:
                fault = _absent_key(cfg, done, node, part, value if last else {})
                if fault is not None:
                    return Fault(key, value, fault.message, fault.nearest)
        else:
            return Fault(key, value, f"{'.'.join(done)} is the value {node!r}, it has no keys")
        if last:
            node[index] = value
            return None
        if isinstance(node, dict) and node.get(index) is None:
            node[index] = {}  # an optional group, such as clip_grad, of which the first key is set
            fresh = True
        elif isinstance(node[index], tuple):
            node[index] = list(node[index])
        node = node[index]
    return None


def _absent_key(cfg: dict[str, Any], path: tuple[str, ...], node: dict[str, Any], key: str, value: Any) -> Fault | None:
    from perception.validation import holds_named_parts, legal_keys

    if isinstance(value, dict) and "type" in value and holds_named_parts(path):
        return None
    legal = legal_keys(path, node)
    if legal is None or key in legal:
        return None
    where = f"{'.'.join(path)} ({node['type']})" if "type" in node else ".".join(path) or "a config"
    return Fault(key, value, f"{where} has no key {key!r}", nearest(key, sorted(legal)))


def _settle_sources(cfg: dict[str, Any], seed: int | None) -> None:
    """Replace ``init_from`` and ``load_from`` by the folder or file of this seed."""
    for node, key in list(_sources(cfg)):
        text = node[key]
        if seed is not None:
            node[key] = str(run_for_seed(text.replace("{seed}", str(seed)), seed))


def _sources(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("init_from", "load_from") and isinstance(value, str) and value:
                yield node, key
            else:
                yield from _sources(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _sources(value)


def plain(cfg: Any) -> Any:
    """JSON-able copy of a config: builtin dicts, lists, strings, numbers, booleans, None; types become their names.

    Raises:
        ConfigError: a value that is not data (a lambda, an array), with its config path.
    """
    return _plain(cfg.to_dict() if isinstance(cfg, Config) else cfg, "")


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        wrong = [k for k in value if not isinstance(k, str)]
        if wrong:
            raise ConfigError([Fault(path or "config", wrong[0], "keys of a config are strings")])
        return {k: _plain(v, f"{path}.{k}" if path else k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (type, FunctionType)) and value.__qualname__.isidentifier():
        return f"{value.__module__}.{value.__qualname__}"
    raise ConfigError([Fault(path, value, f"a {type(value).__name__} is not data and cannot be saved")])


def config_hash(cfg: Any) -> str:
    """Twelve hexadecimal digits of what decides a result: all of ``cfg`` but seed, folder and launcher."""
    content = {k: v for k, v in plain(cfg).items() if k not in _NOT_IN_HASH}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def save_config(cfg: Any, run_dir: str | os.PathLike[str]) -> None:
    """Write ``config.json``, which is read back, and ``config.py`` for people, into ``run_dir``."""
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    data = plain(cfg)
    body = "\n".join(f"{key} = {pprint.pformat(value, width=118, sort_dicts=False)}" for key, value in data.items())
    head = f'"""Resolved config of this run (hash {config_hash(cfg)}); config.json is the one that is read back."""\n\n'
    for name, text in (("config.json", json.dumps(data, indent=2) + "\n"), ("config.py", head + body + "\n")):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)


def config_differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two configs differ in what decides a result, with both values (None where absent)."""
    flat = [_flatten({k: v for k, v in plain(c).items() if k not in _NOT_IN_HASH}, "") for c in (one, other)]
    keys = sorted({*flat[0], *flat[1]})
    return {k: (flat[0].get(k), flat[1].get(k)) for k in keys if flat[0].get(k) != flat[1].get(k)}


def _flatten(value: Any, path: str) -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, part in items:
        flat.update(_flatten(part, f"{path}.{key}" if path else str(key)))
    return flat


def config_summary(name: str) -> str:
    """First line of the docstring of a shipped config; empty without one."""
    doc = ast.get_docstring(ast.parse(find_config(name).read_text(encoding="utf-8")))
    return doc.strip().splitlines()[0] if doc else ""
