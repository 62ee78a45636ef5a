r"""Rain, snow and fog in a LiDAR sweep.

Rain and snow follow "LISA" (Kilic et al., 2021). A beam of divergence 3 mrad meets drops whose diameters D (mm) follow
Marshall and Palmer, N(D) = 8000 exp(-4.1 R^-0.21 D), or flakes after Gunn and Marshall, N(D) = 7600 R^-0.87
exp(-2.55 R^-0.48 D), per m^3 and mm at R mm/h of water. A surface returns i exp(-2 a r) / r^2, a drop
F exp(-2 a r) min(1, (D / beam)^2) / r^2 with the Fresnel reflectance F; the sensor reports the stronger of those above
its threshold 0.9 / (120 m)^2, a surface with a range error of 9 cm / sqrt(2 snr).

Simplified: large drops block twice their section, so that a = 10^-6 pi N_0 / Lambda^3 per metre (the public code
tabulates Mie's theory); drops are a Poisson process, of which only those are drawn that could be seen; lost points
are left out, where the public code puts them into the origin. Recorded reflectances are often too low to be seen at
their range at all. The public code loses all such points in any drizzle; here a point that the clean sweep holds is
lost, if too dim, with the probability 1 - exp(-2 a r), the share of light that the weather takes.

Fog follows "Fog Simulation on Real LiDAR Point Clouds" (Hahner et al., ICCV 2021): a surface dims by exp(-2 a r), the
fog itself answers with a pulse of 20 ns, and where its answer is the stronger one the point moves there.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from perception.transforms.lidar_corruptions import LiDARCorruption, Outcome, Sweep

_RATE = (0.20, 0.73, 1.5625, 3.125, 7.29)  # mm/h
_EXTINCTION = (0.005, 0.01, 0.02, 0.03, 0.06)  # 1/m
_NEAREST, _FARTHEST = 0.9, 120.0  # metres that the sensor measures
_DIVERGENCE = 3e-3  # rad
_RANGE_ERROR = 0.09  # m
_THRESHOLD = 0.9 / _FARTHEST**2
_PULSE = 2e-8  # half-power width in s
_LIGHT = 299_792_458.0
_SOFT = math.pi / 1e-6  # 1 / differential reflectivity of a hard target, as the public code sets it


def rain(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """0.2 to 7.3 mm/h of rain."""
    rate = _RATE[severity - 1]
    return _precipitation(sweep, 8000.0, 4.1 * rate**-0.21, 1.328, random)


def snow(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Snow of 0.2 to 7.3 mm/h of water."""
    rate = _RATE[severity - 1]
    return _precipitation(sweep, 7600.0 * rate**-0.87, 2.55 * rate**-0.48, 1.3031, random)


def fog(sweep: Sweep, severity: int, random: Any) -> Outcome:
    """Fog of extinction 0.005 to 0.06 per metre: a range of sight of 600 to 50 m."""
    extinction = _EXTINCTION[severity - 1]
    distance = _range(sweep)
    table_range, table_answer = _fog_answer(extinction)
    place = np.minimum(np.round(distance * 10).astype(np.int64), len(table_range) - 1)
    backscatter = 0.046 * extinction / math.log(20)
    hard = np.exp(-2 * extinction * distance)
    soft = distance**2 * backscatter * _SOFT * table_answer[place]
    foggy = soft > hard
    points = sweep.points.copy()
    if points.shape[1] > 3:
        answer = np.minimum(points[:, 3] * np.where(foggy, soft, hard), sweep.intensity_scale)
        points[:, 3] = answer
    around = random.uniform(-1.0, 1.0, len(points))
    # The public code scatters the answer by the ratio of the range to one that is up to a metre off.
    scale = table_range[place] / np.maximum(distance + around, 0.1)
    points[foggy, :3] = (points[foggy, :3] * scale[foggy, None]).astype(np.float32)
    return points, np.arange(len(points))


def _precipitation(sweep: Sweep, number: float, slope: float, refraction: float, random: Any) -> Outcome:
    """Drops or flakes with N(D) = ``number`` exp(-``slope`` D)."""
    distance = _range(sweep)
    extinction = 1e-6 * math.pi * number / slope**3
    fresnel = ((refraction - 1) / (refraction + 1)) ** 2
    dimming = np.exp(-2 * extinction * distance)
    shine = sweep.points[:, 3].astype(np.float64) / sweep.intensity_scale if sweep.points.shape[1] > 3 else 0.5
    square = np.maximum(distance, 1e-3) ** 2
    hard = shine * dimming / square
    drop_range, drop_power, drop_answer = _strongest_drop(distance, number, slope, fresnel, extinction, random)
    survives = hard >= _THRESHOLD
    if not sweep.compat:
        dim = shine / square < _THRESHOLD  # yet it was measured in clear air
        survives = np.where(dim, random.uniform(0.0, 1.0, len(distance)) < dimming, survives)
        hard = np.where(dim & survives, np.maximum(hard, _THRESHOLD), hard)
    scattered = (drop_power > hard) | (~survives & (drop_power >= _THRESHOLD))
    kept = survives | scattered
    error = random.normal(size=len(distance)) * _RANGE_ERROR / np.sqrt(2 * np.maximum(hard / _THRESHOLD, 1.0))
    new_range = np.where(scattered, drop_range, distance + error)
    points = sweep.points.copy()
    points[:, :3] = (points[:, :3] * (new_range / np.maximum(distance, 1e-3))[:, None]).astype(np.float32)
    if points.shape[1] > 3:
        points[:, 3] = np.where(scattered, drop_answer * sweep.intensity_scale, points[:, 3] * dimming)
    return points[kept], np.flatnonzero(kept)


def _strongest_drop(
    distance: np.ndarray, number: float, slope: float, fresnel: float, extinction: float, random: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Range (P,), power (P,) and reflectance (P,) of the drop with the strongest answer in every beam, 0 without one.

    Beyond sqrt(F / threshold) no drop can be seen, and before it only those above a diameter that grows with r^2.
    """
    limit = min(math.sqrt(fresnel / _THRESHOLD), _FARTHEST)
    edges = np.linspace(_NEAREST, max(limit, _NEAREST + 1e-3), 400)
    middle = (edges[1:] + edges[:-1]) / 2
    wide = 1e3 * math.tan(_DIVERGENCE) * middle  # beam in mm
    smallest = np.maximum(0.05, wide * middle * math.sqrt(_THRESHOLD / fresnel))
    section = math.pi * (math.tan(_DIVERGENCE) * middle / 2) ** 2
    expected = number / slope * np.exp(-slope * smallest) * section * np.diff(edges)
    total = np.concatenate([[0.0], np.cumsum(expected)])
    reach = np.interp(distance, edges, total)  # visible drops before the surface
    count = random.poisson(reach)
    beam = np.repeat(np.arange(len(distance)), count)
    found = np.interp(random.uniform(0.0, 1.0, len(beam)) * reach[beam], total, edges)
    diameter = np.interp(found, middle, smallest) + random.exponential(1 / slope, len(beam))
    share = np.minimum((diameter / (1e3 * math.tan(_DIVERGENCE) * found)) ** 2, 1.0)
    answer = fresnel * np.exp(-2 * extinction * found) * share
    power = answer / found**2
    order = np.lexsort((power, beam))  # the last of every beam is its strongest
    last = order[np.flatnonzero(np.diff(np.append(beam[order], -1)))] if len(beam) else order
    best = np.zeros((3, len(distance)))
    best[:, beam[last]] = np.stack([found[last], power[last], answer[last]])
    return best[0], best[1], best[2]


@lru_cache(maxsize=8)
def _fog_answer(extinction: float) -> tuple[np.ndarray, np.ndarray]:
    """Range and strength of fog's strongest answer before surfaces at 0, 0.1, ... 200 m."""
    reach = np.arange(0, 2001) * 0.1
    time = np.linspace(0.0, 2 * _PULSE, 401)
    place = reach[:, None] - _LIGHT * time / 2
    overlap = np.clip((place - 0.9) / 0.1, 0.0, 1.0)  # of what the laser lights and the receiver sees
    safe = np.maximum(place, 0.5)
    wave = np.sin(math.pi * time / (2 * _PULSE)) ** 2 * np.exp(-2 * extinction * safe) / safe**2 * overlap
    answer = np.trapezoid(wave, time, axis=1)
    strongest = np.maximum.accumulate(answer)
    first = np.where(np.isclose(answer, strongest, rtol=1e-12, atol=0.0), np.arange(len(answer)), 0)
    return reach[np.maximum.accumulate(first)], strongest


def _range(sweep: Sweep) -> np.ndarray:
    return np.linalg.norm(sweep.points[:, :3].astype(np.float64), axis=1)


WEATHER: dict[str, LiDARCorruption] = {"rain": rain, "snow": snow, "fog": fog}
