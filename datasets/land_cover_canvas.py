"""Painting many small aerial scenes at once: noise, bands, cells and colours as arrays over (image, row, column)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EXTENT = 64.0  # side of a scene in its own unit, one pixel of a 64-pixel image
TABLE = 32  # cells repeat after so many, which is beyond the scene
Colour = tuple[float, float, float] | np.ndarray


@lru_cache(maxsize=64)
def _weights(size: int, knots: int) -> np.ndarray:
    """(size, knots) float32: smooth interpolation of ``knots`` values across a scene."""
    position = (np.arange(size) + 0.5) / size * (knots - 1)
    left = np.minimum(position.astype(int), knots - 2)
    share = position - left
    share = share * share * (3 - 2 * share)
    weights = np.zeros((size, knots), dtype=np.float32)
    weights[np.arange(size), left] = 1 - share
    weights[np.arange(size), left + 1] = share
    return weights


@dataclass
class Cells:
    """A tiling of the plane.

    Attributes:
        key: two index arrays (n, S, S): the cell that a pixel lies in.
        du: (n, S, S) distance from the cell's centre along the first axis.
        dv: (n, S, S) likewise along the second.
    """

    key: tuple[np.ndarray, np.ndarray]
    du: np.ndarray
    dv: np.ndarray

    def box(self, half_u: float | np.ndarray, half_v: float | np.ndarray, shift: float = 0.0) -> np.ndarray:
        """(n, S, S) in [0, 1]: a rectangle in the middle of every cell."""
        inside = np.minimum(half_u - np.abs(self.du - shift), half_v - np.abs(self.dv - shift))
        return edge(inside)

    def disc(self, radius: float | np.ndarray, u: float | np.ndarray = 0.0, v: float | np.ndarray = 0.0) -> np.ndarray:
        """(n, S, S) in [0, 1]: a disc in every cell, ``u`` and ``v`` off its centre."""
        return edge(radius - np.hypot(self.du - u, self.dv - v))


def edge(inside: np.ndarray) -> np.ndarray:
    """Signed distance to a shape's border in pixels -> its cover in [0, 1], antialiased."""
    return np.clip(inside + 0.5, 0.0, 1.0)


class Canvas:
    """``count`` scenes that are painted together.

    Args:
        count: number of images n.
        size: pixels S along a side; a scene is the same at every size.
        rng: source of all that is random.

    Attributes:
        rgb: (n, S, S, 3) float32, in 0..255.
        u: (n, S, S) coordinate along a random direction, zero at a random place near the centre.
        v: (n, S, S) coordinate across it.
    """

    def __init__(self, count: int, size: int, rng: np.random.Generator) -> None:
        self.count, self.size, self.rng = count, size, rng
        self.rgb = np.zeros((count, size, size, 3), dtype=np.float32)
        axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32) * np.float32(EXTENT)
        angle = self.uniform(0, 2 * np.pi)
        across, along = axis[None, :, None], axis[None, None, :]
        self.u = np.cos(angle) * along + np.sin(angle) * across + self.uniform(-10, 10)
        self.v = np.cos(angle) * across - np.sin(angle) * along + self.uniform(-10, 10)

    def uniform(self, low: float, high: float) -> np.ndarray:
        """(n, 1, 1) float32, one number per image."""
        return self.rng.uniform(low, high, (self.count, 1, 1)).astype(np.float32)

    def noise(self, period: float, octaves: int = 1) -> np.ndarray:
        """(n, S, S) float32 in about [-1, 1]: smooth, with features of ``period`` pixels and finer ones."""
        total = np.zeros((self.count, self.size, self.size), dtype=np.float32)
        for octave in range(octaves):
            knots = max(round(EXTENT / period * 2**octave) + 1, 2)
            values = self.rng.uniform(-1, 1, (self.count, knots, knots)).astype(np.float32)
            weights = _weights(self.size, knots)
            total += 0.5**octave * (weights @ values @ weights.T)
        return total / (2 - 0.5 ** (octaves - 1))

    def wave(self, amplitude: float, period: float) -> np.ndarray:
        """(n, S, S): a smooth random bend, to be added to a coordinate."""
        return amplitude * self.noise(period)

    def cells(self, pitch_u: float | np.ndarray, pitch_v: float | np.ndarray) -> Cells:
        """A tiling with cells of the given size, turned as the scene is."""
        iu, iv = np.floor(self.u / pitch_u), np.floor(self.v / pitch_v)
        key = (iu.astype(np.int64) % TABLE, iv.astype(np.int64) % TABLE)
        return Cells(key, self.u - (iu + 0.5) * pitch_u, self.v - (iv + 0.5) * pitch_v)

    def per_cell(self, cells: Cells, low: float, high: float) -> np.ndarray:
        """(n, S, S): a random number per cell."""
        table = self.rng.uniform(low, high, (self.count, TABLE, TABLE)).astype(np.float32)
        return table[np.arange(self.count)[:, None, None], cells.key[0], cells.key[1]]

    def vary(self, colour: Colour, spread: float = 14.0) -> np.ndarray:
        """(n, 1, 1, 3): ``colour``, a little different in every image."""
        shift = self.rng.normal(0, spread, (self.count, 1, 1, 1)) + self.rng.normal(
            0, spread / 3, (self.count, 1, 1, 3)
        )
        return (np.asarray(colour, dtype=np.float32) + shift).astype(np.float32)

    def fill(self, colour: Colour, rough: float = 0.1, period: float = 16.0, grain: float = 0.06) -> None:
        """Cover all with ``colour``, brightness changing slowly by ``rough`` and from pixel to pixel by ``grain``."""
        light = 1 + rough * self.noise(period, 3) + grain * self.noise(2.0)
        self.rgb[:] = self.vary(colour) * light[..., None]

    def paint(self, cover: np.ndarray, colour: Colour) -> None:
        """Lay ``colour`` (broadcast to (n, S, S, 3)) over the scene where ``cover`` (n, S, S) is 1."""
        self.rgb += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.rgb)

    def shade(self, cover: np.ndarray, factor: float) -> None:
        """Multiply brightness by ``factor`` where ``cover`` (n, S, S) is 1."""
        self.rgb *= (1 + (factor - 1) * cover)[..., None]

    def finish(self) -> np.ndarray:
        """(n, 3, S, S) uint8 after light, haze and the noise of the sensor."""
        gain = self.uniform(0.85, 1.12)[..., None] * (1 + self.rng.normal(0, 0.02, (self.count, 1, 1, 3)))
        haze = self.uniform(0.0, 0.12)[..., None]
        picture = (self.rgb * gain) * (1 - haze) + 205.0 * haze
        picture += self.rng.normal(0, 3.0, picture.shape)
        return np.clip(np.round(picture), 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
