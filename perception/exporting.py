"""Backbones in and out of the library: built from a config, started from a run, exported, loaded again.

An export is a folder of two files: ``model.safetensors`` (the weights, keys as the backbone names them) and
``backbone.json`` (type, config, Preprocess record, hashes, where it came from and how well it did). Heads, decoders
and mask tokens stay behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from inspect import isclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from perception.backbones.base import Backbone
from perception.checkpoint import find_checkpoint, load_checkpoint, load_state, model_state, save_checkpoint
from perception.config import run_for_seed
from perception.errors import CheckpointError, ConfigError, Fault, PerceptionError, nearest
from perception.registry import BACKBONES

WEIGHTS_FILE = "model.safetensors"
RECORD_FILE = "backbone.json"
FORMAT = 1
_PREFIX = "backbone."


def build_backbone(cfg: Mapping[str, Any], seed: int | None = None, **kwargs: Any) -> Backbone:
    """Build a backbone from its config and start it from ``init_from`` if the config has one.

    Args:
        cfg: ``type``, the type's own arguments and, optionally, ``init_from``: a run folder, a folder with
            ``seed_*`` runs, a ``.pth`` file or an export folder.
        seed: which ``seed_*`` run ``init_from`` means when it names their parent; ``None`` takes the seed that torch
            was last seeded with, which inside a run is the run's.
        **kwargs: further arguments of the type, for callers that build in code.

    Raises:
        ConfigError: the type is missing, unknown, or refuses an argument.
        CheckpointError: ``init_from`` is damaged, of another architecture or of another Preprocess record.
    """
    rest = {**dict(cfg), **kwargs}
    init_from = rest.pop("init_from", None)
    kind = rest.pop("type", None)
    cls: Any = kind if isclass(kind) else BACKBONES.get(str(kind))
    if cls is None:
        raise ConfigError(
            [Fault("model.backbone.type", kind, "no such backbone", nearest(str(kind), BACKBONES.names()))]
        )
    try:
        backbone: Backbone = cls(**rest)
    except TypeError as error:
        raise ConfigError(f"model.backbone: {cls.__name__} cannot be built: {error}") from error
    if init_from:
        load_weights(backbone, init_from, seed)
    return backbone


def load_weights(backbone: Backbone, source: str | Path, seed: int | None = None) -> str:
    """Load weights of an export, a run or a checkpoint into ``backbone`` and say what was loaded.

    Returns:
        One line: the file, its step where known, and the number of tensors.

    Raises:
        CheckpointError: missing or unexpected keys, other shapes, another Preprocess record, a damaged file.
    """
    state, record, origin = read_backbone_state(source, torch.initial_seed() if seed is None else seed)
    preprocess = record.get("preprocess")
    backbone.require_compatible(record, origin)
    try:
        load_state(backbone, state, origin)
    except CheckpointError as error:
        theirs, own = (record.get("config") or {}).get("type"), type(backbone).__name__
        if theirs is None or theirs == own:
            raise
        # A list of hundreds of names would bury what is wrong.
        raise CheckpointError(
            f"{origin} holds the weights of a {theirs}, but the backbone of this config is a {own}: start it from a "
            f"run or an export of a {own}"
        ) from error
    step = f", step {record['step']}" if record.get("step") is not None else ""
    unrecorded = "" if preprocess else "; it holds no Preprocess record, so normalisation could not be compared"
    text = f"backbone started from {origin}{step}: {len(state)} tensors{unrecorded}"
    print_log(text, logger="current")
    return text


def read_backbone_state(source: str | Path, seed: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Weights of the backbone inside ``source``, what is recorded with them, and the file they came from.

    The record has the keys of ``backbone.json`` as far as they are known.
    """
    path = Path(source).expanduser()
    if (path / RECORD_FILE).is_file():
        record = _read_record(path)
        return _read_weights(path, record), record, str(path)
    file = find_checkpoint(path if seed is None else run_for_seed(path, seed))
    checkpoint = load_checkpoint(file)
    meta = dict(checkpoint.get("meta") or {})
    state = {key.removeprefix("module."): value for key, value in model_state(checkpoint).items()}
    inner = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    if not inner and meta:
        raise CheckpointError(f"{file} holds no keys under {_PREFIX!r}; it begins with {sorted(state)[:5]}")
    if not state:
        raise CheckpointError(
            f"{file} holds no tensors by name, only {sorted(checkpoint)[:5]}: "
            "tools/convert_weights.py makes an export of public weights"
        )
    config = json.loads(meta["config"]) if meta.get("config") else {}
    record = {
        "config": config.get("model", {}).get("backbone"),
        "preprocess": meta.get("preprocess"),
        "config_hash": meta.get("config_hash"),
        "step": meta.get("step"),
        "epoch": meta.get("epoch"),
        "seed": meta.get("seed"),
        "experiment": config.get("experiment_name"),
        "run_config": config,
    }
    return inner or state, record, str(file)


def weights_hash(state: Mapping[str, Tensor] | torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of every parameter and buffer, 16 hexadecimal digits."""
    tensors = state.state_dict() if isinstance(state, torch.nn.Module) else state
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def export_backbone(
    run: str | Path, out: str | Path, seed: int | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the backbone of a run to a folder that ``load_backbone`` reads.

    Args:
        run: run folder, parent of ``seed_*`` runs or ``.pth`` file.
        out: folder to create.
        seed: which run of a parent; needed only if it has several.
        overwrite: replace an existing export.

    Returns:
        The record, as written to ``backbone.json``.

    Raises:
        PerceptionError: ``out`` exists and is not an export that may be overwritten.
        CheckpointError: the run has no usable checkpoint.
    """
    from safetensors.torch import save_file

    out = Path(out).expanduser()
    if out.exists() and not (overwrite and (out / RECORD_FILE).is_file()):
        why = "is not an export, so it is left alone" if overwrite else "exists; give another folder or --overwrite"
        raise PerceptionError(f"{out} {why}")
    state, record, origin = read_backbone_state(run, seed)
    if not record.get("config"):
        raise CheckpointError(f"{origin} does not hold the config it was trained with, so it cannot be exported")
    config = _own_config(record)
    backbone = build_backbone(config)
    if record.get("preprocess"):
        backbone.preprocess.require_same(record["preprocess"], origin)
    load_state(backbone, state, origin)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
    from perception import __version__

    written = {
        "format": FORMAT,
        "type": config["type"],
        "config": config,
        "preprocess": backbone.preprocess.record(),
        "modality": backbone.modality,
        "embed_dims": backbone.embed_dims,
        "feature_choices": list(backbone.feature_choices()),
        "weights_hash": weights_hash(weights),
        **{key: record.get(key) for key in ("config_hash", "experiment", "step", "epoch", "seed")},
        "source": origin,
        "metric": _metrics(Path(origin), weights_hash(weights)),
        "perception": __version__,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # Both files appear at once, by renaming the finished folder: nobody ever sees half an export.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        fresh = Path(scratch) / "export"
        fresh.mkdir()
        save_file(weights, str(fresh / WEIGHTS_FILE), metadata={"format": "pt", "hash": written["weights_hash"]})
        (fresh / RECORD_FILE).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        if out.exists():
            os.replace(out, Path(scratch) / "old")
        os.replace(fresh, out)
    return written


def export_public(
    weights: str | Path, config: Mapping[str, Any], out: str | Path, prefix: str = ""
) -> tuple[int, list[str]]:
    """Turn a file of public weights into an export.

    Args:
        weights: ``.safetensors`` file, or one of torch that holds a state dict, bare or under ``state_dict`` or
            ``model``. Prefixes ``module.`` of data-parallel training go.
        config: whole config whose ``model.backbone`` the weights belong to.
        out: folder to create.
        prefix: keep only keys below it.

    Returns:
        Number of tensors in the export, and the keys that the backbone has no place for.

    Raises:
        CheckpointError: a weight is missing or of another shape, or the config leaves open what no tensor shows.
    """
    from safetensors.torch import load_file

    file = Path(weights)
    backbone = build_backbone({key: value for key, value in config["model"]["backbone"].items() if key != "init_from"})
    backbone.require_compatible({}, str(file))
    loaded: Mapping[str, Any] = load_file(file) if file.suffix == ".safetensors" else load_checkpoint(file)
    tensors = loaded.get("state_dict", loaded.get("model", loaded))
    named = {key.removeprefix("module."): value for key, value in tensors.items() if isinstance(value, Tensor)}
    chosen = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    if not chosen:
        raise CheckpointError(f"{file} has no keys below {prefix!r}; it begins with {sorted(named)[:5]}")
    state = backbone.adapt_state(chosen)
    own = backbone.state_dict()
    load_state(backbone, {key: value for key, value in state.items() if key in own}, str(file))
    meta = {"config": json.dumps(config), "preprocess": backbone.preprocess.record()}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / file.with_suffix(".pth").name
        whole = {f"{_PREFIX}{key}": value for key, value in backbone.state_dict().items()}
        save_checkpoint({"meta": meta, "state_dict": whole}, checkpoint)
        export_backbone(checkpoint, out)
    return len(own), sorted(set(state) - set(own))


def load_backbone(path: str | Path, device: str | torch.device = "cpu", seed: int | None = None) -> Backbone:
    """Give back a backbone, in eval mode, from an export folder, a run folder or a checkpoint.

    Raises:
        CheckpointError: not such a folder, or damaged, or without the config to build the backbone from.
    """
    state, record, origin = read_backbone_state(path, seed)
    if not record.get("config"):
        raise CheckpointError(
            f"{origin} does not hold the config of its backbone; build it from a config with init_from={str(path)!r}"
        )
    backbone = build_backbone(_own_config(record))
    if record.get("preprocess"):
        backbone.preprocess.require_same(record["preprocess"], origin)
    load_state(backbone, state, origin)
    return backbone.to(device).eval()


def _own_config(record: Mapping[str, Any]) -> dict[str, Any]:
    """Config from which the recorded backbone is built without anything else.

    The Preprocess record takes the place of what it was made from, which may ask for data, such as the captions that a
    vocabulary was fitted to.
    """
    config = {key: value for key, value in record["config"].items() if key != "init_from"}
    cls: Any = BACKBONES.get(str(config.get("type")))
    if cls is not None:
        config = cls.bare_config(config)
    recorded = record.get("preprocess")
    return {**config, "preprocess": recorded} if recorded and config.get("preprocess") else config


def is_export(path: str | Path) -> bool:
    """True for a folder written by ``export_backbone``."""
    return (Path(path).expanduser() / RECORD_FILE).is_file()


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / RECORD_FILE} is not readable: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise CheckpointError(f"{folder / RECORD_FILE} has format {found!r}; this version reads format {FORMAT}")
    return record


def _read_weights(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    try:
        state = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is missing or damaged: {error}") from error
    found = weights_hash(state)
    if found != record.get("weights_hash"):
        raise CheckpointError(f"{file} has hash {found}, {RECORD_FILE} says {record.get('weights_hash')}: not a pair")
    return state


def _metrics(checkpoint: Path, weights: str) -> dict[str, Any]:
    """What the run's own evaluation says of these weights, so that an exported file can be checked after years.

    Probes judge the weights that the run ends with, which their rows name by hash; the task's metrics are those of
    ``best.pth`` where one is kept. Another checkpoint of the run gets no figure.
    """
    found: dict[str, Any] = {}
    run = checkpoint.parent.parent
    evaluation = _read_json(run / "evaluation.json")
    if any(row.get("weights_hash") == weights for row in evaluation.get("rows", [])):
        found["evaluation"] = evaluation
    best = checkpoint.parent / "best.pth"
    if checkpoint.name == "best.pth" or not best.is_file():
        metrics = _read_json(run / "metrics.json")
        if metrics:
            found["metrics"] = metrics
    return found


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return content
