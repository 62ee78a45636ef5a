"""Trees on frozen features, and on raw tables with their holes: what the field beats tables with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from perception.errors import ConfigError, Fault, not_among
from perception.evaluation.features import batches
from perception.evaluation.protocol import EvaluationError, Outcome, Protocol, Splits, positive
from perception.registry import PROTOCOLS
from perception.transforms.table_image_preprocess import TableImagePreprocess

INPUTS = ("table", "pixels", "pixels + table", "mask")
MODELS = ("forest", "boosting")
_BATCH = 500
_BINS = 255  # categories that scikit-learn's boosting takes


@PROTOCOLS.register_module()
class RandomForest(Protocol):
    """Accuracy of scikit-learn's random forest on the features, with its defaults but for the number of trees.

    Args:
        trees: number of trees.
    """

    def __init__(self, trees: int = 300) -> None:
        self.trees = trees

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive number of trees."""
        yield from positive(cfg, "trees")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """One outcome; the macro-F1 is among the extras."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.metrics import f1_score

        train, test = data.need("train", "RandomForest").canonical(), data.need("test", "RandomForest")
        forest = RandomForestClassifier(self.trees, random_state=seed)
        found = forest.fit(train.x.cpu().numpy(), train.y.cpu().numpy()).predict(test.x.cpu().numpy())
        truth = test.y.cpu().numpy()
        extras = {"macro_f1": float(f1_score(truth, found, average="macro"))}
        return [Outcome("accuracy", float((found == truth).mean()), len(truth), {}, extras, {"trees": self.trees})]


def raw_inputs(data: Any, record: TableImagePreprocess) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What trees may look at, of every labelled row of a tabular data set, and the labels (n,).

    ``codes`` (n, N) has codes and standard scores as the record orders them, NaN where a cell is missing. ``table``
    has a column for every code instead, all 0 where the cell is missing. ``pixels`` (n, 256 C) are normalised, on a
    grid of at most 16 x 16. ``mask`` (n, N) says what is missing and nothing else.

    Raises:
        EvaluationError: the data set has no labels.
    """
    parts: dict[str, list[np.ndarray]] = {}
    labels = []
    for raw in batches(data, _BATCH, 0):
        if "label" not in raw:
            raise EvaluationError(f"{type(data).__name__} gives no labels, so it cannot be evaluated on")
        batch = record(raw)
        found = {"pixels": record.baselines({"image": batch["image"]})["raw"].numpy()} if "image" in batch else {}
        if "table" in batch:
            gone = batch["table_missing"]
            codes = batch["table"].masked_fill(gone, float("nan")).numpy()
            shown = record.one_hot(batch["table"], gone).numpy()
            split = len(record.categories)
            table = np.concatenate([shown[:, : shown.shape[1] - record.continuous], codes[:, split:]], axis=1)
            found |= {"codes": codes, "table": table, "mask": gone.float().numpy()}
        if {"pixels", "table"} <= set(found):
            found["pixels + table"] = np.concatenate([found["pixels"], found["table"]], axis=1)
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
        labels.append(raw["label"].numpy())
    y = np.concatenate(labels)
    known = np.isfinite(y) if y.dtype.kind == "f" else y >= 0
    return {name: np.concatenate(value)[known] for name, value in parts.items()}, y[known]


def tree_baselines(
    train: Any,
    test: Any,
    record: TableImagePreprocess,
    inputs: Sequence[str] = INPUTS,
    models: Sequence[str] = MODELS,
    trees: int = 300,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Random forest and histogram gradient boosting (scikit-learn), holes as NaN, on tables, pixels and both.

    Args:
        train: data set with labels to fit to.
        test: data set to judge on.
        record: the encoder's, fitted to the same training rows.
        inputs: some of ``INPUTS``.
        models: some of ``MODELS``. Boosting gets codes as categories where it looks at the table alone.
        trees: of the forest; boosting takes scikit-learn's defaults.
        seed: of both.

    Returns:
        One row each: ``model``, ``input``, ``metric`` (``accuracy``, or ``r2`` of numbers), ``value``, ``macro_f1`` of
        classes, ``n``.
    """
    for name, given, known in (("inputs", inputs, INPUTS), ("models", models, MODELS)):
        wrong = [value for value in given if value not in known]
        if wrong:
            raise ConfigError([Fault(name, wrong[0], not_among(wrong[0], known))])
    (x_train, y_train), (x_test, y_test) = raw_inputs(train, record), raw_inputs(test, record)
    rows = []
    for source in (name for name in inputs if name in x_train):
        for model in models:
            judge = _judge(model, trees, seed, y_train.dtype.kind == "f")
            seen = source
            if model == "boosting" and source == "table" and max(record.categories, default=256) <= _BINS:
                judge.set_params(categorical_features=list(range(len(record.categories))))
                seen = "codes"
            found = judge.fit(x_train[seen], y_train).predict(x_test[seen])
            rows.append({"model": model, "input": source, **_score(found, y_test), "n": len(y_test)})
    return rows


def _judge(model: str, trees: int, seed: int, number: bool) -> Any:
    from sklearn import ensemble

    if model == "forest":
        kind = ensemble.RandomForestRegressor if number else ensemble.RandomForestClassifier
        return kind(n_estimators=trees, random_state=seed)
    boosting = ensemble.HistGradientBoostingRegressor if number else ensemble.HistGradientBoostingClassifier
    return boosting(random_state=seed)


def _score(found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import f1_score, r2_score

    if truth.dtype.kind == "f":
        return {"metric": "r2", "value": float(r2_score(truth, found))}
    macro = float(f1_score(truth, found, average="macro"))
    return {"metric": "accuracy", "value": float((found == truth).mean()), "macro_f1": macro}
