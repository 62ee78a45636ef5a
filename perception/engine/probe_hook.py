"""A probe that watches the backbone while it trains, for any modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook

from perception.config import plain
from perception.engine.console import say
from perception.engine.randomness import isolated_rng
from perception.errors import ConfigError
from perception.evaluation.features import build_dataset, extract
from perception.evaluation.protocol import AnyProtocol, Outcome, Protocol, Splits
from perception.evaluation.towers import TowerProtocol, look, require_text_tower
from perception.evaluation.whole_backbone import BackboneProtocol
from perception.registry import HOOKS, PROTOCOLS
from perception.signatures import at_least


@HOOKS.register_module()
class OnlineProbe(Hook):
    """Every ``interval`` epochs judges the backbone on the train and validation splits of the evaluation section.

    The figure is logged as ``probe/<name>``. It is a monitor: the test split is never touched, and what a protocol
    chooses is chosen on the very split that is shown. Protocols that judge no features look at the validation split
    alone, or at the data set that it names. Training goes on exactly as without the hook: random states and training
    flags are restored, and no parameter or buffer changes.

    Args:
        interval: epochs between probes (steps with ``by_epoch=False``).
        protocol: config of the protocol.
        name: name in the log, by default the protocol's type in lower case.
        by_epoch: count epochs, not steps.
        max_samples: use no more than this many samples of each split, evenly spaced; ``None`` uses all.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int = 10,
        protocol: Mapping[str, Any] | None = None,
        name: str | None = None,
        by_epoch: bool = True,
        max_samples: int | None = None,
    ) -> None:
        config = dict(protocol or {"type": "KNN"})
        self.interval, self.by_epoch, self.max_samples = interval, by_epoch, max_samples
        self.protocol: AnyProtocol = PROTOCOLS.build(config)
        self.name = name or type(self.protocol).__name__.lower()
        self.datasets: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive interval."""
        return at_least(cfg, 1, "interval", "max_samples")

    def before_train(self, runner: Any) -> None:
        """Build the data sets, so that a fault shows before the first step."""
        section = plain(runner.cfg.get("evaluation") or {})
        keys = ["batch_size", "num_workers"]
        if isinstance(self.protocol, TowerProtocol):
            require_text_tower(runner.bare_model.backbone)
        if isinstance(self.protocol, TowerProtocol | BackboneProtocol):
            configs = {"val": self.protocol.dataset or section.get("val")}
        else:
            configs = {split: section.get(split) for split in ("train", "val")}
            keys.append("feature")
        missing = [split for split, config in configs.items() if not config]
        if missing:
            raise ConfigError(f"OnlineProbe needs {' and '.join(f'evaluation.{name}' for name in missing)}")
        if runner.rank == 0:
            with isolated_rng():
                self.datasets = {split: build_dataset(config) for split, config in configs.items()}
        self.options = {key: section[key] for key in keys if section.get(key) is not None}

    def after_train_epoch(self, runner: Any) -> None:
        """Probe if as many epochs are complete."""
        if self.by_epoch and runner.epoch % self.interval == 0:
            self.probe(runner)

    def after_step(self, runner: Any) -> None:
        """Probe if as many steps are complete."""
        if not self.by_epoch and runner.iter % self.interval == 0:
            self.probe(runner)

    def probe(self, runner: Any) -> float | None:
        """Judge the backbone now; the other ranks wait at their next common step."""
        if runner.rank != 0:
            runner.log_scalars({})  # all ranks call it, the first one's values count
            return None
        with isolated_rng():
            outcomes = self._judge(runner.bare_model.backbone, runner.seed)
        # The headline of each variant has the plain name; its other figures are told apart by their metric.
        values: dict[str, float] = {}
        for outcome in outcomes:
            words = [outcome.variant] if outcome.variant else []
            name = _log_name(self.name, words)
            values[name if name not in values else _log_name(self.name, [*words, outcome.metric])] = outcome.value
        runner.log_scalars(values)
        shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in values.items())
        say(f"epoch {runner.epoch}, step {runner.iter}: {shown} on validation data")
        return outcomes[0].value

    def _judge(self, backbone: Any, seed: int) -> list[Outcome]:
        sets = {name: _thinned(dataset, self.max_samples) for name, dataset in self.datasets.items()}
        if isinstance(self.protocol, TowerProtocol):
            return self.protocol.run(look(backbone, sets["val"], **self.options), seed)
        if isinstance(self.protocol, BackboneProtocol):
            return self.protocol.run(backbone, sets["val"], seed, **self.options)
        assert isinstance(self.protocol, Protocol)
        splits = {name: extract(backbone, dataset, **self.options)["backbone"] for name, dataset in sets.items()}
        return self.protocol.run(Splits(train=splits["train"], val=splits["val"], test=splits["val"]), seed)


def _log_name(name: str, words: Sequence[str]) -> str:
    return "/".join(["probe", name, *(word.replace(" ", "_") for word in words)])


class _Thinned:
    """Evenly spaced samples of a data set that gives whole batches; whatever else it tells is passed on."""

    full_batch = False

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset = dataset
        step = len(dataset) / count
        self.positions = [int(i * step) for i in range(count)]

    def __len__(self) -> int:
        return len(self.positions)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitems__(self, keys: list[int]) -> Any:
        return self.dataset.__getitems__([self.positions[key] for key in keys])


def _thinned(dataset: Any, count: int | None) -> Any:
    small = count is None or getattr(dataset, "full_batch", False) or len(dataset) <= count
    return dataset if small else _Thinned(dataset, int(count))  # type: ignore[arg-type]
