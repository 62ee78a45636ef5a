"""Data loaders from configs that only say what varies: batch size, workers and data set."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from perception.datasets.base import Dataset
from perception.engine.sampler import ResumableSampler
from perception.errors import ConfigError, Fault
from perception.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from perception.transforms.base import identity_collate

# A worker that was told to end stays this long for its parent to finish the step and save.
_GRACE_SECONDS = 60


def build_dataloader(cfg: DataLoader | Mapping[str, Any], seed: int, training: bool) -> DataLoader:
    """Build a loader that never touches the global random generators.

    Args:
        cfg: the arguments of ``torch.utils.data.DataLoader``, with ``dataset``, ``sampler`` and ``collate_fn`` as
            configs. Absent: a ``ResumableSampler`` (shuffled in training, every sample once otherwise), the collate of
            data sets that give whole batches, workers that persist between epochs, pinned memory where there is a GPU.
        seed: seed of the order and of the augmentation.
        training: whether it feeds the train loop.
    """
    if isinstance(cfg, DataLoader):
        return cfg
    options = dict(cfg)
    dataset = options.pop("dataset")
    if isinstance(dataset, Mapping):
        dataset = dict(dataset)
        if "seed" not in dataset and _takes_seed(dataset["type"]):
            dataset["seed"] = seed
        dataset = DATASETS.build(dataset)
    if len(dataset) == 0:
        raise ConfigError([Fault("dataloader.dataset", type(dataset).__name__, "holds no sample")])

    sampler = options.pop("sampler", None) or {"type": "ResumableSampler"}
    if isinstance(sampler, Mapping):
        sampler = dict(sampler)
        if sampler["type"] in ("ResumableSampler", ResumableSampler):
            sampler.setdefault("shuffle", training)
            sampler.setdefault("uneven", "pad" if training else "keep")
        sampler = DATA_SAMPLERS.build(sampler, default_args={"dataset": dataset, "seed": seed})
    if not training and getattr(sampler, "training_only", False):
        text = "draws samples several times, for training alone: validation and test see every sample once"
        raise ConfigError([Fault("dataloader.sampler", type(sampler).__name__, text)])
    whole, size = getattr(sampler, "global_batch", None), options.get("batch_size", 1)
    if whole is not None and size * sampler.world != whole:
        text = f"{type(sampler).__name__} composes batches of {whole}: {whole // sampler.world} on each of its ranks"
        raise ConfigError([Fault("dataloader.batch_size", size, text)])

    collate = options.pop("collate_fn", None) or identity_collate
    if isinstance(collate, Mapping):
        collate = dict(collate)
        kind = collate.pop("type")
        collate = partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **collate)

    workers = options.setdefault("num_workers", 0)
    options.setdefault("persistent_workers", workers > 0)
    options.setdefault("pin_memory", torch.cuda.is_available())
    return DataLoader(
        dataset,
        sampler=sampler,
        collate_fn=collate,
        # A generator of its own: starting an iterator must not draw from the model's generator, because a resumed
        # run starts one more than the uninterrupted run did.
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=outlive_parent_signals if workers > 0 else None,
        **options,
    )


def _takes_seed(kind: Any) -> bool:
    cls = DATASETS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        return False  # the registry names the fault when it builds
    parameters = inspect.signature(cls).parameters
    passes_on = inspect.isclass(cls) and issubclass(cls, Dataset)
    return "seed" in parameters or (passes_on and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))


def outlive_parent_signals(worker_id: int) -> None:
    """Let a worker survive a SIGTERM or Ctrl-C sent to the whole process group, while the parent saves.

    Schedulers and terminals signal every process of a job. A worker that died at once would break the step that the
    parent is about to finish. It still ends by itself: when the parent shuts it down or dies, or after a grace period.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def shut_down_workers(loader: DataLoader, iterator: Any = None) -> None:
    """End the worker processes of a loader now, not when it is garbage: at exit python would wait for them.

    Args:
        loader: its persistent workers end.
        iterator: an iterator of the loader that is no longer needed.
    """
    for found in (iterator, getattr(loader, "_iterator", None)):
        if isinstance(found, _MultiProcessingDataLoaderIter):
            found._shutdown_workers()
    loader._iterator = None
