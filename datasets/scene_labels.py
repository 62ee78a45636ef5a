"""What scene-classification sets in their official layouts share: labels, bands by name, reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.logging import print_log

from perception.datasets.caption_records import first_names
from perception.datasets.multispectral import band_places
from perception.errors import ConfigError, DataError, Fault, nearest


def choose_bands(
    wanted: str | Sequence[str], sets: Mapping[str, Sequence[str]], bands: Sequence[str], source: str
) -> tuple[str, ...]:
    """Official names of the bands wanted, in the order asked for.

    Args:
        wanted: the name of a set of bands, or names such as ``B04`` or ``red``.
        sets: names of bands by the name of their set.
        bands: all that there are.
        source: who has them, for messages.

    Raises:
        ConfigError: an unknown set or band, a band named twice, or none.
    """
    if isinstance(wanted, str):
        if wanted not in sets:
            text = f"not a set of bands of {source}; there are {', '.join(sets)}, or give a list of names"
            raise ConfigError([Fault("bands", wanted, text, nearest(wanted, sets))])
        return tuple(sets[wanted])
    try:
        return tuple(bands[place] for place in band_places(wanted, bands, source))
    except DataError as error:
        raise ConfigError([Fault("bands", list(wanted), str(error))]) from error


def check_choice(key: str, value: object, choices: Sequence[object], what: str) -> None:
    """Refuse a ``value`` that is none of ``choices``.

    Args:
        key: the argument.
        value: as given.
        choices: the valid ones.
        what: what they are, as in "a version".

    Raises:
        ConfigError: with the nearest of them.
    """
    if value not in choices:
        names = [str(choice) for choice in choices]
        raise ConfigError([Fault(key, value, f"not {what}; there are {', '.join(names)}", nearest(str(value), names))])


def one_hot_labels(rows: np.ndarray, classes: int, source: str) -> np.ndarray:
    """Class ids (n,) int64 of one-hot rows (n, classes).

    Raises:
        DataError: another shape, or rows that are not a single one among zeros, with their number and the first.
    """
    if rows.ndim != 2 or rows.shape[1] != classes:
        raise DataError(f"{source} has shape {rows.shape}, expected (n, {classes}): one-hot rows")
    ones = rows == 1
    wrong = np.flatnonzero((ones.sum(1) != 1) | ((rows != 0) != ones).any(1))
    if len(wrong):
        text = f"the first is row {wrong[0]}, {rows[wrong[0]].tolist()}"
        raise DataError(f"{source}: {len(wrong)} of {len(rows)} rows are not one-hot; {text}")
    return ones.argmax(1).astype(np.int64)


def multi_hot(names: Sequence[Sequence[str]], classes: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Labels (n, L) uint8 in {0, 1} of samples with several class names each.

    Args:
        names: of every sample.
        classes: L class names in label order.
        sources: what messages call the samples.

    Raises:
        DataError: a name outside ``classes``, with the sample and the nearest class.
    """
    place = {name: column for column, name in enumerate(classes)}
    for source, found in zip(sources, names, strict=True):
        for name in found:
            if name not in place:
                near = nearest(str(name), classes, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"{source} has the label {name!r}, none of the {len(classes)} classes{hint}")
    labels = np.zeros((len(names), len(classes)), dtype=np.uint8)
    rows = np.repeat(np.arange(len(names)), [len(found) for found in names])
    labels[rows, [place[name] for found in names for name in found]] = 1
    return labels


def report_left_out(source: str, left_out: Mapping[str, Sequence[str]], total: int) -> None:
    """Print how many samples were left out, and why; ``left_out`` has their names by reason."""
    for reason, names in left_out.items():
        warn(f"{source}: left out {len(names)} of {total} samples, {reason}: {first_names(names)}")


def warn(text: str) -> None:
    """Print a warning."""
    print_log(text, logger="current", level=30)  # logging.WARNING
