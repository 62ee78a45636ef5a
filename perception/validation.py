"""Every fault of a config in one report, before anything is built.

Each dict with a ``type`` is resolved in the registry that its place implies, its keywords are held against the type's
signature, and then the type itself is asked: an optional ``check_config(cls, cfg) -> Iterable[(key, message)]`` says
what its sizes and files rule out. It gets the config with the signature's defaults filled in, nested ones too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine import registry as mm

from perception import registry as reg
from perception.config import plain
from perception.errors import ConfigError, Fault, PerceptionError, nearest
from perception.sections import (
    SECTIONS,
    container_faults,
    evaluation_faults,
    rate_faults,
    section_faults,
    split_faults,
    view_faults,
)
from perception.signatures import MISSING, Signature, argument_faults, signature_of


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Registry of a dict with a type, by its key, anywhere.
_PLACES: dict[str, Any] = {
    "model": reg.MODELS,
    "backbone": reg.BACKBONES,
    "image_backbone": reg.BACKBONES,
    "table_backbone": reg.BACKBONES,
    "lidar": reg.BACKBONES,
    "camera": reg.BACKBONES,
    "preprocess": reg.PREPROCESSES,
    "tokenizer": reg.TOKENIZERS,
    "text_encoder": reg.TEXT_ENCODERS,
    "fit": reg.DATASETS,
    "balance": reg.BALANCERS,
    "dataset": reg.DATASETS,
    "sampler": reg.DATA_SAMPLERS,
    "collate_fn": reg.FUNCTIONS,
    "optim_wrapper": reg.OPTIM_WRAPPERS,
    "optimizer": reg.OPTIMIZERS,
    "param_scheduler": reg.PARAM_SCHEDULERS,
    "train_cfg": reg.LOOPS,
    "val_cfg": reg.LOOPS,
    "test_cfg": reg.LOOPS,
    "val_evaluator": reg.METRICS,
    "test_evaluator": reg.METRICS,
    "protocol": reg.PROTOCOLS,
    "visualizer": mm.VISUALIZERS,
    "log_processor": mm.LOG_PROCESSORS,
}
_BRANCHES = frozenset({"lidar", "camera"})  # places within a backbone only
# Registry of the members of a mapping or list, by the key of that mapping or list.
_MEMBERS: dict[str, Any] = {
    "pretexts": reg.PRETEXTS,
    "transforms": reg.TRANSFORMS,
    "protocols": reg.PROTOCOLS,
    "default_hooks": reg.HOOKS,
    "custom_hooks": reg.HOOKS,
    "towers": reg.BACKBONES,
    "datasets": reg.DATASETS,
    "vis_backends": mm.VISBACKENDS,
}
_EVALUATION_SETS = ("train", "val", "test", "all")
# Arguments that the builder of a place supplies, and keys that it takes out before it builds.
_SUPPLIED: dict[str, tuple[str, ...]] = {
    "loop": ("runner", "dataloader", "evaluator"),
    "optimizer": ("params",),
    "parameter scheduler": ("optimizer",),
    "data sampler": ("dataset",),
    "optim_wrapper": ("optimizer",),
}
_TAKEN: dict[str, tuple[str, ...]] = {
    "hook": ("priority",),
    "optim_wrapper": ("optimizer", "constructor", "paramwise_cfg"),
    "parameter scheduler": ("convert_to_iter_based",),
}
_DEFAULT_TYPES = {"optim_wrapper": "OptimWrapper", "val_cfg": "ValLoop", "test_cfg": "TestLoop"}
_TEXT_TOO = frozenset({"balance"})  # 'sum'
_OPTIONAL_TYPE = frozenset({"balance", "val_cfg", "test_cfg", "optim_wrapper"})
TOP_KEYS = frozenset(SECTIONS) | _keys(
    "model train_cfg optim_wrapper param_scheduler val_cfg val_evaluator test_cfg test_evaluator default_hooks "
    "custom_hooks load_from default_scope visualizer experiment_name demo"
)
# Keys of other mmengine projects, and where their matter is settled here.
_ELSEWHERE = {
    "work_dir": "the run folder is given by --out",
    "resume": "a run goes on with --resume",
    "launcher": "who started the processes is told by --launcher",
    "runner_type": "there is one runner, PerceptionRunner",
    "log_level": "what is shown is up to the hook 'progress'",
    "log_processor": "what is logged is up to the hook 'scalars'",
}
_REQUIRED_TOP = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
_SOURCES = ("init_from", "load_from")
Path_ = tuple[str, ...]


class _Faults(list[Fault]):
    """Faults found so far, and whether data sets are asked for theirs."""

    ask_data: bool = True


def validate_config(cfg: Any, training: bool = True, data_sets: bool = True) -> list[Fault]:
    """All faults of a config; an empty list if there are none.

    Args:
        cfg: mmengine Config or mapping.
        training: also ask for what a training run needs (model, data, loop, optimiser).
        data_sets: also let data sets look for their files. Without, a config can be judged where its data is not.
    """
    try:
        data = plain(cfg)
    except ConfigError as error:
        return error.faults
    faults = _Faults()
    faults.ask_data = data_sets
    for key, value in data.items():
        if key in _ELSEWHERE:
            faults.append(Fault(key, value, f"not a matter of the config: {_ELSEWHERE[key]}"))
        elif key not in TOP_KEYS:
            faults.append(Fault(key, value, "a config has no such top-level key", nearest(key, TOP_KEYS)))
    if training:
        for key in _REQUIRED_TOP:
            if key not in data:
                faults.append(Fault(key, None, "a training run needs this top-level key"))
        if isinstance(data.get("model"), dict) and data["model"].get("pretexts") == {}:
            faults.append(Fault("model.pretexts", {}, "a training run needs at least one pretext, else it has no loss"))
        faults.extend(evaluation_faults(data, _find))
    faults.extend(container_faults(data))
    filled = {}
    for key, value in data.items():
        if key in TOP_KEYS and key != "demo":  # what `perception demo` says about itself
            filled[key] = _walk((key,), value, faults)
    # Only where both sides are sound: a view can be judged by a backbone alone that can be built.
    if not any(fault.path.startswith("model") or ".transforms." in fault.path for fault in faults):
        faults.extend(view_faults(filled, _find))
        faults.extend(rate_faults(filled))
    faults.extend(split_faults(filled, _find))
    return faults


def require_valid(cfg: Any, source: str = "config", training: bool = True, data_sets: bool = True) -> None:
    """Raise a ``ConfigError`` with all faults of ``cfg``, if it has any."""
    faults = validate_config(cfg, training, data_sets)
    if faults:
        raise ConfigError(faults, source)


def registry_at(path: Path_) -> Any | None:
    """The registry in which the type of a dict at ``path`` is looked up, None where the place implies none."""
    keys = [p for p in path if not p.isdigit()]
    if not keys:
        return None
    if len(path) >= 2 and path[-2] in _MEMBERS:  # a named or numbered member, not what is inside one
        return _MEMBERS[path[-2]]
    if keys[-1] in _MEMBERS:
        return None
    if len(keys) == 2 and keys[0] == "evaluation" and keys[1] in _EVALUATION_SETS:
        return reg.DATASETS
    if keys[-1] == "model" and len(keys) > 1:  # a backbone's own argument, such as the model of a CLIP
        return None
    if keys[-1] in _BRANCHES and registry_at(path[:-1]) is not reg.BACKBONES:  # such as the lidar=False of a data set
        return None
    return _PLACES.get(keys[-1])


def holds_named_parts(path: Path_) -> bool:
    """Whether the mapping at ``path`` names parts freely, as ``model.pretexts`` does."""
    return bool(path) and path[-1] in _MEMBERS


def legal_keys(path: Path_, node: Mapping[str, Any]) -> set[str] | None:
    """Keys that the dict at ``path`` may hold; None where that cannot be known."""
    if not path:
        return set(TOP_KEYS)
    if len(path) == 1 and path[0] in SECTIONS:
        return set(signature_of(SECTIONS[path[0]]).arguments)
    registry = registry_at(path)
    name = node.get("type") or _DEFAULT_TYPES.get(path[-1])
    target = _find(registry, name) if registry is not None and name else None
    if target is None:
        return set(node)
    signature = _signature(target, registry)
    return None if signature.open else {"type", *signature.arguments, *_taken(registry)}


def _walk(path: Path_, value: Any, faults: _Faults) -> Any:
    """Validate ``value`` and everything below it; returns it with the defaults of all signatures filled in."""
    if isinstance(value, list):
        return [_walk((*path, str(i)), v, faults) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        _check_scalar(path, value, faults)
        return value
    registry = registry_at(path)
    if "type" in value or (registry is not None and path[-1] in _DEFAULT_TYPES):
        return _typed(path, value, registry, faults)
    if len(path) == 1 and path[0] in SECTIONS:
        signature = signature_of(SECTIONS[path[0]])
        faults.extend(section_faults(path[0], value))
        value = {k: v for k, v in value.items() if f"{path[0]}.{k}" not in {fault.path for fault in faults}}
        faults.extend(argument_faults(path[0], value, path[0], signature))
        value = {k: v for k, v in value.items() if k in signature.arguments}
    elif registry is not None and path[-1] not in _OPTIONAL_TYPE:
        parts = list(value.values())
        if not (parts and all(isinstance(v, dict) and "type" in v for v in parts)):
            faults.append(Fault(".".join(path), value, f"a {registry.name} needs the key 'type'"))
            return value
        # Several named parts at one place, such as the towers of a dual encoder.
        return {k: _typed((*path, k), v, registry, faults) for k, v in value.items()}
    return {k: _walk((*path, k), v, faults) for k, v in value.items()}


def _check_scalar(path: Path_, value: Any, faults: _Faults) -> None:
    if path[-1] in _SOURCES and value is not None:
        if not isinstance(value, str):
            faults.append(Fault(".".join(path), value, "the path of a run, export or checkpoint"))
        elif not Path(value).expanduser().exists():
            faults.append(Fault(".".join(path), value, "no such file or folder", _nearest_paths(value)))
    elif value is not None and len(path) == 1 and path[0] in (*SECTIONS, *_PLACES):
        faults.append(Fault(path[0], value, "a dict belongs here"))
    elif value is not None and path[-1] not in _TEXT_TOO and (registry := registry_at(path)) is not None:
        where = ".".join(path)
        if all(fault.path != where for fault in faults):  # the annotation may have told already
            faults.append(Fault(where, value, f"the dict of a {registry.name} belongs here, with the key 'type'"))


def _typed(path: Path_, node: dict[str, Any], registry: Any | None, faults: _Faults) -> dict[str, Any]:
    name = node.get("type", _DEFAULT_TYPES.get(path[-1]))
    where = ".".join(path)
    rest = {k: v for k, v in node.items() if k != "type"}
    if registry is None:
        target = next((t for r in _all_registries() if (t := _find(r, name)) is not None), None)
    else:
        target = _find(registry, name)
    below = len(faults)
    if target is None:
        faults.append(_unknown_type(f"{where}.type", name, registry))
        return {"type": name, **{k: _walk((*path, k), v, faults) for k, v in rest.items()}}
    signature = _signature(target, registry)
    taken = _taken(registry)
    filled: dict[str, Any] = {"type": name}
    for key, argument in signature.arguments.items():
        if argument.default is not MISSING:
            filled[key] = argument.default
    for key, value in rest.items():
        filled[key] = _walk((*path, key), value, faults)
    given = {k: v for k, v in rest.items() if k not in taken}
    faults.extend(argument_faults(where, given, str(name).rsplit(".", 1)[-1], signature))
    if registry is reg.OPTIM_WRAPPERS:
        faults.extend(_optim_wrapper_faults(where, node))
    if len(faults) == below and (faults.ask_data or registry is not reg.DATASETS):
        faults.extend(_asked(target, where, filled))
    return filled


def _asked(target: Any, where: str, filled: dict[str, Any]) -> Iterable[Fault]:
    """What the type itself says about its config."""
    check = getattr(target, "check_config", None)
    if check is None:
        return
    try:
        answers = list(check(dict(filled)))
    except ConfigError as error:
        if error.faults:
            for fault in error.faults:  # a shared check may know an argument's name, but not its place in the config
                yield replace(fault, path=f"{where}.{fault.path}") if fault.path in filled else fault
        else:
            yield Fault(where, filled["type"], str(error))
        return
    except PerceptionError as error:
        yield Fault(where, filled["type"], str(error).rstrip("."))
        return
    for key, message in answers:
        value: Any = filled
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        yield Fault(f"{where}.{key}" if key else where, value if key else filled["type"], message.rstrip("."))


def _optim_wrapper_faults(where: str, node: dict[str, Any]) -> Iterable[Fault]:
    if "optimizer" not in node:
        yield Fault(f"{where}.optimizer", None, "an optimiser wrapper needs this key")
    optimizer = node.get("optimizer")
    for key in ("lr", "weight_decay"):
        value = optimizer.get(key) if isinstance(optimizer, dict) else None
        if isinstance(value, (int, float)) and value < 0:
            yield Fault(f"{where}.optimizer.{key}", value, "must not be negative")
    constructor = node.get("constructor")
    if constructor is not None and _find(reg.OPTIM_WRAPPER_CONSTRUCTORS, constructor) is None:
        yield _unknown_type(f"{where}.constructor", constructor, reg.OPTIM_WRAPPER_CONSTRUCTORS)


def _signature(target: Any, registry: Any | None) -> Signature:
    """Signature without what the builder supplies."""
    whole = signature_of(target)
    supplied = _SUPPLIED.get(_kind(registry), ())
    return Signature({k: a for k, a in whole.arguments.items() if k not in supplied}, whole.open)


def _taken(registry: Any | None) -> tuple[str, ...]:
    return (*getattr(registry, "common_keys", ()), *_TAKEN.get(_kind(registry), ()))


def _kind(registry: Any | None) -> str:
    return "" if registry is None else registry.name


def _find(registry: Any, name: Any) -> Any | None:
    """The class or function ``name`` of a registry, its parents included; a class stands for itself."""
    if inspect.isclass(name) or inspect.isfunction(name):
        return name
    if not isinstance(name, str) or not name:
        return None
    try:
        return registry.get(name)
    except ImportError:
        if "." in name:  # a dotted path that leads nowhere
            return None
        raise


def _all_registries() -> list[Any]:
    return list({id(r): r for r in (*_PLACES.values(), *_MEMBERS.values())}.values())


def _unknown_type(where: str, name: Any, registry: Any | None) -> Fault:
    registries = [registry] if registry is not None else _all_registries()
    names = sorted({n for r in registries for n in (r.names() if isinstance(r, reg.Registry) else r.module_dict)})
    kind = registry.name if registry is not None else "type"
    return Fault(where, name, f"no {kind} of that name is registered", nearest(str(name).rsplit(".", 1)[-1], names))


def _nearest_paths(text: str) -> tuple[str, ...]:
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        return ()
    return tuple(str(path.parent / n) for n in nearest(path.name, [p.name for p in path.parent.iterdir()]))
