"""Figures of several languages as one: every language judged alone, the mean as the headline, the worst beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perception.evaluation.protocol import Outcome

WORST = "worst language"


def over_languages(by_language: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    """Rows of a multilingual evaluation.

    Args:
        by_language: language -> its figures, the headline first, the same ones in every language.

    Returns:
        The outcomes of a single language as they are. Of several: the mean over the languages of every figure; then
        the headline of each language, with its other figures in ``extras`` and the language as the variant; then that
        of the worst language, which ``extras`` names.
    """
    if len(by_language) == 1:
        return list(next(iter(by_language.values())))
    columns = list(zip(*by_language.values(), strict=True))
    rows = [_mean(list(by_language), column) for column in columns]
    for language, outcomes in by_language.items():
        rows.append(_named(outcomes, language))
    worst = min(by_language, key=lambda language: by_language[language][0].value)
    head = _named(by_language[worst], WORST)
    # Chosen among several, so the interval of one sample of images does not apply.
    rows.append(replace(head, extras={**head.extras, "language": worst}, proportion=False, notes=()))
    return rows


def _mean(languages: Sequence[str], column: Sequence[Outcome]) -> Outcome:
    values = [outcome.value for outcome in column]
    first = column[0]
    extras: dict[str, Any] = {
        key: sum(outcome.extras[key] for outcome in column) / len(column)
        for key, value in first.extras.items()
        if isinstance(value, float) and all(isinstance(outcome.extras.get(key), float) for outcome in column)
    }
    extras["languages"] = dict(zip(languages, values, strict=True))
    extras["spread"] = max(values) - min(values)
    return replace(first, value=sum(values) / len(values), extras=extras, proportion=False, notes=())


def _named(outcomes: Sequence[Outcome], variant: str) -> Outcome:
    others = {outcome.metric: outcome.value for outcome in outcomes[1:]}
    return replace(outcomes[0], variant=variant, extras={**outcomes[0].extras, **others})
