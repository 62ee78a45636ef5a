"""What scene-classification sets in their official layouts share: labels, lists, bands by name, reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def label_sums(
    pairs: Sequence[Sequence[tuple[str, float]]], classes: Sequence[str], sources: Sequence[str]
) -> np.ndarray:
    """What samples with several labels each hold of every class: (n, L) float64, 0 for what they do not have.

    Args:
        pairs: class names and values of every sample; the values of a name that comes twice add up.
        classes: L class names in label order.
        sources: what messages call the samples.

    Raises:
        DataError: a name outside ``classes``, with the sample and the nearest class.
    """
    place = {name: column for column, name in enumerate(classes)}
    for source, found in zip(sources, pairs, strict=True):
        for name, _ in found:
            if name not in place:
                near = nearest(str(name), classes, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"{source} has the label {name!r}, none of the {len(classes)} classes{hint}")
    sums = np.zeros((len(pairs), len(classes)))
    rows = np.repeat(np.arange(len(pairs)), [len(found) for found in pairs])
    columns = np.array([place[name] for found in pairs for name, _ in found], dtype=np.int64)
    np.add.at(sums, (rows, columns), [value for found in pairs for _, value in found])
    return sums


def read_names(path: Path) -> list[str]:
    """Names of a list, one a line; of a table with commas the first column.

    Raises:
        DataError: the list cannot be read or is empty, names something twice or in another folder.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {str(path)!r} cannot be read: {error}") from error
    names = [name for line in lines if (name := line.partition(",")[0].strip())]
    if not names:
        raise DataError(f"list {str(path)!r} is empty")
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise DataError(f"list {str(path)!r} must hold names without folders, not {outside[0]!r}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"list {str(path)!r} has {len(twice)} names more than once: {first_names(twice)}")
    return names


def report_left_out(source: str, left_out: Mapping[str, Sequence[str]], total: int) -> None:
    """Print how many samples were left out, and why; ``left_out`` has their names by reason."""
    for reason, names in left_out.items():
        warn(f"{source}: left out {len(names)} of {total} samples, {reason}: {first_names(names)}")


def warn(text: str) -> None:
    """Print a warning."""
    print_log(text, logger="current", level=30)  # logging.WARNING
