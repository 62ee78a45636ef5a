"""The sections of a config that no registered type describes: what they may hold, and whether it fits together.

A section's keys are the parameters of a function here, so that they are checked as those of any type are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from perception.errors import Fault, nearest
from perception.registry import BACKBONES, DATASETS, PREPROCESSES, PROTOCOLS, TRANSFORMS

Typed = dict[str, Any]


def _loader(
    dataset: Typed,
    batch_size: int = 1,
    num_workers: int = 0,
    sampler: Typed | None = None,
    collate_fn: Typed | None = None,
    drop_last: bool = False,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
    timeout: float = 0,
    multiprocessing_context: str | None = None,
) -> None:
    """Arguments of ``torch.utils.data.DataLoader`` that a config may set."""


def _evaluation(
    train: Typed | None = None,
    val: Typed | None = None,
    test: Typed | None = None,
    all: Typed | None = None,
    protocols: dict[str, Typed] | None = None,
    feature: str | None = None,
    batch_size: int = 500,
    num_workers: int = 0,
    device: str | None = None,
    trained_on: Sequence[str] | None = None,
) -> None:
    """See ``perception.evaluation.run.evaluate``."""


def _env_cfg(
    cudnn_benchmark: bool = False,
    mp_cfg: dict[str, Any] | None = None,
    dist_cfg: dict[str, Any] | None = None,
    resource_limit: int = 4096,
    find_unused_parameters: bool = False,
) -> None:
    """mmengine's, and whether parameters may be left out of a step on several ranks."""


def _randomness(deterministic: bool = False) -> None:
    """The seed is the command line's."""


SECTIONS: dict[str, Callable[..., None]] = {
    "train_dataloader": _loader,
    "val_dataloader": _loader,
    "test_dataloader": _loader,
    "evaluation": _evaluation,
    "env_cfg": _env_cfg,
    "randomness": _randomness,
}
_AT_LEAST = {"batch_size": 1, "num_workers": 0, "prefetch_factor": 1, "timeout": 0}
_CONTAINERS = {"custom_hooks": list, "default_hooks": dict}


def section_faults(name: str, section: Mapping[str, Any]) -> Iterable[Fault]:
    """Values of one section that are out of range."""
    for key, least in _AT_LEAST.items():
        value = section.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < least:
            yield Fault(f"{name}.{key}", value, f"must be at least {least}")
    if name == "randomness" and "seed" in section:
        yield Fault("randomness.seed", section["seed"], "the seed of a run is given by --seed, not by its config")


def container_faults(cfg: Mapping[str, Any]) -> Iterable[Fault]:
    """Hooks that do not come in the container that their key stands for."""
    for key, kind in _CONTAINERS.items():
        if cfg.get(key) is not None and not isinstance(cfg[key], kind):
            shape = "a list of hooks" if kind is list else "a mapping of names to hooks"
            yield Fault(key, cfg[key], f"{shape}, each a dict with the key 'type', belongs here")


def evaluation_faults(cfg: Mapping[str, Any], find: Callable[[Any, Any], Any]) -> Iterable[Fault]:
    """What would make the evaluation at the end of a training run fail, after all the work.

    Args:
        cfg: the whole config, plain.
        find: (registry, type) -> class, None where there is none.
    """
    section = cfg.get("evaluation")
    if not isinstance(section, dict) or not section:
        return
    protocols = section.get("protocols") or {}
    if not protocols:
        yield Fault(
            "evaluation.protocols", protocols, "at least one protocol belongs here, such as knn=dict(type='KNN')"
        )
    model = cfg.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    kind = find(BACKBONES, backbone.get("type")) if isinstance(backbone, dict) else None
    for name, protocol in protocols.items() if isinstance(protocols, dict) else ():
        judge = find(PROTOCOLS, protocol.get("type")) if isinstance(protocol, dict) else None
        judges = getattr(judge, "judges", "features")
        own = judges != "features" and protocol.get("dataset")
        needed = getattr(judge, "splits_needed", lambda _: ())(protocol)
        for split in () if own else needed:
            if not section.get(split):
                yield Fault(f"evaluation.{split}", section.get(split), f"the protocol {name!r} needs this data set")
        misfit = getattr(judge, "misfit", None)
        if judge is not None and misfit is not None and kind is not None and (why := misfit(kind)):
            yield Fault(f"evaluation.protocols.{name}", judge.__name__, why)
        if judges == "towers":
            yield from _tower_faults(f"evaluation.protocols.{name}", judge, backbone, kind, find)
            where = f"evaluation.protocols.{name}.dataset" if own else "evaluation.test"
            yield from _caption_faults(where, own or section.get("test"), name, judge, find)
    for place, judge, protocol in _online(cfg, find):
        yield from _tower_faults(place, judge, backbone, kind, find)
        if not protocol.get("dataset"):
            yield from _caption_faults("evaluation.val", section.get("val"), place, judge, find)
    feature = section.get("feature")
    if isinstance(feature, str) and kind is not None and not kind.has_feature(feature):
        choices = kind.feature_choices()
        yield Fault(
            "evaluation.feature", feature, f"{kind.__name__} gives {', '.join(choices)}", nearest(feature, choices)
        )
    if isinstance(section.get("device"), str):
        import torch

        try:
            torch.device(section["device"])
        except RuntimeError:
            yield Fault("evaluation.device", section["device"], "not a device, such as 'cpu', 'cuda' or 'cuda:1'")


def view_faults(cfg: Mapping[str, Any], find: Callable[[Any, Any], Any]) -> Iterable[Fault]:
    """Sizes that the transforms of a data set make and the backbone cannot take: no whole patches, not its record's.

    Args:
        cfg: the whole config, plain, with the defaults of all types filled in.
        find: (registry, type) -> class, None where there is none.
    """
    model = cfg.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    kind = find(BACKBONES, backbone.get("type")) if isinstance(backbone, dict) else None
    if backbone is None or kind is None or not hasattr(kind, "patch_of"):
        return
    patch, record = kind.patch_of(backbone), backbone.get("preprocess")
    wanted = record.get("size") if isinstance(record, dict) and not record.get("resize") else None
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for place, transforms in _transforms(f"{loader}.dataset", (cfg.get(loader) or {}).get("dataset")):
            for number, transform in reversed(list(enumerate(transforms))):
                cls = find(TRANSFORMS, transform.get("type")) if isinstance(transform, dict) else None
                sizes = cls.image_sizes(transform) if cls is not None and hasattr(cls, "image_sizes") else None
                if sizes is None:
                    break  # nobody knows what it makes
                if sizes:  # the last one that sets a size
                    yield from _size_faults(f"{place}.transforms.{number}", transform, sizes, patch, wanted)
                    break


def rate_faults(cfg: Mapping[str, Any]) -> Iterable[Fault]:
    """Data sets of another sample rate than that of the backbone's record: a test set's would stop a run at its end.

    Args:
        cfg: the whole config, plain, with the defaults of all types filled in.
    """
    model = cfg.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    record = backbone.get("preprocess") if isinstance(backbone, dict) else None
    rate = record.get("sample_rate") if isinstance(record, dict) else None
    if rate is None:
        return
    text = f"the backbone's Preprocess record takes model.backbone.preprocess.sample_rate = {rate}"
    loaders, judged = data_sets(cfg)
    for place, dataset in {**loaders, **judged}.items():
        if dataset.get("sample_rate", rate) != rate:
            yield Fault(f"{place}.sample_rate", dataset["sample_rate"], text, (str(rate),))


def split_faults(cfg: Mapping[str, Any], find: Callable[[Any, Any], Any]) -> Iterable[Fault]:
    """Splits of one data set that are cut in different ways, such that what is tested may have been trained on.

    Args:
        cfg: the whole config, plain, with the defaults of all types filled in.
        find: class of a ``type``, ``None`` where it is unknown.
    """
    for sets in data_sets(cfg):
        first: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
        for place, dataset in sets.items():
            cls = find(DATASETS, dataset.get("type"))
            if not getattr(cls, "cut_by", ()) or dataset.get("split") in ("pretrain", "all"):
                continue
            source = tuple(str(dataset.get(key)) for key in ("type", "root", "table", "name"))
            other, given = first.setdefault(source, (place, dataset))
            for key in cls.cut_by:
                if dataset.get(key) != given.get(key):
                    text = f"{other}.{key} = {given.get(key)!r}: give both the same, or what is tested was trained on"
                    yield Fault(f"{place}.{key}", dataset.get(key), text)


def data_sets(cfg: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Configs of the data sets of the loaders, and of those of ``evaluation``, by their place."""
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    found = {f"{name}.dataset": (cfg.get(name) or {}).get("dataset") for name in loaders}
    evaluation = cfg.get("evaluation")
    judged = {f"evaluation.{key}": value for key, value in (evaluation or {}).items()}
    kept = [{place: value for place, value in part.items() if isinstance(value, dict)} for part in (found, judged)]
    return kept[0], kept[1]


def _transforms(place: str, dataset: Any) -> Iterable[tuple[str, Sequence[Any]]]:
    """Transforms of a data set and of those that it is made of, with the place of each."""
    if not isinstance(dataset, dict):
        return
    if isinstance(dataset.get("transforms"), list):
        yield place, dataset["transforms"]
    members = dataset.get("datasets")
    for number, member in enumerate(members if isinstance(members, list) else ()):
        yield from _transforms(f"{place}.datasets.{number}", member)


def _size_faults(
    where: str, transform: Typed, sizes: Mapping[str, tuple[int, int]], patch: tuple[int, int], wanted: Any
) -> Iterable[Fault]:
    for place, (key, size) in enumerate(sizes.items()):
        if place == 0 and wanted is not None and size != _both(wanted):
            text = f"the backbone's Preprocess record takes images of model.backbone.preprocess.size = {_side(wanted)}"
            yield Fault(f"{where}.{key}", transform[key], f"{text}, or of any size with resize=True", (_side(wanted),))
        elif any(side % step for side, step in zip(size, patch, strict=True)):
            pairs = list(zip(size, patch, strict=True))
            near = [[max(step, (side // step + more) * step) for side, step in pairs] for more in (0, 1)]
            text = f"the backbone cuts images into patches of {patch[0]} x {patch[1]} pixels"
            yield Fault(f"{where}.{key}", transform[key], text, tuple(dict.fromkeys(map(_side, near))))


def _both(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _side(size: Any) -> str:
    rows, columns = _both(size)
    return str(rows) if rows == columns else f"({rows}, {columns})"


def _online(cfg: Mapping[str, Any], find: Callable[[Any, Any], Any]) -> Iterable[tuple[str, Any, Typed]]:
    """Protocols of hooks that judge towers while training: place, class, config."""
    hooks = cfg.get("custom_hooks")
    for number, hook in enumerate(hooks if isinstance(hooks, list) else ()):
        protocol = hook.get("protocol") if isinstance(hook, dict) else None
        if isinstance(protocol, dict):
            judge = find(PROTOCOLS, protocol.get("type"))
            if getattr(judge, "judges", "features") == "towers":
                yield f"custom_hooks.{number}.protocol", judge, protocol


def _tower_faults(where: str, judge: Any, backbone: Any, kind: Any, find: Callable[[Any, Any], Any]) -> Iterable[Fault]:
    """A backbone that has no text tower, or gets no tokenizer for it."""
    if kind is None:  # told elsewhere
        return
    name = f"{judge.__name__} judges an image and a text tower"
    if not callable(getattr(kind, "encode_text", None)):
        yield Fault(where, judge.__name__, f"{name}, but the backbone {kind.__name__} has no text tower")
        return
    record = backbone.get("preprocess")
    preprocess = find(PREPROCESSES, record.get("type")) if isinstance(record, dict) else None
    if preprocess is not None and "tokenizer" not in preprocess.field_names():
        text = f"{name}, but {preprocess.__name__} has no tokenizer; ImageTextPreprocess has one"
        yield Fault("model.backbone.preprocess", record["type"], text)


def _caption_faults(where: str, data: Any, name: str, judge: Any, find: Callable[[Any, Any], Any]) -> Iterable[Fault]:
    """A data set without captions for a protocol that reads them."""
    if not judge.reads_captions or not isinstance(data, dict):
        return
    kind = find(DATASETS, data.get("type"))
    if kind is not None and not _captioned(data, find):
        yield Fault(where, data.get("type"), f"the protocol {name!r} reads captions, and {kind.__name__} has none")


def _captioned(data: Mapping[str, Any], find: Callable[[Any, Any], Any]) -> bool:
    """Whether a data set has captions; one of several does where all of them do."""
    kind, members = find(DATASETS, data.get("type")), data.get("datasets")
    if isinstance(members, list):
        return all(isinstance(member, dict) and _captioned(member, find) for member in members)
    return kind is None or bool(getattr(kind, "captioned", False))
