"""Features of a frozen backbone: extracted once, in float32, cached by what they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from perception.backbones.base import Backbone
from perception.datasets.base import load_arrays
from perception.evaluation.protocol import EvaluationError, Features
from perception.exporting import weights_hash
from perception.registry import DATASETS
from perception.tasks.base import to_device
from perception.transforms.base import identity_collate

_KEY_SAMPLES = 64


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the global random generators of python, numpy and torch as they were found."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def build_dataset(cfg: Mapping[str, Any] | Any) -> Any:
    """A data set of the evaluation section, or the one that is given already.

    Raises:
        EvaluationError: it augments. Training and test features must come from the same, unchanged samples.
    """
    dataset = DATASETS.build(dict(cfg)) if isinstance(cfg, Mapping) else cfg
    applied = getattr(getattr(dataset, "transform", None), "transforms", ())
    augmenting = [type(t).__name__ for t in applied if not getattr(t, "deterministic", False)]
    if augmenting:
        raise EvaluationError(
            f"evaluation data are not augmented, but {type(dataset).__name__} has transforms {', '.join(augmenting)}"
        )
    return dataset


@torch.no_grad()
def extract(
    backbone: Backbone,
    dataset: Any,
    feature: str | None = None,
    batch_size: int = 500,
    num_workers: int = 0,
    baselines: bool = False,
    embed: bool = True,
) -> dict[str, Features]:
    """Features of every labelled sample of a data set.

    The backbone is frozen: eval mode, no gradients, training flags restored; no parameter or buffer changes. Where a
    batch has a ``mask``, only its rows count. Rows with a negative label are left out and counted.

    Args:
        backbone: embeds RAW batches on the device that it lies on.
        dataset: gives whole batches.
        feature: one of ``backbone.feature_choices()``; ``None`` takes the first.
        batch_size: samples at a time.
        num_workers: processes that read.
        baselines: also give the backbone's training-free features.
        embed: give the backbone's own features.

    Returns:
        ``backbone`` and every baseline by name, as far as asked for, on the CPU.

    Raises:
        EvaluationError: unknown feature, no labels, features that are not finite.
    """
    _require_feature(backbone, feature)
    device = device_of(backbone)
    parts: dict[str, list[Tensor]] = {}
    labels, positions, seen = [], [], 0
    for batch in batches(dataset, batch_size, num_workers):
        if "label" not in batch:
            raise EvaluationError(f"{type(dataset).__name__} gives no labels, so it cannot be evaluated on")
        batch = to_device(batch, device)
        found = {"backbone": backbone.embed(batch, feature)} if embed else {}
        if baselines:
            found |= backbone.baselines(backbone.preprocess(batch))
        label = _labels(batch["label"])
        index = _positions(batch, len(label), seen)
        seen += len(label)
        rows = batch["mask"].reshape(-1).cpu().nonzero().squeeze(1) if "mask" in batch else slice(None)
        for name, value in found.items():
            parts.setdefault(name, []).append(value.float().cpu()[rows])
        labels.append(label[rows])
        positions.append(index[rows].long())
    y, index = torch.cat(labels), torch.cat(positions)
    known = (y >= 0) if y.ndim == 1 else (y >= 0).all(1)
    result = {}
    for name, pieces in parts.items():
        x = torch.cat(pieces)[known]
        if not torch.isfinite(x).all():
            row = int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise EvaluationError(f"the {name} features of sample {int(index[known][row])} are not finite")
        result[name] = Features(x, y[known], index[known], int((~known).sum()), groups=_groups(dataset, index[known]))
    return result


def batches(dataset: Any, batch_size: int, num_workers: int) -> Iterator[dict[str, Any]]:
    """All samples once, in order. The loader has a generator of its own and draws nothing from the global one."""
    size = len(dataset) if getattr(dataset, "full_batch", False) else batch_size
    loader = DataLoader(
        dataset,
        batch_size=max(1, size),
        num_workers=num_workers,
        collate_fn=identity_collate,
        generator=torch.Generator().manual_seed(0),
    )
    yield from loader


def _labels(value: Any) -> Tensor:
    """``(n,)`` int64 class ids, or ``(n, C)`` float32 where a sample can have several labels."""
    label = torch.as_tensor(value).cpu()
    return label.float() if label.ndim == 2 and label.shape[1] > 1 else label.reshape(-1).long()


def _positions(batch: Mapping[str, Any], count: int, seen: int) -> Tensor:
    """``(count,)`` int64 positions of a batch's rows: the samples' own, or those of nodes, counted through all batches.

    An item of a node-level data set is all nodes of a graph; its index says nothing of them.
    """
    own = torch.as_tensor(batch["index"]).reshape(-1).cpu() if "index" in batch and "mask" not in batch else ()
    return own.long() if isinstance(own, Tensor) and len(own) == count else torch.arange(seen, seen + count)


def _groups(dataset: Any, index: Tensor) -> Tensor | None:
    """``(n,)`` groups of the samples at ``index``, such as speakers; ``None`` where the data set has none."""
    given = getattr(dataset, "groups", None)
    if given is None or not len(given) or len(dataset) % len(given):
        return None
    clips = len(dataset) // len(given)  # several clips of a video
    return torch.as_tensor(np.asarray(given), dtype=torch.int64)[index // clips]


def cache_key(backbone: Backbone, dataset: Any, description: Mapping[str, Any]) -> str:
    """Name of a cache entry: hash of weights, Preprocess record, ``description`` and samples.

    Up to 64 samples, spread evenly, stand for the data: reading all of them would cost what the cache saves.
    """
    digest = hashlib.sha256()
    digest.update(weights_hash(backbone).encode())
    digest.update(type(backbone).__name__.encode())
    digest.update(json.dumps([backbone.preprocess.record(), description], sort_keys=True, default=str).encode())
    digest.update(str(len(dataset)).encode())
    for position in np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _KEY_SAMPLES)).astype(int)):
        _digest(dataset[int(position)], digest)
    return digest.hexdigest()[:24]


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(str(key).encode())
            _digest(value[key], digest)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _digest(item, digest)
    elif isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.layout == torch.sparse_csr:
            _digest([value.crow_indices(), value.col_indices(), value.values()], digest)
        else:
            digest.update(value.to_dense().contiguous().numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes())
    elif hasattr(value, "to_dict"):  # a torch_geometric graph
        _digest({k: v for k, v in value.to_dict().items() if isinstance(v, Tensor)}, digest)
    else:
        digest.update(str(value).encode())


def cached_features(
    backbone: Backbone,
    dataset: Any,
    cache: Path,
    description: Mapping[str, Any],
    feature: str | None = None,
    batch_size: int = 500,
    num_workers: int = 0,
) -> Features:
    """Features of the backbone, read from ``cache`` if the same ones were extracted before.

    Args:
        backbone: the frozen backbone.
        dataset: gives whole batches.
        cache: folder of the ``.npz`` files.
        description: what else the features depend on (the data set's config, the config hash), as plain data.
        feature: as in ``extract``.
        batch_size: as in ``extract``.
        num_workers: as in ``extract``.
    """
    file = cache / f"{cache_key(backbone, dataset, {**description, 'feature': feature})}.npz"
    if file.is_file():
        arrays = load_arrays(file, ("x", "y", "index", "unlabelled"))
        x, y, index = (torch.from_numpy(arrays[name]) for name in ("x", "y", "index"))
        return Features(x, y, index, int(arrays["unlabelled"]), groups=_groups(dataset, index))
    found = extract(backbone, dataset, feature, batch_size, num_workers)["backbone"]
    save_features(file, found, **{key: str(value) for key, value in description.items() if key.endswith("hash")})
    return found


def save_features(path: Path, features: Features, **notes: str) -> None:
    """Write features to a ``.npz`` of plain arrays ``x``, ``y``, ``index``, ``unlabelled`` and notes, atomically."""
    arrays: dict[str, np.ndarray] = {
        "x": features.x.numpy(),
        "y": features.y.numpy(),
        "index": features.index.numpy(),
        "unlabelled": np.asarray(features.unlabelled, dtype=np.int64),
    }
    write_arrays(path, arrays | {key: np.asarray(value) for key, value in notes.items()})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.npz`` without pickles, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            np.savez(handle, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@torch.no_grad()
def embed_dataset(
    backbone: Backbone, dataset: Any, feature: str | None = None, batch_size: int = 500
) -> dict[str, np.ndarray]:
    """Embeddings of all samples, labelled or not.

    Returns:
        ``features (n, D)`` float32, ``labels`` int64 with -1 for unknown, ``(n,)`` or of several labels ``(n, C)``,
        ``index (n,)`` int64, for nodes of a graph ``mask (n,)`` bool, those of the split, and for the rows of a table
        ``names (n,)``, by which a ``VideoTable`` finds stored features again.
    """
    _require_feature(backbone, feature)
    device = device_of(backbone)
    features, labels, positions, masks, seen = [], [], [], [], 0
    for batch in batches(dataset, batch_size, 0):
        values = backbone.embed(to_device(batch, device), feature).cpu()
        count = len(values)
        features.append(values)
        labels.append(_labels(batch["label"]) if "label" in batch else torch.full((count,), -1))
        positions.append(_positions(batch, count, seen))
        seen += count
        if "mask" in batch:
            masks.append(batch["mask"].reshape(-1).cpu())
    arrays = {
        "features": torch.cat(features).numpy(),
        "labels": torch.cat(labels).long().clamp_min(-1).numpy(),
        "index": torch.cat(positions).long().numpy(),
    }
    keys = getattr(dataset, "keys", None)
    if isinstance(keys, list) and len(keys) == len(arrays["index"]):
        arrays["names"] = np.array(keys)[arrays["index"]]
    return {**arrays, "mask": torch.cat(masks).numpy()} if masks else arrays


def _require_feature(backbone: Backbone, feature: str | None) -> None:
    if feature is not None and not backbone.has_feature(feature):
        choices = backbone.feature_choices()
        raise EvaluationError(f"{type(backbone).__name__} has no feature {feature!r}; there are {', '.join(choices)}")


def device_of(backbone: Backbone) -> torch.device:
    """Device that a backbone lies on."""
    return next((t.device for t in (*backbone.parameters(), *backbone.buffers())), torch.device("cpu"))
