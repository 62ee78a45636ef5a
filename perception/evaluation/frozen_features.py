"""Frozen features under several image sizes and normalisations, judged by nearest neighbours and a linear probe.

"Revisiting pre-trained remote sensing model benchmarks: resizing and normalization matters" (Corley, Robinson, Dodhia,
Lavista Ferres, Najafirad, 2024): many gains of domain-specific weights vanish once the other networks get images of the
size they were trained at, normalised as they need; and features that nothing trains are strong. A cell of the grid is
one encoder, one image size and one normalisation; every cell gives the same protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from perception.errors import ConfigError, not_among
from perception.evaluation.features import batches, extract, undisturbed
from perception.evaluation.frozen_encoders import Encoder
from perception.evaluation.protocol import EvaluationError, Features, Protocol, Splits
from perception.evaluation.results import Row
from perception.evaluation.stats import binomial_interval
from perception.registry import PROTOCOLS
from perception.transforms.image_preprocess import ImagePreprocess, band_order

NORMALISATIONS = ("divide", "standardization", "minmax", "for_seco", "own")
"""Names of the benchmark's scripts; ``own`` is the record that an encoder's weights were made with."""

JUDGES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "knn": ({"type": "KNN", "variant": "resize-benchmark"},) * 2,
    "knn_scaled": ({"type": "KNN", "variant": "resize-benchmark", "standardise": True},) * 2,
    "linear": ({"type": "LinearLBFGS", "C": 0.316, "max_iter": 1000}, {"type": "MultiLabelLBFGS", "C": 0.316}),
    "linear_raw": (
        {"type": "LinearLBFGS", "C": 0.316, "max_iter": 1000, "standardise": False},
        {"type": "MultiLabelLBFGS", "C": 0.316, "standardise": False},
    ),
}
"""Protocols by column: for data with one class a sample and with several labels. ``linear`` standardises features."""

_SECO_SCALE = 2750.0
_BATCH = 200


@dataclass(frozen=True)
class BandStatistics:
    """What a training split's values are like, band by band, in raw units.

    Attributes:
        bands: names.
        mean: over all pixels of all images.
        std: likewise, divided by their number.
        low: least value.
        high: largest value.
        size: (height, width) of the images.
        dtype: of the raw values, as in ``uint8``.
        images: number of images.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    size: tuple[int, int]
    dtype: str
    images: int

    def of(self, bands: Sequence[str]) -> BandStatistics:
        """Those of ``bands``, found by name, in that order."""
        order = band_order(bands, self.bands)
        mean, std, low, high = ([values[i] for i in order] for values in (self.mean, self.std, self.low, self.high))
        return replace(self, bands=tuple(bands), mean=tuple(mean), std=tuple(std), low=tuple(low), high=tuple(high))


def band_statistics(dataset: Any, batch_size: int = _BATCH) -> BandStatistics:
    """Statistics of all images of a data set, in one pass and float64.

    Raises:
        EvaluationError: images of different sizes, or a value that is not finite.
    """
    count, images, total, square = 0, 0, torch.tensor(0.0), torch.tensor(0.0)
    low = high = shape = bands = None
    dtype = ""
    for batch in batches(dataset, batch_size, 0):
        pixels = batch["image"]
        if not isinstance(pixels, torch.Tensor) or (shape or pixels.shape[1:]) != pixels.shape[1:]:
            raise EvaluationError(f"{type(dataset).__name__} has images of different sizes: give it size=")
        shape, dtype = pixels.shape[1:], str(pixels.dtype).removeprefix("torch.")
        bands = bands or _names(batch, dataset, shape[0])
        pixels = pixels.double().transpose(0, 1).flatten(1)  # (C, n)
        if not pixels.isfinite().all():
            raise EvaluationError(f"{type(dataset).__name__} has values that are not finite among images {images} on")
        mean, n = pixels.mean(1), pixels.shape[1]
        # Sums about the mean of a batch, joined by Chan's rule: sums of squares would cancel.
        gap = mean - total
        square = square + (pixels - mean[:, None]).square().sum(1) + gap.square() * (count * n / (count + n))
        total = total + gap * (n / (count + n))
        count, images = count + n, images + len(batch["image"])
        low = pixels.amin(1) if low is None else torch.minimum(low, pixels.amin(1))
        high = pixels.amax(1) if high is None else torch.maximum(high, pixels.amax(1))
    if low is None or high is None or shape is None or bands is None:
        raise EvaluationError(f"{type(dataset).__name__} has no images")
    return BandStatistics(
        bands,
        mean=tuple(total.tolist()),
        std=tuple((square / count).sqrt().tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        size=(int(shape[1]), int(shape[2])),
        dtype=dtype,
        images=images,
    )


def _names(batch: Mapping[str, Any], dataset: Any, count: int) -> tuple[str, ...]:
    """Names of a batch's bands: its own, the data set's, or what their number suggests."""
    meta = batch.get("meta")
    told = (meta.get("bands") if isinstance(meta, Mapping) else None) or getattr(dataset, "bands", None)
    if told is not None and len(told) == count:
        return tuple(str(name) for name in told)
    return {1: ("grey",), 3: ("red", "green", "blue")}.get(count, tuple(f"band-{i}" for i in range(count)))


def normalisation(
    kind: str,
    statistics: BandStatistics,
    size: int | Sequence[int],
    divisor: float | None = None,
    interpolation: str = "bilinear-corners",
) -> ImagePreprocess:
    """Preprocess record of one of the benchmark's normalisations for all bands of ``statistics``.

    Args:
        kind: ``divide`` by 255 or ``divisor``; ``standardization`` by mean and deviation; ``minmax`` to [0, 1]; or
            ``for_seco``, ``clip(x / 2750, 0, 1)`` of reflectance times 10,000. Constant bands are only shifted.
        statistics: of the training split.
        size: the images are resized to it, in float32.
        divisor: of values that are not uint8; 10,000 for Sentinel-2's.
        interpolation: ``bilinear-corners`` is the reference.

    Raises:
        EvaluationError: an unknown kind, or one that does not fit the values.
    """
    if kind not in NORMALISATIONS[:-1]:
        raise EvaluationError(f"normalisation {kind!r}: {not_among(kind, NORMALISATIONS[:-1])}")
    uint8 = statistics.dtype == "uint8"
    zeros, ones = (0.0,) * len(statistics.bands), (1.0,) * len(statistics.bands)
    scale, mean, std, clip = (255.0 if uint8 else 1.0), zeros, ones, None
    if kind == "standardization":
        mean, std = statistics.mean, statistics.std
    elif kind == "minmax":
        mean, std = statistics.low, tuple(h - low for h, low in zip(statistics.high, statistics.low, strict=True))
    elif kind == "for_seco":
        if uint8:
            raise EvaluationError("for_seco is for reflectance times 10,000, not for uint8 images")
        scale, clip = _SECO_SCALE, (0.0, 1.0)
    elif not uint8:
        if divisor is None:
            raise EvaluationError(f"divide needs a divisor for {statistics.dtype} values: 10000 for Sentinel-2's")
        scale = divisor
    if kind in ("standardization", "minmax"):
        mean = tuple(m / scale for m in mean)
        std = tuple(s / scale if s > 0 else 1.0 for s in std)
    return ImagePreprocess(size, statistics.bands, mean, std, scale, interpolation, clip=clip, resize=True)


@dataclass(frozen=True)
class Grid:
    """The cells to run.

    Attributes:
        encoders: see ``frozen_encoders``.
        sizes: heights and widths in pixels; ``native`` is that of the images.
        normalisations: some of ``NORMALISATIONS``. ``own`` is left out for encoders without a record of their own.
        judges: some of ``JUDGES``.
        seeds: of the encoders that are random.
        bands: use these alone, in this order; ``None`` takes all. Trained encoders always get the bands they know.
        divisor: see ``normalisation``.
        interpolation: see ``normalisation``.
        batch_size: images encoded at once.
    """

    encoders: Sequence[Encoder]
    sizes: Sequence[int | str] = ("native", 224)
    normalisations: Sequence[str] = ("divide", "standardization")
    judges: Sequence[str] = ("knn", "knn_scaled", "linear")
    seeds: Sequence[int] = (0, 1, 2)
    bands: Sequence[str] | None = None
    divisor: float | None = None
    interpolation: str = "bilinear-corners"
    batch_size: int = _BATCH

    def __post_init__(self) -> None:
        for value in self.normalisations:
            if value not in NORMALISATIONS:
                raise ConfigError(f"normalisation {value!r}: {not_among(value, NORMALISATIONS)}")
        for value in self.judges:
            if value not in JUDGES:
                raise ConfigError(f"protocol {value!r}: {not_among(value, JUDGES)}")
        for size in self.sizes:
            if size != "native" and not (str(size).isdigit() and int(size) > 0):
                raise ConfigError(f"size {size!r}: not a number of pixels, nor 'native'")

    def record(self, encoder: Encoder, kind: str, size: int | str, statistics: BandStatistics) -> ImagePreprocess:
        """How the images get to an encoder in one cell."""
        pixels = statistics.size if size == "native" else (int(size), int(size))
        if kind == "own":
            assert encoder.record is not None
            return replace(encoder.record, size=pixels, resize=True)
        bands = encoder.bands or self.bands or statistics.bands
        return normalisation(kind, statistics.of(bands), pixels, self.divisor, self.interpolation)

    def cells(self) -> list[tuple[Encoder, str, int | str]]:
        """Encoder, normalisation and size of every cell."""
        return [
            (encoder, kind, size)
            for encoder in self.encoders
            for size in self.sizes
            for kind in self.normalisations
            if kind != "own" or encoder.record is not None
        ]


def run_grid(
    grid: Grid, train: Any, test: Any, statistics: BandStatistics, tell: Callable[[str], None] = lambda line: None
) -> list[Row]:
    """Judge every cell; random encoders once for every seed.

    Args:
        grid: what to run.
        train: data set of the bank.
        test: data set of the queries.
        statistics: of ``train``.
        tell: gets a line for every cell.

    Returns:
        Rows with ``encoder``, ``size`` (pixels), ``normalisation``, ``protocol``, ``metric``, ``value`` (a fraction),
        ``ci95``, ``n``, ``seed``, ``dims``, ``extras``, ``settings`` and the Preprocess ``record``.
    """
    rows: list[Row] = []
    with undisturbed():
        for encoder, kind, size in grid.cells():
            record = grid.record(encoder, kind, size, statistics)
            for seed in encoder.seeds or tuple(grid.seeds)[: None if encoder.random else 1]:
                backbone = encoder.build(record, seed, train)
                found = [extract(backbone, data, batch_size=grid.batch_size)["backbone"] for data in (train, test)]
                judged = list(_judge(grid.judges, Splits(train=found[0], test=found[1]), seed))
                place = {"encoder": encoder.name, "size": record.shape[0], "normalisation": kind}
                rows += [{**place, **row, "record": record.record()} for row in judged]
                figures = ", ".join(f"{row['protocol']} {100 * row['value']:.1f}" for row in judged)
                tell(f"{encoder.name}, {record.shape[0]} px, {kind}, seed {seed}: {figures}")
    return rows


def _judge(names: Iterable[str], splits: Splits, seed: int) -> Iterable[Row]:
    """Rows of the protocols on the features of one cell."""
    train: Features = splits.need("train", "the benchmark", splits.train is not None and splits.train.y.ndim == 2)
    several = train.y.ndim == 2
    for name in names:
        protocol: Protocol = PROTOCOLS.build(dict(JUDGES[name][several] or {}))
        for outcome in protocol.run(splits, seed):
            interval = list(binomial_interval(outcome.value, outcome.n)) if outcome.proportion else None
            yield {
                "protocol": name,
                "metric": outcome.metric,
                "value": outcome.value,
                "ci95": interval,
                "n": outcome.n,
                "seed": seed,
                "dims": train.x.shape[1],
                "sizes": {"train": len(train), "test": outcome.n},
                "extras": outcome.extras,
                "settings": outcome.settings,
            }
