"""First layers of RGB networks for images of other bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perception.transforms.image_preprocess import canonical_band


def inflate(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """Convolution (D, 3, p, q) over RGB -> (D, C, p, q) of ``bands``.

    Red, green and blue keep their own weights where the bands have all three; every other band gets the mean of them.
    All are scaled by 3 / C, so that an image of equal bands gives what a grey RGB image gave.
    """
    names = [canonical_band(band) for band in bands]
    colours = [canonical_band(colour) for colour in ("red", "green", "blue")]
    mean = weight.mean(dim=1)
    known = all(colour in names for colour in colours)
    planes = [weight[:, colours.index(name)] if known and name in colours else mean for name in names]
    return torch.stack(planes, dim=1) * (3 / len(names))


def as_if_inflated(record: Mapping[str, Any], mine: Any) -> Mapping[str, Any]:
    """Record of weights of RGB with the bands and their statistics of ``mine``, a record of more or fewer bands.

    What is inflated sees other bands with other statistics; everything else is compared as ever.
    """
    preprocess = record.get("preprocess")
    if not preprocess or not len(preprocess.get("bands", ())) == 3 != len(mine.bands):
        return record
    own = {key: getattr(mine, key) for key in ("bands", "mean", "std", "value_scale", "clip")}
    return {**record, "preprocess": {**preprocess, **own}}
