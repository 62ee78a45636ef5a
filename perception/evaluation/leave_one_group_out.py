"""Linear probe on groups that were never seen, such as people, speakers or cameras, each left out in turn.

Samples of one group depend on each other: a random split puts one person on both sides, and the figure then tells how
well that person is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception.evaluation.linear_lbfgs import PENALTIES, LogisticRegression
from perception.evaluation.protocol import EvaluationError, Features, Outcome, Protocol, Splits, as_list, positive
from perception.registry import PROTOCOLS


@PROTOCOLS.register_module()
class LeaveOneGroupOut(Protocol):
    """Accuracy of logistic regression over all samples of ``evaluation.all``, each judged without its group.

    The data set has ``groups``, as ``Weizmann4`` (people), ``RailWagon4`` (camera locations), ``VideoTable``, ``FSDD``
    and ``SpeechTable`` (speakers) have. Everything is fitted to the other groups alone, means and deviations, too. Of
    several penalties the one is taken that is best when each of those groups is left out in turn once more. There is no
    binomial interval: samples of a group are not independent.

    Args:
        penalty: candidates, as in ``LinearLBFGS``.
        max_iter: L-BFGS iterations per penalty.
        standardise: shift and scale every column by the statistics of the other groups.
    """

    needs = ("all",)

    def __init__(
        self, penalty: float | Sequence[float] = PENALTIES, max_iter: int = 200, standardise: bool = True
    ) -> None:
        # From strong to weak: each solution is a good start for the next.
        self.penalties = sorted(as_list(penalty), reverse=True)
        self.settings: dict[str, Any] = {"max_iter": max_iter, "standardise": standardise}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Positive penalties: without one the problem may have no solution."""
        yield from positive(cfg, "penalty", "max_iter")

    def run(self, data: Splits, seed: int) -> list[Outcome]:
        """Share of right samples, that of every group among the extras.

        Raises:
            EvaluationError: no groups, or not enough of them: two, with several penalties three.
        """
        every = data.need("all", "LeaveOneGroupOut").canonical()
        if every.groups is None:
            raise EvaluationError("LeaveOneGroupOut needs groups, which the data set of evaluation.all does not have")
        least = 3 if len(self.penalties) > 1 else 2
        if len(every.groups.unique()) < least:
            raise EvaluationError(
                f"LeaveOneGroupOut needs at least {least} groups with {len(self.penalties)} penalties, "
                f"evaluation.all has {len(every.groups.unique())}"
            )
        classes = data.classes()
        right = torch.zeros(len(every), dtype=torch.bool, device=every.y.device)
        chosen, shares = [], {}
        for group, rest, left_out in _turns(every):
            penalty = self._choice(rest, classes)
            model = LogisticRegression(rest.x, rest.y, classes, **self.settings).fit(penalty)
            hits = model.predict(left_out.x) == left_out.y
            right[every.groups == group] = hits
            chosen.append(penalty)
            shares[str(group)] = float(hits.double().mean())
        value = float(right.double().mean())
        found = {} if len(self.penalties) == 1 else {"penalty": chosen}
        settings = {"penalty": self.penalties, "standardise": self.settings["standardise"]}
        return [Outcome("accuracy", value, len(every), found, {"groups": shares}, settings, proportion=False)]

    def _choice(self, features: Features, classes: int) -> float:
        """The penalty with most hits over the groups left out in turn, the stronger of equals."""
        if len(self.penalties) == 1:
            return float(self.penalties[0])
        hits = np.zeros(len(self.penalties), dtype=np.int64)
        for _, rest, left_out in _turns(features):
            model = LogisticRegression(rest.x, rest.y, classes, **self.settings)
            hits += [int((model.fit(p).predict(left_out.x) == left_out.y).sum()) for p in self.penalties]
        return float(self.penalties[int(hits.argmax())])


def _turns(features: Features) -> Iterator[tuple[int, Features, Features]]:
    """Every group's number, the rows of the others, and its own."""
    groups = features.groups
    assert groups is not None
    for group in groups.unique().tolist():
        mine: Tensor = groups == group
        yield group, features.take((~mine).nonzero()[:, 0]), features.take(mine.nonzero()[:, 0])
