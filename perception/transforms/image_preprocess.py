"""The Preprocess record of images: bands, resizing, normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perception.errors import ConfigError, DataError, Fault, nearest
from perception.registry import PREPROCESSES
from perception.transforms.image_resize import INTERPOLATIONS, resize
from perception.transforms.preprocess import Batch, Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VIEWS = "views"
# Raw values of sensors with more than 8 bits, and of reflectance.
_WIDE = (torch.uint16, torch.int16, torch.int32, torch.float32)
# Sentinel-2 names of colours, so that "red" finds "B04".
_COLOURS = {"blue": "b02", "green": "b03", "red": "b04", "nir": "b08"}


@PREPROCESSES.register_module()
@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """``(clip(value / value_scale) - mean) / std``, which bands in which order, and how an image gets to ``size``.

    The normalisations of the resize-and-normalise benchmark (Corley et al., 2024) for a band with training mean m,
    standard deviation s, least value l and largest value h: *divide* is ``mean=0, std=1``; *standardise* is
    ``mean=m / value_scale, std=s / value_scale``; *min-max* is ``mean=l / value_scale, std=(h - l) / value_scale``;
    SeCo's is ``value_scale=2750, clip=(0, 1), mean=0, std=1``.

    Attributes:
        size: (height, width) that the backbone sees; one number is a square.
        bands: names of the channels in order. Where a batch tells its own (``meta['bands']``), they are selected and
            ordered by name; ``red``, ``green``, ``blue`` and ``nir`` also find Sentinel-2's B04, B03, B02 and B08.
        mean: per band, after division by ``value_scale``.
        std: likewise.
        value_scale: largest raw value: 255 for uint8 images; anything else takes uint16, int16, int32 and float32
            images, such as reflectance times 10,000. 1 leaves values, ``mean`` and ``std`` in the raw unit.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, the latter two antialiased, or ``bilinear-corners``
            (aligned corners, not antialiased).
        crop_fraction: ``prepare`` scales an image until ``size / crop_fraction`` is covered and cuts the centre out;
            0.875 is the 256-to-224 test crop of ImageNet.
        clip: (low, high) that bound a value after division by ``value_scale``.
        resize: bring batches of another size to ``size``, in float32 after the normalisation. Without it they are an
            error, since data sets bring images to size.
    """

    size: int | Sequence[int]
    bands: tuple[str, ...] = ("red", "green", "blue")
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_scale: float = 255.0
    interpolation: str = "bicubic"
    crop_fraction: float = 1.0
    clip: tuple[float, float] | None = None
    resize: bool = False

    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(s) for s in self.size)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "bands", tuple(self.bands))
        for name in ("mean", "std", "clip"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        faults = [
            Fault(f"model.backbone.preprocess.{key}", getattr(self, key), text)
            for key, text in self.check_config({k: getattr(self, k) for k in self.field_names()})
        ]
        if faults:
            raise ConfigError(faults)

    @property
    def shape(self) -> tuple[int, int]:
        """``size`` as (height, width)."""
        rows, columns = self.size  # type: ignore[misc]  # a pair since __post_init__
        return rows, columns

    def __call__(self, batch: Batch) -> Batch:
        """Normalise ``image`` (B, C, H, W) and ``views``, a list of such, of any size each, to float32.

        Either may be absent. ``image`` is often the first view: then it is so afterwards, too, and computed once.

        Raises:
            DataError: another dtype or bands than the record's; another size of ``image``; neither of the two.
        """
        views, image = batch.get(VIEWS), batch.get(self.modality)
        if views is None or image is not None:
            image = self._checked(image)
        found = self._known_bands(batch)
        if views is None:
            return {**batch, self.modality: self._normalised(image, found, self.resize)}  # type: ignore[arg-type]
        cooked = [self._normalised(self._typed(view), found) for view in views]
        if image is None:
            return {**batch, VIEWS: cooked}
        place = next((i for i, view in enumerate(views) if view is batch[self.modality]), None)
        whole = self._normalised(image, found, self.resize) if place is None else cooked[place]
        return {**batch, VIEWS: cooked, self.modality: whole}

    def _normalised(self, images: Tensor, bands: Sequence[str] | None, fit_size: bool = False) -> Tensor:
        order = None if bands is None else band_order(self.bands, bands)
        if order is None and images.shape[1] != len(self.bands):
            raise DataError(
                f"images of shape {tuple(images.shape)} do not fit (B, {len(self.bands)}, H, W), bands {self.bands}"
            )
        scale, shift = _affine(self.mean, self.std, self.value_scale, images.device)
        values = images.to(torch.float32)
        if order is not None and order != tuple(range(images.shape[1])):
            values = values[:, list(order)]
        elif values is images:
            values = values.clone()  # the batch that was given stays as it is
        if self.clip is not None:
            values.clamp_(self.clip[0] * self.value_scale, self.clip[1] * self.value_scale)
        values = values.mul_(scale).add_(shift)
        return resize(values, self.shape, self.interpolation) if fit_size else values

    def _known_bands(self, batch: Batch) -> tuple[str, ...] | None:
        """Names of the bands of a batch, if it tells them."""
        meta = batch.get("meta")
        bands = meta.get("bands") if isinstance(meta, dict) else None
        return None if bands is None else tuple(bands)

    def _typed(self, images: Any) -> Tensor:
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(images)
        if not isinstance(images, Tensor):
            raise DataError(f"a batch for an image backbone needs a tensor 'image', not {type(images).__name__}")
        if not self._takes(images.dtype):
            raise DataError(
                f"raw images must be {self._dtypes()} with values 0 to {self.value_scale:g}, not {images.dtype}: "
                "normalisation belongs to the Preprocess record, not to the data set"
            )
        if images.ndim != 4:
            raise DataError(
                f"images of shape {tuple(images.shape)} do not fit (B, {len(self.bands)}, H, W), bands {self.bands}"
            )
        return images

    def _checked(self, images: Any) -> Tensor:
        if isinstance(images, (list, tuple)):
            raise DataError(
                f"images of {len({tuple(i.shape[-2:]) for i in images})} different sizes: give the data set size=, or "
                "end its transforms with one that cuts to a fixed size, such as RandomResizedCrop"
            )
        images = self._typed(images)
        if not self.resize and tuple(images.shape[-2:]) != self.shape:
            raise DataError(
                f"images of {tuple(images.shape[-2:])} pixels, but the Preprocess record says {self.size}: "
                "give the data set size=, pass single images through ImagePreprocess.prepare, or set resize=True in "
                "the record"
            )
        return images

    def _takes(self, dtype: torch.dtype) -> bool:
        # 8-bit values under a scale of thousands would all end up near zero, silently.
        return dtype == torch.uint8 if self.value_scale == 255 else dtype in _WIDE

    def _dtypes(self) -> str:
        return "uint8" if self.value_scale == 255 else "uint16, int16, int32 or float32"

    def require_same(self, other: dict[str, Any], source: str) -> None:
        """As the base's, but another ``size`` is allowed: image backbones resample their positions to it.

        A record written before a field existed has that field's default. Of a record of images with texts, the images'
        part is compared.
        """
        defaults = {f.name: f.default for f in fields(ImagePreprocess) if f.default is not MISSING}
        theirs = {**defaults, **other, "size": self.size}
        if type(self) is ImagePreprocess and theirs.get("type") in PREPROCESSES.names():
            cls: Any = PREPROCESSES.get(theirs["type"])
            if issubclass(cls, ImagePreprocess):
                kept = ImagePreprocess.field_names()
                theirs = {"type": "ImagePreprocess", **{k: v for k, v in theirs.items() if k in kept}}
        super().require_same(theirs, source)

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalised float (B, C, H, W) -> uint8 (B, C, H, W), 255 standing for ``value_scale``."""
        scale, shift = _affine(self.mean, self.std, 255.0, images.device)
        return ((images.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image of a user's, (H, W, C) or (H, W) of any size -> (C, height, width) as ``size`` says, same dtype.

        Raises:
            DataError: another dtype or number of channels than the record's.
        """
        array = np.asarray(image)
        if array.dtype == np.float64 and self._takes(torch.float32):
            array = array.astype(np.float32)
        if array.dtype.name not in ("uint8", "uint16", "int16", "int32", "float32") or not self._takes(
            getattr(torch, array.dtype.name)
        ):
            raise DataError(
                f"an image must be {self._dtypes()} with values 0 to {self.value_scale:g}, not {array.dtype}"
            )
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[2] != len(self.bands) or 0 in array.shape:
            raise DataError(
                f"an image of shape {np.shape(image)} does not fit (H, W, {len(self.bands)}) of the bands {self.bands}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
        return fit(pixels, self.shape, self.interpolation, self.crop_fraction).contiguous().numpy()

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a record that would stop it from being used."""
        bands = len(cfg["bands"])
        if len({canonical_band(b) for b in cfg["bands"]}) < bands:
            yield "bands", "names a band twice"
        for key in ("mean", "std"):
            if len(cfg[key]) != bands:
                yield key, f"must have one value for each of the {bands} bands"
        if any(s <= 0 for s in cfg["std"]):
            yield "std", "must be positive"
        if cfg["value_scale"] <= 0:
            yield "value_scale", "must be positive"
        elif cfg["value_scale"] != 1 and any(not 0 <= m <= 1 for m in cfg["mean"]):
            yield "mean", f"must lie in [0, 1]: it is taken after division by value_scale = {cfg['value_scale']:g}"
        size = cfg["size"]
        if (isinstance(size, int) and size < 1) or (not isinstance(size, int) and (len(size) != 2 or min(size) < 1)):
            yield "size", "must be a positive number of pixels or a pair (height, width)"
        if cfg["interpolation"] not in INTERPOLATIONS:
            yield "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}"
        if not 0 < cfg["crop_fraction"] <= 1:
            yield "crop_fraction", "must lie in (0, 1]"
        clip = cfg.get("clip")
        if clip is not None and not (len(clip) == 2 and clip[0] < clip[1]):
            yield "clip", "must be a pair (low, high)"


def canonical_band(name: str) -> str:
    """One spelling for a band's names: ``B4``, ``b04`` and ``red`` are ``b04``."""
    name = str(name).strip().lower()
    if name[:1] == "b" and name[1:].isdigit():
        return f"b{int(name[1:]):02d}"
    return _COLOURS.get(name, name)


def band_order(wanted: Sequence[str], given: Sequence[str]) -> tuple[int, ...]:
    """Places among the bands ``given`` of those ``wanted``, in the order of ``wanted``.

    Raises:
        DataError: bands are missing, or ``given`` names one twice.
    """
    places = {canonical_band(name): place for place, name in enumerate(given)}
    if len(places) < len(given):
        raise DataError(f"the data names a band twice: {tuple(given)}")
    missing = [name for name in wanted if canonical_band(name) not in places]
    if missing:
        near = nearest(missing[0], [str(name) for name in given], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"the data has no band {missing[0]!r}, only {', '.join(map(str, given))}{hint}")
    return tuple(places[canonical_band(name)] for name in wanted)


def fit(image: Tensor, size: Sequence[int], interpolation: str = "bicubic", crop_fraction: float = 1.0) -> Tensor:
    """Scale (C, H, W) until it covers ``size / crop_fraction``, aspect kept, and cut ``size`` at the centre."""
    height, width = image.shape[-2:]
    rows, columns = size
    factor = max(rows / height, columns / width) / crop_fraction
    scaled = (max(round(height * factor), rows), max(round(width * factor), columns))
    image = resize(image, scaled, interpolation)
    top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    return image[:, top : top + rows, left : left + columns]


@lru_cache(maxsize=32)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], value_scale: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift (1, C, 1, 1) such that ``raw * scale + shift`` is normalised."""
    scale = 1.0 / (np.asarray(std) * value_scale)
    shift = -np.asarray(mean) / np.asarray(std)
    shape = (1, -1, 1, 1)
    return (
        torch.tensor(scale.reshape(shape), dtype=torch.float32, device=device),
        torch.tensor(shift.reshape(shape), dtype=torch.float32, device=device),
    )
