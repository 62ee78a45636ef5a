"""The twelve kinds of procedural scene. ``first`` and ``second`` are the properties that the captions name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perception.datasets.land_cover_canvas import EXTENT, Canvas, edge

Scene = Callable[[Canvas, int, int], None]
ASPHALT = (88.0, 88.0, 92.0)
CAR_COLOURS = np.array([(235, 235, 235), (30, 30, 34), (180, 40, 40), (60, 80, 150), (160, 160, 165)], dtype=np.float32)


def _meadow(c: Canvas) -> None:
    c.fill((118, 148, 76), rough=0.18)


def _woods(c: Canvas, colour: tuple[float, float, float] = (44, 78, 42)) -> None:
    """Crowns lit from one side: bright and dark within a few pixels."""
    c.fill(colour, rough=0.15, period=20, grain=0.0)
    crowns = c.noise(3.2)
    c.rgb *= (1 + 0.38 * crowns + 0.2 * np.minimum(c.noise(4.0), 0))[..., None]


def _dry(c: Canvas) -> None:
    c.fill((188, 160, 118), rough=0.16)
    shrubs = edge(3 * c.noise(4.0) - 1.9)
    c.paint(shrubs, (120, 110, 72))


def _land(c: Canvas, kind: int) -> None:
    """Meadow, forest or dry land around rivers, roads and lakes."""
    (_meadow, _woods, _dry)[kind](c)


def forest(c: Canvas, first: int, second: int) -> None:
    """Conifers, broadleaf trees or autumn; a clearing, a track or nothing."""
    _woods(c, ((30, 62, 40), (86, 134, 58), (168, 108, 48))[first])
    if first == 2:
        c.paint(0.6 * edge(2.5 * c.noise(4.0) - 0.3), c.vary((150, 62, 38)))
    if second == 0:
        radius = c.uniform(11, 17) + c.wave(5, 12)
        c.paint(edge(radius - np.hypot(c.u, c.v)), c.vary((150, 162, 92)) * (1 + 0.1 * c.noise(3)[..., None]))
    elif second == 1:
        c.paint(edge(c.uniform(1.6, 2.4) - np.abs(c.u + c.wave(9, 28))), c.vary((196, 172, 132)))


def river(c: Canvas, first: int, second: int) -> None:
    """Land on both sides; a bridge, sandbanks or brown water."""
    _land(c, first)
    middle = c.u + c.wave(13, 34)
    width = c.uniform(6, 9) + c.wave(1.6, 14)
    bank = edge(width + (3.5 if second == 1 else 1.0) - np.abs(middle))
    c.paint(bank, c.vary((214, 196, 152) if second == 1 else (120, 112, 84)))
    water = c.vary((142, 112, 76) if second == 2 else (44, 82, 118)) * (1 + 0.06 * c.noise(6, 2)[..., None])
    c.paint(edge(width - np.abs(middle)), water)
    if second == 1:
        banks = edge(6 * c.noise(9) - 2.4) * edge(width - 1 - np.abs(middle))
        c.paint(banks, c.vary((222, 204, 160)))
    if second == 0:
        for half, colour in ((3.0, (92, 92, 96)), (2.2, (204, 202, 198))):
            c.paint(edge(half - np.abs(c.v)), c.vary(colour, 6))


def farmland(c: Canvas, first: int, second: int) -> None:
    """Green, yellow or ploughed fields; strips, blocks or round plots."""
    colour = ((104, 146, 66), (206, 184, 92), (134, 100, 72))[first]
    pitch = {0: (c.uniform(5, 8), c.uniform(60, 90)), 1: (c.uniform(20, 28), c.uniform(16, 24))}
    u, v = pitch.get(second, (c.uniform(25, 29),) * 2)
    cells = c.cells(u, v)
    light = 1 + c.per_cell(cells, -0.22, 0.22) + 0.05 * c.noise(3) + 0.05 * c.noise(16, 2)
    furrows = 0.05 * np.sin(c.u * c.uniform(1.6, 2.4)) if second != 2 else 0.0
    if second == 2:
        c.fill((176, 154, 116), rough=0.14)
        c.paint(edge(u * 0.45 - np.hypot(cells.du, cells.dv)), c.vary(colour) * light[..., None])
    else:
        c.rgb[:] = c.vary(colour) * (light + furrows)[..., None]
        border = 1 - cells.box(u / 2 - 0.7, v / 2 - 0.7)
        c.paint(0.7 * border, c.vary((92, 104, 58)))


def _roof(c: Canvas, colour: tuple[float, float, float], cells_light: np.ndarray) -> np.ndarray:
    return c.vary(colour, 10) * (1 + cells_light)[..., None]


def residential(c: Canvas, first: int, second: int) -> None:
    """Red, grey or white roofs; trees, pools or little room."""
    c.fill((122, 138, 88), rough=0.14)
    dense = second == 2
    pitch = float(8.5 if dense else 12.5)
    cells = c.cells(pitch, pitch)
    streets = c.cells(pitch * 3, pitch * 2)
    roof = _roof(c, ((176, 76, 58), (120, 122, 128), (232, 230, 224))[first], c.per_cell(cells, -0.16, 0.16))
    half_u, half_v = c.per_cell(cells, 2.7, 3.8), c.per_cell(cells, 2.4, 3.4)
    if dense:
        half_u, half_v = half_u + 0.2, half_v + 0.2
        c.paint(np.ones_like(c.u), c.vary((142, 136, 124)))
    if second == 0:
        for _ in range(2):
            u, v = c.per_cell(cells, -5, 5), c.per_cell(cells, -5, 5)
            c.paint(cells.disc(c.per_cell(cells, 1.8, 3.0), u, v), c.vary((38, 76, 36)))
    road = 1 - streets.box(pitch * 1.5 - 1.6, pitch - 1.6)
    c.paint(road, c.vary((150, 148, 146), 8))
    houses = (1 - road) * (c.per_cell(cells, 0, 1) > (0.02 if dense else 0.12))
    c.shade(houses * cells.box(half_u, half_v, 1.3), 0.55)
    c.paint(houses * cells.box(half_u, half_v), roof)
    c.shade(houses * cells.box(half_u, half_v) * (cells.du > 0), 0.84)
    if second == 1:
        pool = (c.per_cell(cells, 0, 1) < 0.65) * (1 - road)
        c.paint(pool * edge(1.5 - np.maximum(np.abs(cells.du - 4.6), np.abs(cells.dv - 1.0) - 0.7)), (58, 186, 214))


def _cars(c: Canvas, along: np.ndarray, across: np.ndarray, lane: float, pitch: float, share: float) -> None:
    """Cars of 3 x 1.6 pixels on a lane ``lane`` off the middle."""
    index = np.floor(along / pitch)
    table = c.rng.uniform(0, 1, (c.count, 32)).astype(np.float32)
    rows = np.arange(c.count)[:, None, None]
    present = table[rows, index.astype(np.int64) % 32] < share
    colour = CAR_COLOURS[c.rng.integers(0, len(CAR_COLOURS), (c.count, 32))][rows, index.astype(np.int64) % 32]
    du, dv = along - (index + 0.5) * pitch, across - lane
    c.paint(present * edge(np.minimum(1.6 - np.abs(du), 0.9 - np.abs(dv))), colour)


def highway(c: Canvas, first: int, second: int) -> None:
    """A road through the land; many cars, few, or a second road across."""
    _land(c, first)
    bend = c.u + c.wave(4, 40)
    width = c.uniform(4.2, 5.4)
    if second == 2:
        c.paint(edge(width - np.abs(c.v)), c.vary(ASPHALT, 8))
    c.paint(edge(width + 1.2 - np.abs(bend)), c.vary((170, 160, 130)))
    c.paint(edge(width - np.abs(bend)), c.vary(ASPHALT, 8))
    if second == 2:
        c.paint(edge(width - np.abs(c.v)), c.vary(ASPHALT, 8))
    dashes = edge(0.5 - np.abs(bend)) * (np.mod(c.v, 6) < 3)
    c.paint(0.9 * dashes, (232, 230, 220))
    for border in (-1, 1):
        c.paint(0.7 * edge(0.4 - np.abs(bend - border * (width - 0.9))), (225, 223, 214))
    share = (0.85, 0.06, 0.35)[second]
    for lane in (-2.3, 2.3):
        _cars(c, c.v, bend, lane, 6.0, share)


def lake(c: Canvas, first: int, second: int) -> None:
    """Water in the land; an island, boats or algae."""
    _land(c, first)
    distance = np.hypot(c.u, c.v * c.uniform(0.9, 1.35)) + c.wave(6, 15)
    radius = c.uniform(19, 24)
    c.paint(edge(radius + 1.5 - distance), c.vary((128, 120, 88)))
    water = c.vary((36, 74, 112)) * (1 + 0.05 * c.noise(8, 2)[..., None])
    c.paint(edge(radius - distance), water)
    if second == 0:
        island = np.hypot(c.u + c.uniform(-5, 5), c.v + c.uniform(-5, 5)) + c.wave(2.5, 8)
        c.paint(edge(c.uniform(5, 7) + 1 - island), c.vary((206, 190, 146)))
        c.paint(edge(c.uniform(4.5, 5.5) - island), c.vary((70, 108, 54)))
    elif second == 1:
        cells = c.cells(9.0, 7.0)
        boats = (c.per_cell(cells, 0, 1) < 0.55) * edge(radius - 4 - distance)
        c.paint(boats * edge(1.0 - np.maximum(np.abs(cells.du) * 0.45, np.abs(cells.dv))), (244, 244, 240))
    else:
        c.paint(0.85 * edge(radius - 1 - distance) * edge(4 * c.noise(10, 2) + 0.2), c.vary((104, 148, 60)))


def industrial(c: Canvas, first: int, second: int) -> None:
    """White, blue or grey halls; tanks, trucks or containers."""
    c.fill((148, 144, 138), rough=0.1)
    pitch_u, pitch_v = c.uniform(22, 26), c.uniform(18, 21)
    cells = c.cells(pitch_u, pitch_v)
    hall = ((226, 228, 226), (70, 112, 176), (112, 116, 122))[first]
    present = c.per_cell(cells, 0, 1) < 0.68
    half_u, half_v = c.per_cell(cells, 7.5, 9.5), c.per_cell(cells, 5.5, 7.0)
    roof = _roof(c, hall, c.per_cell(cells, -0.08, 0.08) + 0.06 * np.sign(np.sin(c.u * 1.5)))
    c.shade(present * cells.box(half_u, half_v, 1.8), 0.5)
    c.paint(present * cells.box(half_u, half_v), roof)
    yard = 1 - present
    if second == 0:
        tanks = c.cells(pitch_u / 2, pitch_v / 2)
        c.shade(yard * tanks.disc(4.1, 1.2, 1.2), 0.6)
        c.paint(yard * tanks.disc(4.0), c.vary((236, 234, 228), 6))
        c.paint(yard * tanks.disc(1.4), (176, 178, 180))
    elif second == 1:
        trucks = c.cells(9.0, 4.0)
        parked = yard * (c.per_cell(trucks, 0, 1) < 0.75)
        c.paint(parked * trucks.box(3.4, 1.1), (244, 244, 244))
        c.paint(parked * edge(np.minimum(1.1 - np.abs(trucks.du - 2.4), 1.1 - np.abs(trucks.dv))), (60, 70, 96))
    else:
        boxes = c.cells(6.5, 3.2)
        palette = np.array([(196, 62, 48), (222, 138, 40), (44, 132, 92), (52, 92, 168)], dtype=np.float32)
        colour = palette[np.minimum(c.per_cell(boxes, 0, 4).astype(int), 3)]
        c.paint(yard * boxes.box(2.9, 1.3), colour)


def beach(c: Canvas, first: int, second: int) -> None:
    """White sand, golden sand or pebbles; surf, calm water or parasols."""
    c.fill(((234, 226, 206), (222, 190, 128), (150, 148, 146))[first], rough=0.06)
    if first == 2:
        c.rgb *= (1 + 0.22 * c.noise(2.2))[..., None]
    shore = c.u + c.wave(5, 26)
    depth = np.clip((shore - 2) / 30, 0, 1)[..., None]
    shallow, deep = c.vary((84, 176, 180), 8), c.vary((28, 92, 138), 10)
    c.paint(edge(-shore - 22 + c.wave(4, 9)), c.vary((80, 112, 58)) * (1 + 0.25 * c.noise(3)[..., None]))
    c.paint(edge(shore + 2.5), c.vary((176, 158, 122)))
    c.paint(edge(shore), shallow + depth * (deep - shallow))
    if second == 0:
        for place in (1.0, 6.0, 12.0):
            crest = edge(c.uniform(1.0, 1.8) - np.abs(shore - place - c.wave(2.5, 8))) * edge(6 * c.noise(7) + 2)
            c.paint(0.95 * crest, (248, 250, 250))
    elif second == 2:
        cells = c.cells(5.0, 5.0)
        sand = edge(-shore - 4.5) * edge(shore + 20) * (c.per_cell(cells, 0, 1) < 0.7)
        palette = np.array([(214, 48, 48), (46, 92, 190), (250, 250, 250), (240, 196, 44)], dtype=np.float32)
        colour = palette[np.minimum(c.per_cell(cells, 0, 4).astype(int), 3)]
        c.shade(sand * cells.disc(1.6, 0.8, 0.8), 0.6)
        c.paint(sand * cells.disc(1.6), colour)


def desert(c: Canvas, first: int, second: int) -> None:
    """Yellow sand, red sand or gravel; dunes, shrubs or a dry riverbed."""
    c.fill(((222, 190, 130), (196, 116, 72), (158, 152, 146))[first], rough=0.1, grain=0.03 if first < 2 else 0.14)
    if second == 0:
        phase = (c.u + c.wave(7, 20)) * c.uniform(0.55, 0.8)
        ridge = np.mod(phase / (2 * np.pi), 1)
        c.rgb *= (1.12 - 0.36 * ridge**2 + 0.05 * c.noise(5))[..., None]
    elif second == 1:
        cells = c.cells(7.5, 7.5)
        u, v = c.per_cell(cells, -2.2, 2.2), c.per_cell(cells, -2.2, 2.2)
        bush = (c.per_cell(cells, 0, 1) < 0.75) * cells.disc(c.per_cell(cells, 0.9, 1.8), u, v)
        c.paint(bush, c.vary((74, 84, 46)))
    else:
        middle = np.abs(c.u + c.wave(12, 24)) + c.wave(1.5, 5)
        c.paint(0.8 * edge(c.uniform(4, 6) - middle), c.vary((236, 226, 204)))
        c.paint(0.7 * edge(c.uniform(1, 1.8) - middle), c.vary((134, 108, 84)))


def orchard(c: Canvas, first: int, second: int) -> None:
    """Trees in rows on grass, brown soil or sand; small, large or in blossom."""
    c.fill(((124, 158, 78), (130, 98, 70), (212, 190, 146))[first], rough=0.1)
    pitch = float((5.5, 9.5, 7.5)[second])
    cells = c.cells(pitch, pitch * 1.08)
    radius = c.per_cell(cells, *((1.3, 1.8), (3.3, 4.1), (2.3, 2.9))[second])
    u, v = c.per_cell(cells, -0.4, 0.4), c.per_cell(cells, -0.4, 0.4)
    tree = (c.per_cell(cells, 0, 1) < 0.96) * 1.0
    c.shade(tree * cells.disc(radius, u + 0.9, v + 0.9), 0.6)
    crown = c.vary((242, 230, 232) if second == 2 else (48, 88, 40), 8)
    c.paint(tree * cells.disc(radius, u, v), crown * (1 + 0.14 * c.noise(2.5)[..., None]))


def parking(c: Canvas, first: int, second: int) -> None:
    """Asphalt, concrete or gravel; full, empty or with trees."""
    c.fill(((74, 74, 80), (188, 186, 180), (158, 132, 104))[first], rough=0.05, grain=0.04 if first < 2 else 0.12)
    cells = c.cells(3.2, 6.6)
    drive = np.mod(cells.key[1], 3) == 2
    marks = edge(0.35 - np.abs(np.abs(cells.du) - 1.6)) * ~drive
    c.paint(0.75 * marks, (236, 234, 226) if first != 1 else (120, 118, 116))
    share = (0.93, 0.08, 0.5)[second]
    parked = (c.per_cell(cells, 0, 1) < share) & ~drive
    colour = CAR_COLOURS[np.minimum(c.per_cell(cells, 0, len(CAR_COLOURS)).astype(int), len(CAR_COLOURS) - 1)]
    c.shade(parked * cells.box(1.2, 2.4, 0.4), 0.7)
    c.paint(parked * cells.box(1.15, 2.3), colour)
    if second == 2:
        trees = c.cells(6.4, 6.6)
        c.paint((np.mod(trees.key[1], 3) == 2) * trees.disc(c.per_cell(trees, 2.3, 3.0)), c.vary((46, 92, 42)))


def mountain(c: Canvas, first: int, second: int) -> None:
    """Snow with rock, conifers or blue ice; low sun, soft light or a frozen lake."""
    ridge = 1 - np.abs(c.noise(30, 4)) * 2.2
    along, across = np.gradient(ridge, axis=(1, 2))
    along, across = along * (c.size / EXTENT), across * (c.size / EXTENT)
    angle = c.uniform(0, 2 * np.pi)
    relief = np.cos(angle) * along + np.sin(angle) * across
    c.rgb[:] = c.vary((232, 236, 244), 6)
    colour = c.vary(((104, 94, 86), (36, 58, 48), (112, 176, 214))[first])
    rough = (0.12, 0.35, 0.05)[first] * c.noise(3)
    if first == 1:  # trees in the valleys, rock and ice where it is steep
        c.paint(edge(7 * (0.45 - ridge) + c.noise(6)), colour * (1 + rough)[..., None])
    else:
        c.paint(edge(12 * (np.hypot(along, across) - 0.13) + c.noise(6)), colour * (1 + rough)[..., None])
    strength = (3.4, 0.8, 1.8)[second]
    c.rgb *= np.clip(1 + strength * relief, 0.35, 1.15)[..., None]
    if second == 2:
        distance = np.hypot(c.u, c.v) + c.wave(5, 14)
        c.paint(edge(c.uniform(12, 16) - distance), c.vary((176, 206, 222), 5) * (1 + 0.05 * c.noise(4)[..., None]))


_ALL = (forest, river, farmland, residential, highway, lake, industrial, beach, desert, orchard, parking, mountain)
SCENES: dict[str, Scene] = {scene.__name__: scene for scene in _ALL}
