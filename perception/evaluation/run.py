"""One evaluation: every protocol of a config on the trained backbone, its untrained twin and training-free features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.backbones.base import Backbone
from perception.config import config_hash, plain
from perception.errors import ConfigError, PerceptionError, nearest
from perception.evaluation.features import build_dataset, cached_features, extract, undisturbed
from perception.evaluation.protocol import EvaluationError, Features, Outcome, Protocol, Splits
from perception.evaluation.results import RESULT_FILE, Row, print_rows, write_result
from perception.evaluation.stats import binomial_interval
from perception.exporting import build_backbone, weights_hash
from perception.registry import PROTOCOLS

SPLITS = ("train", "val", "test", "all")


def evaluate(
    backbone: Backbone,
    section: Mapping[str, Any],
    seed: int,
    untrained: Backbone | None = None,
    raw: bool = True,
    cache: Path | None = None,
    source: str = "trained",
) -> list[Row]:
    """Run the protocols of an evaluation section.

    Args:
        backbone: the backbone to judge; neither its parameters nor its buffers change.
        section: ``train``, ``val``, ``test`` and ``all``: data sets or their configs, as far as the protocols need
            them; ``protocols``: name -> config or instance; optionally ``feature``, ``batch_size``, ``num_workers``
            and ``device`` (where the protocols compute, by default the CPU).
        seed: seed of the protocols that draw random numbers.
        untrained: the same backbone without training, judged beside it.
        raw: also judge the training-free features of ``backbone.baselines``.
        cache: folder that keeps the features.
        source: what the rows of ``backbone`` are called.

    Returns:
        One row per source and figure: ``protocol``, ``variant``, ``source``, ``metric``, ``value`` (a fraction),
        ``ci95`` (binomial, where the value is a share of samples), ``n``, ``seed``, ``chosen`` (on validation data),
        ``extras`` (further figures), ``settings``, ``dims``, ``sizes`` of the splits, ``unlabelled``,
        ``weights_hash``.
    """
    protocols = build_protocols(section)
    datasets = {name: build_dataset(section[name]) for name in SPLITS if section.get(name) is not None}
    if not datasets:
        raise EvaluationError("the evaluation section names no data: give train, val and test, or all")
    options = {key: section[key] for key in ("batch_size", "num_workers") if section.get(key) is not None}
    feature = section.get("feature")
    rows: list[Row] = []
    with undisturbed():
        found: dict[str, dict[str, Features]] = {}
        hashes: dict[str, str] = {}
        judged = {source: backbone} if untrained is None else {source: backbone, "untrained": untrained}
        for name, model in judged.items():
            hashes[name] = before = weights_hash(model)
            for split, dataset in datasets.items():
                got: dict[str, Features] = {}
                if cache is not None:
                    described = {"data": _described(section[split])}
                    got["backbone"] = cached_features(model, dataset, cache, described, feature, **options)
                extra = raw and name == source
                if cache is None or extra:
                    got |= extract(model, dataset, feature, baselines=extra, embed=cache is None, **options)
                for kind, features in got.items():
                    found.setdefault(name if kind == "backbone" else kind, {})[split] = features
            if weights_hash(model) != before:
                raise PerceptionError(f"evaluating {type(model).__name__} has changed its weights or buffers")
        for name in found:
            splits = Splits(**found[name]).to(section.get("device") or "cpu")
            for label, protocol in protocols.items():
                rows += [
                    {"protocol": label, "source": name, **_row(outcome, splits, seed), "weights_hash": hashes.get(name)}
                    for outcome in protocol.run(splits, seed)
                ]
    return rows


def _described(cfg: Any) -> Any:
    return plain(cfg) if isinstance(cfg, Mapping) else repr(type(cfg))


def _row(outcome: Outcome, splits: Splits, seed: int) -> Row:
    given = {name: getattr(splits, name) for name in SPLITS if getattr(splits, name) is not None}
    judged = splits.test if splits.test is not None else splits.all
    assert judged is not None
    interval = binomial_interval(outcome.value, outcome.n) if outcome.proportion else None
    return {
        "variant": outcome.variant,
        "metric": outcome.metric,
        "value": outcome.value,
        "ci95": list(interval) if interval is not None else None,
        "n": outcome.n,
        "seed": seed,
        "chosen": outcome.chosen,
        "extras": outcome.extras,
        "settings": outcome.settings,
        "dims": judged.x.shape[1],
        "sizes": {name: len(split) for name, split in given.items()},
        "unlabelled": sum(split.unlabelled for split in given.values()),
    }


def build_protocols(section: Mapping[str, Any]) -> dict[str, Protocol]:
    """The protocols of a section by name.

    Raises:
        EvaluationError: there are none.
    """
    configs = section.get("protocols") or {}
    if not configs:
        raise EvaluationError("the evaluation section names no protocols, such as knn=dict(type='KNN')")
    return {name: cfg if isinstance(cfg, Protocol) else PROTOCOLS.build(dict(cfg)) for name, cfg in configs.items()}


def pick_protocols(section: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The section with some of its protocols, or with registered ones by type name and their defaults."""
    own = dict(section.get("protocols") or {})
    picked: dict[str, Any] = {}
    for name in wanted:
        if name in own:
            picked[name] = own[name]
        elif name in PROTOCOLS.names():
            picked[name] = {"type": name}
        else:
            close = nearest(name, [*own, *PROTOCOLS.names()])
            raise ConfigError(
                f"no protocol {name!r}: the config has {', '.join(own) or 'none'}; "
                f"registered are {', '.join(PROTOCOLS.names())}." + (f" Did you mean {close[0]!r}?" if close else "")
            )
    return {**section, "protocols": picked}


def untrained_backbone(model_cfg: Mapping[str, Any], seed: int) -> Backbone:
    """The backbone of a model config as the run of ``seed`` would have started it from scratch."""
    import torch

    cfg = {key: value for key, value in plain(model_cfg["backbone"]).items() if key != "init_from"}
    with undisturbed():
        torch.manual_seed(seed)
        return build_backbone(cfg)


def evaluate_run(
    cfg: Any, backbone: Backbone, seed: int, run_dir: str | Path | None, cache: bool = False, show: bool = True
) -> list[Row]:
    """Run the ``evaluation`` section of a run's config, with the untrained twin and the training-free features.

    Args:
        cfg: the run's config.
        backbone: its trained backbone.
        seed: its seed.
        run_dir: takes ``evaluation.json``, and with ``cache`` the features; ``None`` writes nothing.
        cache: keep the features in the run folder.
        show: print the table.
    """
    section = plain(cfg["evaluation"])
    untrained = untrained_backbone(cfg["model"], seed)
    device = next((p.device for p in backbone.parameters()), None)
    if device is not None:
        untrained.to(device)
    folder = Path(run_dir) / "features" if run_dir is not None and cache else None
    rows = evaluate(backbone, section, seed, untrained, cache=folder)
    if run_dir is not None:
        write_result(Path(run_dir) / RESULT_FILE, rows, config_hash(cfg), section)
    if show:
        print_rows(rows, str(run_dir) if run_dir is not None else "evaluation")
    return rows
