"""One evaluation: every protocol of a config on the trained backbone, its untrained twin and training-free features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.backbones.base import Backbone
from perception.config import config_hash, plain
from perception.errors import ConfigError, PerceptionError, nearest
from perception.evaluation.features import build_dataset, cached_features, extract, undisturbed
from perception.evaluation.overlap import overlap_note
from perception.evaluation.protocol import AnyProtocol, EvaluationError, Features, Outcome, Protocol, Splits
from perception.evaluation.results import RESULT_FILE, Row, print_rows, write_result
from perception.evaluation.stats import binomial_interval
from perception.evaluation.towers import TowerProtocol, data_name, look
from perception.evaluation.whole_backbone import BackboneProtocol
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
    trained_on: Sequence[str] = (),
    pictures: Path | None = None,
) -> list[Row]:
    """Run the protocols of an evaluation section: those that judge features, two towers, or the whole backbone.

    Args:
        backbone: the backbone to judge; neither its parameters nor its buffers change.
        section: ``train``, ``val``, ``test`` and ``all``: data sets or their configs, as far as the protocols need
            them; ``protocols``: name -> config or instance; optionally ``feature``, ``batch_size``, ``num_workers``,
            ``device`` (where the protocols compute, by default the CPU) and ``trained_on`` (corpora that the weights
            have seen, such as those of public ones).
        seed: seed of the protocols that draw random numbers.
        untrained: the same backbone without training, judged beside it.
        raw: also judge the training-free features of ``backbone.baselines``.
        cache: folder that keeps the features.
        source: what the rows of ``backbone`` are called.
        trained_on: public corpora of its training data, for the note about overlapping data sets.
        pictures: folder for the pictures of ``backbone``'s figures; ``None`` draws nothing.

    Returns:
        One row per source and figure: ``protocol``, ``variant``, ``source``, ``metric``, ``value`` (a fraction),
        ``ci95`` (binomial, where the value is a share of samples, else the protocol's own), ``n``, ``seed``, ``chosen``
        (on validation data), ``extras`` (further figures), ``settings``, ``notes``, ``dims``, ``sizes`` of the splits,
        ``unlabelled``, ``weights_hash``. Of protocols that judge towers there are the sources ``chance`` and
        ``ceiling`` besides.
    """
    protocols = build_protocols(section)
    by_kind: dict[str, dict[str, Any]] = {"features": {}, "towers": {}, "backbone": {}}
    for label, protocol in protocols.items():
        by_kind[protocol.judges][label] = protocol
    judged = {source: backbone} if untrained is None else {source: backbone, "untrained": untrained}
    rows: list[Row] = []
    with undisturbed():
        hashes = {name: weights_hash(model) for name, model in judged.items()}
        sets = _DataSets(section)
        if by_kind["features"]:
            rows += _judge_features(by_kind["features"], sets, judged, section, seed, source if raw else None, cache)
        if by_kind["towers"]:
            corpora = (*trained_on, *(section.get("trained_on") or ()))
            rows += _judge_towers(by_kind["towers"], sets, judged, section, seed, {source: corpora}, pictures)
        if by_kind["backbone"]:
            rows += _judge_backbones(by_kind["backbone"], sets, judged, section, seed)
        for name, model in judged.items():
            if weights_hash(model) != hashes[name]:
                raise PerceptionError(f"evaluating {type(model).__name__} has changed its weights or buffers")
    order = {label: position for position, label in enumerate(protocols)}
    rows.sort(key=lambda row: order[row["protocol"]])
    return [{**row, "weights_hash": hashes.get(row["source"])} for row in rows]


class _DataSets:
    """The data sets of a section, each built once."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        self.section = section
        self.built: dict[str, Any] = {}

    def get(self, config: Any) -> Any:
        key = repr(plain(config)) if isinstance(config, Mapping) else f"instance {id(config)}"
        if key not in self.built:
            self.built[key] = build_dataset(config)
        return self.built[key]

    def of(self, label: str, protocol: TowerProtocol | BackboneProtocol) -> Any:
        """The one data set of a protocol: its own, else the test split."""
        config = protocol.dataset if protocol.dataset is not None else self.section.get("test")
        if config is None:
            raise EvaluationError(
                f"{label} needs evaluation.test or a dataset of its own, which the config does not give"
            )
        return self.get(config)

    def splits(self) -> dict[str, Any]:
        found = {name: self.get(self.section[name]) for name in SPLITS if self.section.get(name) is not None}
        if not found:
            raise EvaluationError("the evaluation section names no data: give train, val and test, or all")
        return found


def _judge_features(
    protocols: Mapping[str, Protocol],
    sets: _DataSets,
    judged: Mapping[str, Backbone],
    section: Mapping[str, Any],
    seed: int,
    with_baselines: str | None,
    cache: Path | None,
) -> list[Row]:
    options = {key: section[key] for key in ("batch_size", "num_workers") if section.get(key) is not None}
    feature = section.get("feature")
    found: dict[str, dict[str, Features]] = {}
    for name, model in judged.items():
        for split, dataset in sets.splits().items():
            got: dict[str, Features] = {}
            if cache is not None:
                described = {"data": _described(section[split])}
                got["backbone"] = cached_features(model, dataset, cache, described, feature, **options)
            extra = name == with_baselines
            if cache is None or extra:
                got |= extract(model, dataset, feature, baselines=extra, embed=cache is None, **options)
            for kind, features in got.items():
                found.setdefault(name if kind == "backbone" else kind, {})[split] = features
    rows = []
    for name in found:
        splits = Splits(**found[name]).to(section.get("device") or "cpu")
        for label, protocol in protocols.items():
            outcomes = protocol.run(splits, seed)
            rows += [{"protocol": label, "source": name, **_row(o, seed), **_sizes(splits)} for o in outcomes]
    return rows


def _judge_towers(
    protocols: Mapping[str, TowerProtocol],
    sets: _DataSets,
    judged: Mapping[str, Backbone],
    section: Mapping[str, Any],
    seed: int,
    trained_on: Mapping[str, Sequence[str]],
    pictures: Path | None,
) -> list[Row]:
    options = {key: section[key] for key in ("batch_size", "num_workers") if section.get(key) is not None}
    rows = []
    groups: dict[int, tuple[Any, dict[str, TowerProtocol]]] = {}
    for label, protocol in protocols.items():
        dataset = sets.of(label, protocol)
        groups.setdefault(id(dataset), (dataset, {}))[1][label] = protocol
    for dataset, some in groups.values():
        for name, model in judged.items():
            towers = look(model, dataset, **options, device=section.get("device"))
            scenes = towers.scenes
            known = trained_on.get(name, ())
            note = overlap_note(known, scenes.sources, scenes.name)
            shared = {
                "dims": towers.images.shape[1],
                "sizes": {"test": len(scenes)},
                "unlabelled": int((scenes.label < 0).sum()),
            }
            for label, protocol in some.items():
                found = {name: protocol.run(towers, seed)}
                if name == next(iter(judged)):
                    found |= protocol.references(scenes)
                    if pictures is not None:
                        protocol.draw(towers, pictures, label)
                for origin, outcomes in found.items():
                    for outcome in outcomes:
                        row = {"protocol": label, "source": origin, **_row(outcome, seed), **shared}
                        row["variant"] = ": ".join(filter(None, (protocol.label(scenes), outcome.variant)))
                        if origin == name:
                            row["notes"] = [*row["notes"], *note]
                        else:
                            row |= {"ci95": None, "proportion": False}  # a bound has no sampling error
                        rows.append(row)
    return rows


def _judge_backbones(
    protocols: Mapping[str, BackboneProtocol],
    sets: _DataSets,
    judged: Mapping[str, Backbone],
    section: Mapping[str, Any],
    seed: int,
) -> list[Row]:
    options = {key: section[key] for key in ("batch_size", "num_workers") if section.get(key) is not None}
    rows = []
    for label, protocol in protocols.items():
        dataset = sets.of(label, protocol)
        shared = {"sizes": {"test": len(dataset)}, "unlabelled": 0}
        for name, model in judged.items():
            for outcome in protocol.run(model, dataset, seed, **options):
                row = {"protocol": label, "source": name, **_row(outcome, seed), **shared, "dims": model.embed_dims}
                row["variant"] = ": ".join(filter(None, (data_name(dataset), outcome.variant)))
                rows.append(row)
    return rows


def _described(cfg: Any) -> Any:
    return plain(cfg) if isinstance(cfg, Mapping) else repr(type(cfg))


def _row(outcome: Outcome, seed: int) -> Row:
    interval = binomial_interval(outcome.value, outcome.n) if outcome.proportion else outcome.interval
    return {
        "variant": outcome.variant,
        "metric": outcome.metric,
        "value": outcome.value,
        "ci95": list(interval) if interval is not None else None,
        "proportion": outcome.proportion,
        "n": outcome.n,
        "seed": seed,
        "chosen": outcome.chosen,
        "extras": outcome.extras,
        "settings": outcome.settings,
        "notes": list(outcome.notes),
    }


def _sizes(splits: Splits) -> Row:
    given = {name: getattr(splits, name) for name in SPLITS if getattr(splits, name) is not None}
    judged = splits.test if splits.test is not None else splits.all
    assert judged is not None
    return {
        "dims": judged.x.shape[1],
        "sizes": {name: len(split) for name, split in given.items()},
        "unlabelled": sum(split.unlabelled for split in given.values()),
    }


def build_protocols(section: Mapping[str, Any]) -> dict[str, AnyProtocol]:
    """The protocols of a section by name.

    Raises:
        EvaluationError: there are none.
    """
    configs = section.get("protocols") or {}
    if not configs:
        raise EvaluationError("the evaluation section names no protocols, such as knn=dict(type='KNN')")
    return {name: cfg if isinstance(cfg, AnyProtocol) else PROTOCOLS.build(dict(cfg)) for name, cfg in configs.items()}


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
    cfg: Any,
    backbone: Backbone,
    seed: int,
    run_dir: str | Path | None,
    cache: bool = False,
    show: bool = True,
    trained_on: Sequence[str] = (),
) -> list[Row]:
    """Run the ``evaluation`` section of a run's config, with the untrained twin and the training-free features.

    Args:
        cfg: the run's config.
        backbone: its trained backbone.
        seed: its seed.
        run_dir: takes ``evaluation.json``, ``pictures/`` and with ``cache`` the features; ``None`` writes nothing.
        cache: keep the features in the run folder.
        show: print the table.
        trained_on: public corpora of the training data.
    """
    section = plain(cfg["evaluation"])
    untrained = untrained_backbone(cfg["model"], seed)
    device = next((p.device for p in backbone.parameters()), None)
    if device is not None:
        untrained.to(device)
    folder = Path(run_dir) / "features" if run_dir is not None and cache else None
    pictures = Path(run_dir) / "pictures" if run_dir is not None else None
    rows = evaluate(backbone, section, seed, untrained, cache=folder, trained_on=trained_on, pictures=pictures)
    if run_dir is not None:
        write_result(Path(run_dir) / RESULT_FILE, rows, config_hash(cfg), section)
    if show:
        print_rows(rows, str(run_dir) if run_dir is not None else "evaluation")
    return rows
