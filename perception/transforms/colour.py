"""Colours of red, green and blue pixels: grey, and turns of the hue."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.transforms.image_augment import LUMA


def luma(pixels: Tensor) -> Tensor:
    """Brightness (n, 1, H, W) of red, green and blue (n, 3, H, W), by the weights of ITU-R BT.601."""
    red, green, blue = (pixels[:, band : band + 1] * weight for band, weight in enumerate(LUMA))
    return red + green + blue


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Pixels whose hue in HSV is turned; largest and smallest of the three values of a pixel stay as they are.

    Unlike in HSV itself, values may have any range: hue and the distance of the largest from the smallest value are
    all that is used.

    Args:
        pixels: (n, 3, H, W) float red, green and blue.
        turns: (n,) shares of a full turn: 1/3 makes red green, -1/3 makes it blue.
    """
    red, green, blue = pixels.unbind(dim=1)  # (n, H, W)
    largest = pixels.amax(dim=1)
    chroma = largest - pixels.amin(dim=1)
    spread = torch.where(chroma == 0, torch.ones_like(chroma), chroma)  # a grey pixel has no hue, and needs none
    sixths = torch.where(
        largest == red,
        (green - blue) / spread,
        torch.where(largest == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    sixths = sixths + 6 * turns[:, None, None]
    # As the hue goes round, each value falls from the largest to the smallest within a sixth, stays for two, rises
    # within another: a trapezium of the sixths since its start, which differs by band.
    starts = pixels.new_tensor([5.0, 3.0, 1.0])[None, :, None, None]
    place = (sixths[:, None] + starts).remainder(6)
    depth = torch.minimum(place, 4 - place).clamp(0, 1)
    return largest[:, None] - chroma[:, None] * depth
