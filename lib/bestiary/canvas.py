"""Curves and the two canvases that everything is painted on.

Everything is a filled polygon, painted back to front on two canvases with the same coordinates: the picture and
the label map (index into `species.PARTS`, 0 = background). What is covered in the picture is covered in the map.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from lib.bestiary.species import PARTS

SUPERSAMPLE = 2  # pictures are painted so many times as large, and scaled down
Colour: TypeAlias = Sequence[int] | np.ndarray  # red, green, blue; 0 to 255


def smooth(points: ArrayLike, steps: int = 6) -> np.ndarray:
    """A closed Catmull-Rom curve through `points` [n, 2]: array [n * steps, 2]."""
    p = np.asarray(points, float)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p, before, after, beyond = (a[:, None] for a in (p, before, after, beyond))
    curve = p + t * (after - before) / 2 + t**2 * (before - 2.5 * p + 2 * after - beyond / 2)
    curve = curve + t**3 * (1.5 * (p - after) + (beyond - before) / 2)
    return curve.reshape(-1, 2)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, steps: int = 26) -> np.ndarray:
    """Points [steps, 2] of an ellipse around (x, y) with radii rx, ry, turned by `angle` radians."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], 1)


def tube(path: ArrayLike, widths: ArrayLike) -> np.ndarray:
    """The outline [2 n, 2] of a band along `path` [n, 2] with half-widths `widths` [n]."""
    path = np.asarray(path, float)
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    offset = across * np.asarray(widths, float)[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


def bend(start: ArrayLike, control: ArrayLike, end: ArrayLike, steps: int = 10) -> np.ndarray:
    """A quadratic Bezier path [steps, 2]."""
    t = np.linspace(0, 1, steps)[:, None]
    a, b, c = (np.asarray(p, float) for p in (start, control, end))
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def shade(colour: Colour, factor: float) -> tuple[int, ...]:
    """`colour` made darker (factor < 1) or lighter (factor > 1)."""
    tone = np.asarray(colour, float)
    tone = tone * factor if factor <= 1 else 255 - (255 - tone) / factor
    return tuple(int(c) for c in np.clip(tone, 0, 255))


class Canvas:
    """A picture and its label map, drawn together.

    `size`: side in pixels of the finished picture; `matrix` [2, 2] and `shift` [2] carry animal coordinates to
    the unit square.
    """

    def __init__(self, size: int, matrix: ArrayLike, shift: ArrayLike):
        self.side = size * SUPERSAMPLE
        self.picture = Image.new("RGB", (self.side, self.side))
        self.labels = Image.new("L", (self.side, self.side), 0)
        self.pen, self.map_pen = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)
        self.matrix, self.shift = np.asarray(matrix, float), np.asarray(shift, float)

    def place(self, points: np.ndarray) -> list[tuple]:
        """Animal coordinates [n, 2] as a list of pixel positions."""
        return [tuple(p) for p in ((points @ self.matrix.T + self.shift) * self.side).tolist()]

    def paint(self, points: ArrayLike, colour: Colour, part: str, outline: float = 0.68, width: int = 1) -> None:
        """Fill a polygon (animal coordinates) and mark it as `part`; `outline` darkens the edge, 0 leaves it off."""
        places = self.place(np.asarray(points, float))
        self.pen.polygon(places, fill=tuple(colour), outline=shade(colour, outline) if outline else None, width=width)
        self.map_pen.polygon(places, fill=PARTS.index(part))

    def scenery(self, points: ArrayLike, colour: Colour) -> None:
        """Fill a polygon in unit-square coordinates behind the animal."""
        self.pen.polygon([tuple(p) for p in (np.asarray(points, float) * self.side).tolist()], fill=tuple(colour))

    def line(self, points: ArrayLike, colour: Colour, width: int = 1) -> None:
        """A thin line in animal coordinates: detail without a label of its own."""
        self.pen.line(self.place(np.asarray(points, float)), fill=tuple(colour), width=width)
