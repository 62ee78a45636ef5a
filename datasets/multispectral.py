"""GeoTIFF files of any number of bands, as satellites deliver them, and the choice of bands by name.

OpenCV reads TIFF files of up to four channels only, hence tifffile.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.errors import DataError, nearest
from perception.transforms.image_preprocess import canonical_band

DTYPES = ("uint8", "uint16", "int16", "int32", "float32")
"""Types of raw values that the Preprocess records of images take."""


def read_tiff(path: Path, bands: int | None, describe: str | None = None) -> np.ndarray:
    """All bands of a TIFF or GeoTIFF file, (C, H, W) in the file's order and type, native byte order.

    Args:
        path: the file. Bands may be interleaved by pixel, lie plane by plane, or be one page each.
        bands: how many there must be; None takes any number.
        describe: what messages call the file; None is its path.

    Raises:
        DataError: the file is missing, damaged, cut off or compressed in a way that cannot be read; it has another
            number of bands; its values are of a type outside ``DTYPES``, or not finite.
    """
    name = describe or f"image {str(path)!r}"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    return decode_tiff(data, bands, name)


def decode_tiff(data: bytes, bands: int | None, source: str, dtypes: Sequence[str] = DTYPES) -> np.ndarray:
    """As ``read_tiff``, of the bytes of a file that messages call ``source``; ``dtypes`` are the types it may have."""
    values = _bands_first(*_decode(data, source), source)
    if bands is not None and len(values) != bands:
        raise DataError(f"{source} has {len(values)} bands, expected {bands}")
    if values.dtype.name not in dtypes:
        raise DataError(f"{source} has values of type {values.dtype.name}, expected {' or '.join(dtypes)}")
    if values.dtype == np.float32 and not np.isfinite(values).all():
        band, row, column = np.argwhere(~np.isfinite(values))[0]
        count = int((~np.isfinite(values)).sum())
        where = f"the first in band {band}, row {row}, column {column}"
        raise DataError(f"{source} has {count} values that are not finite, {where}")
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def _decode(data: bytes, source: str) -> tuple[np.ndarray, str]:
    """Values of the first image of a file and what its axes are, as in ``YXS``."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            _require_whole(file, len(data), source)
            series = file.series[0]
            return series.asarray(), series.axes
    except DataError:
        raise
    except Exception as error:  # struct, zlib, index, key and value errors: all mean a damaged file, or a lacking codec
        hint = "; pip install imagecodecs reads it" if "imagecodecs" in str(error) else ""
        raise DataError(f"{source} cannot be read as a TIFF file: {error}{hint}") from error


def _require_whole(file: object, size: int, source: str) -> None:
    """Refuse a file that ends before its pixels do: some decoders fill the missing part with zeros."""
    for number, page in enumerate(file.pages):  # type: ignore[attr-defined]
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > size:
            raise DataError(f"{source} is cut off: page {number} ends at byte {max(ends, default=0)} of {size}")


def _bands_first(values: np.ndarray, axes: str, source: str) -> np.ndarray:
    """(C, H, W), whichever axis the bands were."""
    if values.ndim == 2 and set(axes) == {"Y", "X"}:
        return values[None]
    if values.ndim != 3 or not {"Y", "X"} < set(axes):
        raise DataError(f"{source} has values of shape {values.shape}, axes {axes!r}: not one image of several bands")
    rows, columns = axes.index("Y"), axes.index("X")
    return values.transpose(3 - rows - columns, rows, columns)


def band_places(wanted: Sequence[str], bands: Sequence[str], source: str) -> tuple[int, ...]:
    """Places of the bands ``wanted`` among ``bands``; ``B4``, ``b04`` and ``red`` find ``B04``.

    Raises:
        DataError: an unknown band, with the nearest name, one named twice, or none at all.
    """
    known = {canonical_band(name): place for place, name in enumerate(bands)}
    unknown = [name for name in wanted if canonical_band(name) not in known]
    if unknown:
        near = nearest(unknown[0], bands, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{source} has no band {unknown[0]!r}, only {', '.join(bands)}{hint}")
    places = tuple(known[canonical_band(name)] for name in wanted)
    if len(set(places)) < len(places) or not places:
        raise DataError(f"{source}: bands must name at least one band, and none twice, not {list(wanted)}")
    return places
