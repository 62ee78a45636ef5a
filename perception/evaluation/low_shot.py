"""Low-shot probe: logistic regression on a few labelled training rows per class, over several draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.evaluation.linear_lbfgs import PENALTIES, LinearLBFGS, LogisticRegression
from perception.evaluation.protocol import (
    EvaluationError,
    Features,
    Outcome,
    Protocol,
    Splits,
    accuracy,
    as_list,
    positive,
)
from perception.evaluation.stats import mean_std
from perception.registry import PROTOCOLS


def draw(labels: np.ndarray, index: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Rows of ``per_class`` samples of every class.

    The draw depends on the labels and the positions in the data set, not on the order of the rows, so it is the same
    list for every backbone.

    Args:
        labels: ``(n,)`` class ids.
        index: ``(n,)`` positions in the data set.
        per_class: samples per class.
        seed: seed of the draw.

    Returns:
        Row numbers, class by class.
    """
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise EvaluationError(
                f"low-shot: class {label} has {len(members)} training rows, {per_class} are asked for"
            )
        members = members[np.argsort(index[members], kind="stable")]
        random = np.random.default_rng([seed, per_class, int(label)])
        rows.append(random.permutation(members)[:per_class])
    return np.concatenate(rows)


@PROTOCOLS.register_module()
class LowShot(Protocol):
    """Mean accuracy over draws, one figure for each number of samples per class.

    Args:
        per_class: labelled samples per class.
        seeds: seeds of the draws; at least three, because single draws differ by points.
        penalty: candidates for the L2 penalty; of several the best on the validation split is used, for each draw.
        index_file: ``.npz`` with published index lists instead of our own draws; they are positions in the training
            data set.
        index_key: name of a list inside it, with ``{n}`` and ``{seed}`` filled in.
    """

    chosen_on_val = ("penalty",)

    def __init__(
        self,
        per_class: int | Sequence[int] = (5, 25, 50),
        seeds: Sequence[int] = (0, 1, 2),
        penalty: float | Sequence[float] = PENALTIES,
        index_file: str | None = None,
        index_key: str = "lowshot_{n}_seed{seed}",
    ) -> None:
        if len(seeds) < 3:
            raise EvaluationError(f"low-shot needs at least 3 draws, got seeds = {list(seeds)}")
        self.per_class, self.seeds = as_list(per_class), list(seeds)
        self.penalty = as_list(penalty)
        self.index_file, self.index_key = index_file, index_key

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive counts, three draws, an index file that exists."""
        yield from positive(cfg, "per_class", "penalty")
        seeds = cfg.get("seeds", (0, 1, 2))
        if isinstance(seeds, (list, tuple)) and len(seeds) < 3:
            yield "seeds", f"needs at least 3 draws, got {len(seeds)}"
        file = cfg.get("index_file")
        if file is not None and not Path(file).expanduser().is_file():
            yield "index_file", "does not exist"

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """One outcome for each number of samples per class."""
        train, test = data.need("train", "LowShot"), data.need("test", "LowShot")
        classes = data.classes()
        outcomes = []
        for count in self.per_class:
            values, penalties = [], []
            chosen: dict[str, Any] = {}
            for draw_seed in self.seeds:
                few = train.take(self._rows(train, count, draw_seed)).canonical()
                if len(self.penalty) == 1:
                    model = LogisticRegression(few.x, few.y, classes).fit(self.penalty[0])
                else:
                    val = data.need("val", "LowShot with several penalties")
                    model, chosen = LinearLBFGS(self.penalty).select(few, val, classes)
                values.append(accuracy(model.predict(test.x), test.y))
                penalties.append(chosen.get("penalty", self.penalty[0]))
            mean, std = mean_std(values)
            outcomes.append(
                Outcome(
                    "accuracy",
                    mean,
                    len(test),
                    {"penalty": penalties} if len(self.penalty) > 1 else {},
                    {"std": std, "values": values, "draw_seeds": self.seeds},
                    settings={"classifier": "LogisticRegression", "penalty": self.penalty},
                    variant=f"{count} per class",
                )
            )
        return outcomes

    def _rows(self, train: Features, count: int, seed: int) -> torch.Tensor:
        index = train.index.cpu().numpy()
        if self.index_file is None:
            rows = draw(train.y.cpu().numpy(), index, count, seed)
        else:
            wanted = self._published(count, seed)
            row_of = {int(position): row for row, position in enumerate(index)}
            absent = [int(position) for position in wanted if int(position) not in row_of]
            if absent:
                raise EvaluationError(
                    f"low-shot: {self.index_file} names rows {absent[:5]} that are not in the train split"
                )
            rows = np.array([row_of[int(position)] for position in wanted])
        return torch.from_numpy(rows).to(train.y.device)

    def _published(self, count: int, seed: int) -> np.ndarray:
        assert self.index_file is not None
        key = self.index_key.format(n=count, seed=seed)
        try:
            with np.load(Path(self.index_file).expanduser(), allow_pickle=False) as lists:
                if key not in lists.files:
                    raise EvaluationError(f"low-shot: {self.index_file} has no list {key!r}; it has {lists.files}")
                return lists[key]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"low-shot: {self.index_file} is not a readable npz: {error}") from error
