"""Corruptions of camera images in five severities.

Parameters are those of "Benchmarking Robustness of 3D Object Detection to Common Corruptions in Autonomous Driving"
(Dong et al., CVPR 2023), which takes noise, fog and snow from "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (Hendrycks and Dietterich, ICLR 2019).

A corruption takes the images of one sample, (N, H, W, 3) floats in [0, 1], and gives such an array; the caller clips
and rounds. Simplified: fog's fractal is a sum of octaves of smooth noise in place of diamonds and squares; rain is
thin noise drawn out along the fall of the drops in place of layers of rendered drops; the sun's radius of 30 to 70
pixels is meant for images of 900 rows and follows theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from perception.transforms.image_augment import LUMA

CameraCorruption = Callable[[np.ndarray, int, Any], np.ndarray]
_DEVIATION = (0.08, 0.12, 0.18, 0.26, 0.38)
_GREY = 128 / 255
_STREAK = (0.02, 0.04, 0.06, 0.08, 0.10)


def gaussian(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Normal noise of deviation 0.08 to 0.38."""
    return images + random.normal(size=images.shape) * _DEVIATION[severity - 1]


def uniform(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Uniform noise within 0.08 to 0.38."""
    width = _DEVIATION[severity - 1]
    return images + random.uniform(-width, width, images.shape)


def impulse(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """3 to 27 % of the values become 0 or 1."""
    chosen = random.uniform(0.0, 1.0, images.shape)
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    return np.where(chosen < share / 2, 0.0, np.where(chosen < share, 1.0, images))


def side_blur(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Motion across the line of sight: 1 to 5 % of the width, and at least 2 to 6 pixels, of a row are averaged."""
    size = max(int(_STREAK[severity - 1] * images.shape[2] * 0.5), severity + 1)
    return np.stack([cv2.blur(image, (size, 1), borderType=cv2.BORDER_REFLECT) for image in images])


def zoom_blur(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Motion along the line of sight: the mean of the image and of steps of 0.5 % up to a zoom of 2 to 10 %."""
    count, height, width, _ = images.shape
    factors = np.arange(1, 1 + _STREAK[severity - 1], 0.005)
    total = images.copy()
    for factor in factors:
        middle = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, float(factor))
        for place in range(count):
            total[place] += cv2.warpAffine(images[place], middle, (width, height), borderMode=cv2.BORDER_REFLECT)
    return total / (len(factors) + 1)


def fog(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """A fractal veil, and 10 to 50 % of grey."""
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    veil = np.stack([_fractal(images.shape[1], images.shape[2], decay, random) for _ in images])[..., None]
    hidden = (images + amount * veil) * brightest / (brightest + amount)
    return _greyer(hidden, 0.1 * severity)


def snow(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Flakes drawn out by their fall, a whitened scene, 30 % of grey and 70 % of the light."""
    mean, deviation, zoom, least, streak, mix = (
        (0.1, 0.3, 3.0, 0.5, 10, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 0.55),
    )[severity - 1]
    height, width = images.shape[1:3]
    grey = images @ np.array(LUMA)
    white = np.maximum(images, grey[..., None] * 1.5 + 0.5)
    layers = []
    for _ in images:
        small = random.normal(mean, deviation, (math.ceil(height / zoom), math.ceil(width / zoom)))
        layer = np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
        layer[layer < least] = 0
        layer = _streaked(layer, streak, float(random.uniform(-135, -45)))
        layers.append(layer + np.rot90(layer, 2))
    return _dimmer(np.clip(mix * images + (1 - mix) * white + np.stack(layers)[..., None], 0, 1))


def rain(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """Streaks of 1 to 25 % density that fall within 15 degrees of straight down, 30 % of grey and 70 % of the light."""
    low, high = ((0.01, 0.06), (0.06, 0.10), (0.10, 0.15), (0.15, 0.20), (0.20, 0.25))[severity - 1]
    height, width = images.shape[1:3]
    length = max(height // 16, 3)
    layers = []
    for _ in images:
        drops = random.uniform(0.0, 1.0, (height, width)) < random.uniform(low, high) / length
        layer = _streaked(drops.astype(np.float64), length, 90.0 + float(random.uniform(-15, 15)))
        layers.append(layer * length * 0.6)
    return _dimmer(np.clip(images + np.clip(np.stack(layers), 0, 0.6)[..., None], 0, 1))


def sun(images: np.ndarray, severity: int, random: Any) -> np.ndarray:
    """A sun in the upper middle of every image, its glare falling off around a blind disc."""
    height, width = images.shape[1:3]
    radius = (30, 40, 50, 60, 70)[severity - 1] * height / 900
    centre = np.stack([random.uniform(0.25, 0.75, len(images)), random.uniform(0.30, 0.45, len(images))], 1)
    v, u = np.mgrid[:height, :width]
    distance = np.hypot(u - (centre[:, 0] * width)[:, None, None], v - (centre[:, 1] * height)[:, None, None])
    glare = np.exp(-np.maximum(distance - radius, 0) / (2 * radius))[..., None]
    return images + (1 - images) * glare


def _fractal(height: int, width: int, decay: float, random: Any) -> np.ndarray:
    """(height, width) in [0, 1]: octaves of smooth noise, each ``decay`` times weaker than the coarser one."""
    total = np.zeros((height, width))
    octaves = max(int(math.log2(max(min(height, width), 4))) - 1, 1)
    for octave in range(octaves):
        nodes = 2 ** (octave + 1)
        grid = random.uniform(0.0, 1.0, (nodes + 1, nodes + 1))
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / decay**octave
    total -= total.min()
    return total / max(total.max(), 1e-9)


def _streaked(layer: np.ndarray, length: int, degrees: float) -> np.ndarray:
    """``layer`` averaged along a line of ``length`` pixels at an angle, counter-clockwise from +u."""
    kernel = np.zeros((length, length))
    middle, reach = (length - 1) / 2, (length - 1) / 2
    du, dv = math.cos(math.radians(degrees)) * reach, -math.sin(math.radians(degrees)) * reach
    ends = [(round(middle - du), round(middle - dv)), (round(middle + du), round(middle + dv))]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(layer, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _greyer(images: np.ndarray, share: float) -> np.ndarray:
    return share * _GREY + (1 - share) * images


def _dimmer(images: np.ndarray) -> np.ndarray:
    """30 % of grey, then the brightest value of every image at 70 %."""
    grey = _greyer(images, 0.3)
    return grey / np.maximum(grey.max(axis=(1, 2, 3), keepdims=True), 1e-6) * 0.7


CAMERA: dict[str, CameraCorruption] = {
    "gaussian": gaussian,
    "uniform": uniform,
    "impulse": impulse,
    "side-blur": side_blur,
    "zoom-blur": zoom_blur,
    "fog": fog,
    "snow": snow,
    "rain": rain,
    "sun": sun,
}
