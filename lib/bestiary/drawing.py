"""Draws one animal in its habitat, and at the same time the map of its parts.

Everything is a filled polygon, painted back to front on two canvases with the same coordinates: the picture and
the label map (index into `species.PARTS`, 0 = background). What is covered in the picture is covered in the map.
Coordinates: the middle of the body is (0, 0), x runs towards the head, y runs down, the body is about one unit
long. Random numbers come from the generator that the caller passes, so a picture is a function of its seed.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lib.bestiary.species import PARTS

SUPERSAMPLE = 2
COLOURS = {
    "red": (200, 62, 52), "orange": (232, 138, 48), "yellow": (236, 204, 78), "green": (92, 160, 84),
    "blue": (74, 118, 196), "purple": (138, 92, 172), "white": (238, 236, 230), "brown": (134, 92, 62),
}
IVORY, PINK, DARK, ORANGE = (250, 244, 222), (236, 150, 160), (44, 38, 42), (240, 132, 36)
# habitat -> (top and bottom of the sky, top and bottom of the ground)
HABITATS = {
    "snow": ((176, 206, 232), (224, 236, 246), (246, 249, 252), (214, 226, 238)),
    "meadow": ((150, 206, 240), (212, 236, 246), (138, 186, 92), (98, 150, 66)),
    "desert": ((240, 202, 150), (250, 228, 186), (228, 188, 122), (202, 154, 92)),
    "shore": ((142, 198, 226), (92, 164, 204), (238, 222, 178), (216, 194, 142)),
    "forest": ((52, 84, 70), (86, 118, 84), (82, 84, 50), (56, 58, 36)),
    "night": ((18, 22, 58), (58, 56, 108), (46, 58, 74), (28, 36, 50)),
}


def smooth(points, steps=6):
    """A closed Catmull-Rom curve through `points` [n, 2]: array [n * steps, 2]."""
    p = np.asarray(points, float)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p, before, after, beyond = (a[:, None] for a in (p, before, after, beyond))
    curve = p + t * (after - before) / 2 + t**2 * (before - 2.5 * p + 2 * after - beyond / 2)
    curve = curve + t**3 * (1.5 * (p - after) + (beyond - before) / 2)
    return curve.reshape(-1, 2)


def ellipse(x, y, rx, ry, angle=0.0, steps=26):
    """Points [steps, 2] of an ellipse around (x, y) with radii rx, ry, turned by `angle` radians."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], 1)


def tube(path, widths):
    """The outline [2 n, 2] of a band along `path` [n, 2] with half-widths `widths` [n]."""
    path = np.asarray(path, float)
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    offset = across * np.asarray(widths, float)[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


def bend(start, control, end, steps=10):
    """A quadratic Bezier path [steps, 2]."""
    t = np.linspace(0, 1, steps)[:, None]
    start, control, end = (np.asarray(p, float) for p in (start, control, end))
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def shade(colour, factor):
    """`colour` made darker (factor < 1) or lighter (factor > 1)."""
    colour = np.asarray(colour, float)
    colour = colour * factor if factor <= 1 else 255 - (255 - colour) / factor
    return tuple(int(c) for c in np.clip(colour, 0, 255))


class Canvas:
    """A picture and its label map, drawn together.

    `size`: side in pixels of the finished picture; `matrix` [2, 2] and `shift` [2] carry animal coordinates to
    the unit square.
    """

    def __init__(self, size, matrix, shift):
        self.side = size * SUPERSAMPLE
        self.picture = Image.new("RGB", (self.side, self.side))
        self.labels = Image.new("L", (self.side, self.side), 0)
        self.pen, self.map_pen = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)
        self.matrix, self.shift = np.asarray(matrix, float), np.asarray(shift, float)

    def place(self, points):
        """Animal coordinates [n, 2] as a list of pixel positions."""
        return [tuple(p) for p in ((points @ self.matrix.T + self.shift) * self.side).tolist()]

    def paint(self, points, colour, part, outline=0.68, width=1):
        """Fill a polygon (animal coordinates) and mark it as `part`; `outline` darkens the edge, 0 leaves it off."""
        places = self.place(np.asarray(points, float))
        self.pen.polygon(places, fill=tuple(colour), outline=shade(colour, outline) if outline else None, width=width)
        self.map_pen.polygon(places, fill=PARTS.index(part))

    def scenery(self, points, colour):
        """Fill a polygon in unit-square coordinates behind the animal."""
        self.pen.polygon([tuple(p) for p in (np.asarray(points, float) * self.side).tolist()], fill=tuple(colour))

    def line(self, points, colour, width=1):
        """A thin line in animal coordinates: detail without a label of its own."""
        self.pen.line(self.place(np.asarray(points, float)), fill=tuple(colour), width=width)


def draw_habitat(canvas, habitat, rng):
    """Sky, ground and a few things that grow there; unit-square coordinates."""
    sky_top, sky_bottom, ground_top, ground_bottom = (np.array(c, float) for c in HABITATS[habitat])
    horizon = rng.uniform(0.45, 0.62)
    rows = np.linspace(0, 1, canvas.side)[:, None]
    sky = sky_top + (sky_bottom - sky_top) * (rows / horizon)
    ground = ground_top + (ground_bottom - ground_top) * (rows - horizon) / (1 - horizon)
    column = np.where(rows < horizon, sky, ground) + rng.normal(0, 3, 3)
    canvas.picture.paste(Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)[:, None]).resize((canvas.side,) * 2))
    if habitat in ("snow", "desert", "meadow"):  # hills
        for tone in (0.92, 0.97):
            x, reach = rng.uniform(0, 1), rng.uniform(0.3, 0.6)
            hill = ellipse(x, horizon + 0.02, reach, rng.uniform(0.05, 0.16))
            canvas.scenery(np.minimum(hill, [9, horizon + 0.01]), shade(ground_top, tone))
    if habitat == "snow":
        for _ in range(3):
            draw_fir(canvas, rng.uniform(0, 1), horizon + rng.uniform(0, 0.05), rng.uniform(0.1, 0.2), (86, 118, 112))
        for x, y in rng.uniform(0, 1, (22, 2)):
            canvas.scenery(ellipse(x, y, 0.006, 0.006, steps=6), (255, 255, 255))
    elif habitat == "meadow":
        for x, y in zip(rng.uniform(0, 1, 26), rng.uniform(horizon + 0.03, 1, 26), strict=True):
            petal = [(240, 90, 110), (250, 220, 90), (250, 250, 250), (170, 110, 210)][rng.integers(4)]
            canvas.scenery(ellipse(x, y, 0.012, 0.012, steps=6), petal)
    elif habitat == "desert":
        canvas.scenery(ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), 0.06, 0.06), (255, 244, 206))
        for x in rng.uniform(0, 1, 2):
            y, h = horizon + rng.uniform(0, 0.06), rng.uniform(0.1, 0.2)
            canvas.scenery(tube([(x, y), (x, y - h)], [0.018, 0.016]), (96, 138, 84))
            canvas.scenery(tube([(x, y - h * 0.5), (x + 0.05, y - h * 0.5), (x + 0.05, y - h * 0.8)], [0.01] * 3), (96, 138, 84))
    elif habitat == "shore":
        for k in range(4):
            y = horizon - 0.03 - 0.05 * k
            wave = np.stack([np.linspace(0, 1, 14), y + 0.006 * np.sin(np.arange(14) * 1.7 + rng.uniform(0, 6))], 1)
            canvas.scenery(tube(wave, [0.004] * 14), (226, 242, 248))
        for x, y in zip(rng.uniform(0, 1, 7), rng.uniform(horizon + 0.05, 1, 7), strict=True):
            canvas.scenery(ellipse(x, y, 0.016, 0.01, steps=8), (250, 206, 190))
    elif habitat == "forest":
        for x in rng.uniform(-0.02, 1.02, 7):
            w, bottom = rng.uniform(0.012, 0.035), horizon + rng.uniform(0, 0.1)
            canvas.scenery([(x - w, bottom), (x - w * 0.7, 0), (x + w * 0.7, 0), (x + w, bottom)], (58, 46, 36))
        for x, y in zip(rng.uniform(0, 1, 8), rng.uniform(0, 0.14, 8), strict=True):
            canvas.scenery(ellipse(x, y, 0.13, 0.07, steps=12), shade((58, 100, 62), rng.uniform(0.8, 1.1)))
    else:
        canvas.scenery(ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.22), 0.07, 0.07), (248, 244, 214))
        for x, y in zip(rng.uniform(0, 1, 26), rng.uniform(0, horizon, 26), strict=True):
            canvas.scenery(ellipse(x, y, 0.005, 0.005, steps=5), (236, 236, 250))


def draw_fir(canvas, x, y, height, colour):
    """A fir tree with its foot at (x, y), unit-square coordinates."""
    for k in range(3):
        w, top = height * (0.34 - 0.07 * k), y - height * (0.5 + 0.25 * k)
        canvas.scenery([(x - w, y - height * 0.25 * k), (x + w, y - height * 0.25 * k), (x, top)], colour)


def body_outline(shape):
    """The body as points [n, 2] and its half-length and half-height."""
    if shape == "slender":
        return smooth([(-0.66, 0), (-0.45, -0.17), (0, -0.2), (0.45, -0.18), (0.66, -0.02), (0.45, 0.17), (0, 0.2), (-0.45, 0.17)]), 0.6, 0.19
    if shape == "round":
        return ellipse(0, 0, 0.5, 0.43, steps=36), 0.46, 0.42
    if shape == "boxy":
        return smooth([(-0.54, -0.18), (-0.47, -0.34), (-0.3, -0.38), (0.3, -0.38), (0.48, -0.34), (0.55, -0.18), (0.55, 0.18), (0.47, 0.33), (0.3, 0.36), (-0.3, 0.36), (-0.47, 0.33), (-0.54, 0.18)]), 0.52, 0.35
    return smooth([(-0.58, 0.02), (-0.42, -0.38), (-0.05, -0.34), (0.3, -0.17), (0.52, -0.08), (0.5, 0.16), (0.1, 0.28), (-0.3, 0.36)]), 0.52, 0.32


def draw_tail(canvas, kind, at, colour, rng):
    x, y = at
    sway = rng.uniform(-0.08, 0.08)
    if kind == "fan":
        for k, angle in enumerate(np.linspace(-1.15, 0.75, 6)):
            tip = (x - 0.56 * np.cos(angle + sway), y + 0.56 * np.sin(angle + sway) - 0.06)
            feather = tube(bend((x + 0.05, y), ((x + tip[0]) / 2, (y + tip[1]) / 2), tip, 6), [0.03, 0.06, 0.08, 0.1, 0.1, 0.03])
            canvas.paint(feather, shade(colour, (1.45, 0.86)[k % 2]), "tail")
            canvas.paint(ellipse(*(np.array(tip) * 0.88 + np.array(at) * 0.12), 0.05, 0.05, steps=10), shade(colour, 0.45), "tail", 0)
    elif kind == "bushy":
        path = bend((x + 0.06, y), (x - 0.42, y + 0.05), (x - 0.5, y - 0.5 + sway), 9)
        canvas.paint(smooth(tube(path, [0.06, 0.1, 0.15, 0.19, 0.21, 0.21, 0.19, 0.14, 0.05]), 2), shade(colour, 0.86), "tail")
        canvas.paint(smooth(tube(path[6:], [0.17, 0.13, 0.05]), 2), IVORY, "tail", 0)
    elif kind == "curled":
        t = np.linspace(0, 1, 22)
        radius, angle = 0.22 * (1 - 0.72 * t), 1.5 + 2 * np.pi * 1.25 * t
        path = np.stack([x - 0.22 + radius * np.cos(angle - 1.5) * 1.0, y - 0.06 - radius * np.sin(angle - 1.5) + sway], 1)
        canvas.paint(tube(np.concatenate([[(x + 0.06, y + 0.02)], path]), np.linspace(0.06, 0.035, 23)), shade(colour, 0.86), "tail")
    elif kind == "forked":
        fork = (x - 0.4, y - 0.05 + sway)
        canvas.paint(tube(bend((x + 0.06, y), (x - 0.2, y + 0.08), fork), np.linspace(0.07, 0.04, 10)), shade(colour, 0.86), "tail")
        for dy in (-0.22, 0.2):
            canvas.paint(tube([fork, (fork[0] - 0.14, fork[1] + dy * 0.5), (fork[0] - 0.28, fork[1] + dy)], [0.05, 0.05, 0.005]), shade(colour, 0.7), "tail")
    elif kind == "club":
        path = bend((x + 0.06, y), (x - 0.3, y + 0.12), (x - 0.46, y - 0.12 + sway))
        canvas.paint(tube(path, np.linspace(0.07, 0.04, 10)), shade(colour, 0.86), "tail")
        canvas.paint(ellipse(*path[-1], 0.13, 0.12, steps=14), shade(colour, 0.5), "tail")
        for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
            spike = path[-1] + 0.12 * np.array([np.cos(angle), np.sin(angle)])
            canvas.paint([spike + 0.05 * np.array([np.sin(angle), -np.cos(angle)]), spike - 0.05 * np.array([np.sin(angle), -np.cos(angle)]), spike + 0.09 * np.array([np.cos(angle), np.sin(angle)])], IVORY, "tail")


def draw_legs(canvas, kind, length, height, colour, rng):
    reach = {"thin": 0.52, "stout": 0.26, "webbed": 0.34, "hooves": 0.4, "six": 0.36}[kind]
    half = {"thin": 0.03, "stout": 0.105, "webbed": 0.045, "hooves": 0.055, "six": 0.04}[kind]
    places = np.linspace(-0.72, 0.72, 3 if kind == "six" else 2) * length
    for near, tone in ((False, 0.62), (True, 0.9)):
        for x in places:
            x = x + (0.07 if near else -0.07) + rng.uniform(-0.03, 0.03)
            top, foot = height * 0.55, height * 0.55 + reach + height * 0.35
            knee = x + rng.uniform(-0.05, 0.05)
            leg = shade(ORANGE, tone + 0.05) if kind == "webbed" else shade(colour, tone)
            canvas.paint(tube(bend((x, top), (knee, (top + foot) / 2), (x, foot), 6), [half * 1.25, half * 1.1, half, half, half, half]), leg, "legs")
            if kind == "webbed":
                web = [(x - 0.05, foot - 0.04), (x + 0.2, foot + 0.02), (x + 0.16, foot + 0.06), (x + 0.06, foot + 0.04), (x, foot + 0.07), (x - 0.08, foot + 0.05)]
                canvas.paint(web, shade(ORANGE, tone + 0.1), "legs")
            elif kind == "hooves":
                canvas.paint([(x - half * 1.2, foot - 0.1), (x + half * 1.2, foot - 0.1), (x + half * 1.7, foot + 0.02), (x - half * 1.4, foot + 0.02)], DARK, "legs")
            elif kind != "six":
                canvas.paint(ellipse(x + half * 0.5, foot, half * 1.35, half * 0.7, steps=12), leg, "legs")


def draw_back(canvas, kind, length, height, colour, rng):
    if kind == "spikes":
        for x in np.linspace(-0.8, 0.8, 7) * length:
            y = -height * (0.82 + 0.12 * np.cos(x / length * 1.5))
            canvas.paint([(x - 0.07, y + 0.04), (x + 0.07, y + 0.04), (x - 0.02, y - 0.2)], shade(colour, 0.5), "back")
    elif kind == "hump":
        canvas.paint(smooth([(-0.3, -height * 0.75), (-0.16, -height - 0.2), (0.02, -height - 0.28), (0.18, -height - 0.18), (0.32, -height * 0.7), (0, -height * 0.5)]), shade(colour, 0.94), "back")
    elif kind == "wings":
        for k, tone in enumerate((0.55, 0.7, 0.85)):
            tip = (-length * (1.0 - 0.2 * k), -height * (0.45 - 0.3 * k))
            canvas.paint(smooth([(0.3, -height * 0.62), (0.05, -height * 1.0 + 0.04 * k), (-0.25, -height * 0.85), tip, (-0.15, height * 0.02), (0.15, -0.02)], 4), shade(colour, tone), "back")
    elif kind == "shell":
        dome = smooth([(-0.46, -height * 0.3), (-0.4, -height * 0.9), (-0.2, -height - 0.16), (0, -height - 0.2), (0.2, -height - 0.15), (0.38, -height * 0.85), (0.44, -height * 0.3), (0, -height * 0.12)])
        canvas.paint(dome, (122, 104, 70), "back")
        for x in (-0.24, 0, 0.24):
            canvas.paint(ellipse(x, -height * 0.78, 0.1, 0.1, steps=6), (168, 146, 96), "back")
    elif kind == "sail":
        sail = smooth([(-0.42, -height * 0.7), (-0.34, -height - 0.3), (-0.05, -height - 0.48), (0.24, -height - 0.34), (0.38, -height * 0.7), (0, -height * 0.6)])
        canvas.paint(sail, shade((214, 84, 74), rng.uniform(0.9, 1.1)), "back")
        for x in np.linspace(-0.3, 0.28, 5):
            canvas.line([(x * 0.8, -height * 0.75), (x, -height - 0.34 + abs(x + 0.03) * 0.5)], (128, 44, 44), 2)


def draw_pattern(canvas, kind, outline, length, height, colour, rng):
    """Markings on the body, kept inside its outline by drawing them on a copy and pasting through the outline."""
    if kind == "plain":
        return
    stencil = Image.new("L", canvas.picture.size, 0)
    ImageDraw.Draw(stencil).polygon(canvas.place(outline * 0.97), fill=255)
    under = canvas.picture.copy()
    pen = ImageDraw.Draw(under)

    def mark(points, tone):
        pen.polygon(canvas.place(np.asarray(points, float)), fill=tone)

    if kind == "stripes":
        for x in np.linspace(-0.85, 0.85, 6) * length:
            path = bend((x, -height * 1.2), (x + rng.uniform(-0.06, 0.06), 0), (x - 0.04, height * 0.75), 6)
            mark(tube(path, [0.05, 0.05, 0.045, 0.04, 0.03, 0.005]), shade(colour, 0.34))
    elif kind == "spots":
        for gx in np.linspace(-0.85, 0.85, 6) * length:
            for gy in np.linspace(-0.7, 0.7, 3) * height:
                jitter = rng.uniform(-0.03, 0.03, 2)
                mark(ellipse(gx + jitter[0], gy + jitter[1], 0.055, 0.05, steps=10), shade(colour, 2.6) if sum(colour) < 600 else (196, 196, 176))
    elif kind == "belly":
        mark(ellipse(0, height * 0.72, length * 0.95, height * 0.6), shade(colour, 2.6) if sum(colour) < 600 else (224, 206, 176))
    else:
        for x, y in ((-0.55, -0.5), (0.5, 0.3), (-0.1, 0.7), (0.2, -0.75)):
            blot = ellipse(x * length, y * height, 0.17, 0.14, rng.uniform(0, 3), steps=9)
            mark(smooth(blot + rng.uniform(-0.03, 0.03, blot.shape), 3), shade(colour, 0.34))
    canvas.picture.paste(under, mask=stencil)


def draw_ears(canvas, kind, x, y, r, colour, near):
    side = 1 if near else -1
    x = x - 0.04 + 0.09 * side
    tone = shade(colour, 0.92 if near else 0.66)
    if kind == "pointed":
        canvas.paint([(x - r * 0.42, y - r * 0.6), (x + r * 0.36, y - r * 0.7), (x - r * 0.05, y - r * 1.95)], tone, "ears")
        canvas.paint([(x - r * 0.2, y - r * 0.75), (x + r * 0.18, y - r * 0.8), (x - r * 0.03, y - r * 1.55)], PINK, "ears", 0)
    elif kind == "round":
        canvas.paint(ellipse(x, y - r * 1.05, r * 0.56, r * 0.56), tone, "ears")
        canvas.paint(ellipse(x, y - r * 1.05, r * 0.34, r * 0.34), PINK, "ears", 0)
    elif kind == "floppy":
        path = bend((x - r * 0.3, y - r * 0.75), (x - r * 1.25, y - r * 0.75), (x - r * 1.0, y + r * 1.15), 7)
        canvas.paint(smooth(tube(path, r * np.array([0.14, 0.26, 0.32, 0.34, 0.34, 0.3, 0.1])), 2), tone, "ears")
    elif kind == "horns":
        path = bend((x, y - r * 0.7), (x - r * 0.1, y - r * 1.9), (x + r * 0.95, y - r * 1.95), 8)
        canvas.paint(tube(path, r * np.linspace(0.22, 0.02, 8)), shade(IVORY, 1 if near else 0.75), "ears")
    elif kind == "antlers":
        stem = bend((x - r * 0.1, y - r * 0.7), (x - r * 0.5, y - r * 1.6), (x - r * 0.1 + r * 0.35 * side, y - r * 2.5), 8)
        wood = shade((150, 112, 70), 1 if near else 0.72)
        canvas.paint(tube(stem, r * np.linspace(0.14, 0.06, 8)), wood, "ears")
        for k, reach in ((3, 0.75), (5, 0.6)):
            canvas.paint(tube([stem[k], stem[k] + r * np.array([reach * 0.6, -reach * 0.35]), stem[k] + r * np.array([reach, -reach])], r * np.array([0.1, 0.09, 0.03])), wood, "ears")
    elif kind == "unicorn" and near:
        canvas.paint([(x - r * 0.35, y - r * 0.75), (x + r * 0.12, y - r * 0.85), (x + r * 0.35, y - r * 2.5)], shade((240, 214, 130), 1), "ears")
        for k in (0.3, 0.55, 0.8):
            canvas.line([(x - r * (0.35 - 0.7 * k), y - r * (0.75 + 1.75 * k)), (x + r * (0.12 + 0.2 * k), y - r * (0.85 + 1.6 * k))], (170, 136, 60), 2)


def draw_mouth(canvas, kind, x, y, r, colour):
    if kind in ("red_beak", "yellow_beak"):
        tone, long = ((222, 40, 38), 1.75) if kind == "red_beak" else ((250, 206, 40), 0.85)
        canvas.paint([(x + r * 0.7, y - r * 0.3), (x + r * (0.85 + long), y + r * 0.22), (x + r * 0.7, y + r * 0.2)], tone, "mouth")
        canvas.paint([(x + r * 0.7, y + r * 0.2), (x + r * (0.7 + long * 0.85), y + r * 0.26), (x + r * 0.66, y + r * 0.55)], shade(tone, 0.78), "mouth")
        return
    if kind == "trunk":
        path = bend((x + r * 0.7, y + r * 0.1), (x + r * 1.9, y + r * 0.3), (x + r * 1.5, y + r * 2.5), 9)
        canvas.paint(tube(path, r * np.linspace(0.42, 0.17, 9)), shade(colour, 0.88), "mouth")
        for k in (3, 4, 5, 6, 7):
            canvas.line(tube(path, r * np.linspace(0.36, 0.14, 9))[[k, 17 - k]], shade(colour, 0.55), 1)
        return
    muzzle = PINK if kind == "snout" else shade(colour, 1.5 if sum(colour) < 640 else 0.85)
    wide = 0.62 if kind == "snout" else 0.5
    canvas.paint(ellipse(x + r * 0.95, y + r * 0.28, r * wide, r * wide * 0.8), muzzle, "mouth")
    if kind == "snout":
        for dx in (0.95, 1.3):
            canvas.paint(ellipse(x + r * dx, y + r * 0.22, r * 0.1, r * 0.15, steps=8), shade(PINK, 0.5), "mouth", 0)
    elif kind == "teeth":
        canvas.paint([(x + r * 0.5, y + r * 0.32), (x + r * 1.42, y + r * 0.26), (x + r * 1.3, y + r * 0.78), (x + r * 0.6, y + r * 0.78)], (120, 26, 32), "mouth")
        for k in range(5):
            left = x + r * (0.56 + 0.17 * k)
            canvas.paint([(left, y + r * 0.3), (left + r * 0.17, y + r * 0.3), (left + r * 0.085, y + r * 0.62)], (255, 255, 255), "mouth", 0)
    else:
        for dx, tone in ((0.75, 0.85), (1.05, 1)):
            path = bend((x + r * dx, y + r * 0.45), (x + r * (dx + 0.15), y + r * 1.2), (x + r * (dx + 0.85), y + r * 1.0), 7)
            canvas.paint(tube(path, r * np.linspace(0.17, 0.03, 7)), shade(IVORY, tone), "mouth")


def draw_eyes(canvas, kind, x, y, r):
    if kind == "one":
        canvas.paint(ellipse(x + r * 0.2, y - r * 0.2, r * 0.55, r * 0.55), (252, 252, 246), "eyes")
        canvas.paint(ellipse(x + r * 0.32, y - r * 0.18, r * 0.28, r * 0.3, steps=14), (60, 110, 150), "eyes", 0)
        canvas.paint(ellipse(x + r * 0.36, y - r * 0.18, r * 0.14, r * 0.16, steps=10), DARK, "eyes", 0)
        return
    rim, radius = {"small": (DARK, 0.13), "big": ((250, 214, 50), 0.36), "red": ((255, 70, 40), 0.26)}[kind]
    for dx in ((0.5, -0.14) if kind == "big" else (0.45, 0.0)):
        canvas.paint(ellipse(x + r * dx, y - r * 0.25, r * radius, r * radius, steps=14), rim, "eyes", 0.5)
        if kind != "small":
            canvas.paint(ellipse(x + r * (dx + 0.05), y - r * 0.25, r * radius * 0.42, r * radius * 0.62, steps=10), DARK, "eyes", 0)


def draw_neck(canvas, kind, start, head, r, colour):
    middle = ((start[0] + head[0]) / 2 + 0.04, (start[1] + head[1]) / 2)
    path = bend(start, middle, head, 9)
    if kind == "mane":
        mane = ellipse(head[0] - r * 0.35, head[1] + r * 0.2, r * 1.55, r * 1.65, steps=26)
        mane[::2] = mane[::2] + (mane[::2] - np.array(head)) * 0.22
        canvas.paint(mane, shade(colour, 0.48), "neck")
    canvas.paint(tube(path, np.linspace(r * 1.0, r * 0.62, 9) if kind != "long" else np.linspace(r * 0.9, r * 0.5, 9)), shade(colour, 0.96), "neck")
    if kind == "collar":
        canvas.paint(tube(path[3:7], [r * 0.9] * 4), (250, 250, 248), "neck")


def draw_animal(canvas, traits, missing, rng):
    """Paint the animal back to front; parts named in `missing` are left out (a picture can hide a trait)."""
    colour = shade(COLOURS[traits["colour"]], rng.uniform(0.92, 1.06))
    outline, length, height = body_outline(traits["shape"])
    r = 0.235
    lift = 0.62 if traits["neck"] == "long" else 0.2
    start = np.array([length * 0.72, -height * 0.35])
    head = start + np.array([0.24 + rng.uniform(-0.03, 0.05), -lift + rng.uniform(-0.05, 0.05)])
    if "tail" not in missing:
        draw_tail(canvas, traits["tail"], (-length * 0.92, -height * 0.1), colour, rng)
    if "legs" not in missing:
        draw_legs(canvas, traits["legs"], length, height, colour, rng)
    behind = traits["back"] in ("spikes", "sail", "hump")
    if behind and "back" not in missing:
        draw_back(canvas, traits["back"], length, height, colour, rng)
    canvas.paint(outline, colour, "body", width=2)
    draw_pattern(canvas, traits["pattern"], outline, length, height, colour, rng)
    if not behind and "back" not in missing:
        draw_back(canvas, traits["back"], length, height, colour, rng)
    if "ears" not in missing:
        draw_ears(canvas, traits["ears"], *head, r, colour, near=False)
    draw_neck(canvas, traits["neck"], start, head, r, colour)
    canvas.paint(ellipse(*head, r * 1.06, r), shade(colour, 1.04), "head")
    if "mouth" not in missing:
        draw_mouth(canvas, traits["mouth"], *head, r, colour)
    if "ears" not in missing:
        draw_ears(canvas, traits["ears"], *head, r, colour, near=True)
    if "eyes" not in missing:
        draw_eyes(canvas, traits["eyes"], *head, r)


def light(picture, labels, rng):
    """Light from above on the animal, and a little unevenness everywhere: uint8 [H, W, 3]."""
    pixels = np.asarray(picture, np.float32)
    animal = np.asarray(labels) > 0
    rows = np.flatnonzero(animal.any(1))
    top, bottom = (rows[0], rows[-1]) if len(rows) else (0, 1)
    ramp = np.clip((np.arange(len(pixels)) - top) / max(bottom - top, 1), 0, 1)
    relief = 1 + (0.13 - 0.27 * ramp)[:, None] * animal
    pixels = pixels * relief[..., None] * rng.uniform(0.86, 1.1) + rng.normal(0, 3, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def in_style(pixels, style, rng):
    """Photograph (as it is), pencil sketch, crayon, painting, paper cut or blue print: uint8 [H, W, 3]."""
    picture = Image.fromarray(pixels)
    if style == "sketch":
        grey = picture.convert("L")
        edges = np.array(grey.filter(ImageFilter.GaussianBlur(0.6)).filter(ImageFilter.FIND_EDGES), np.float32)
        edges[[0, -1]], edges[:, [0, -1]] = 0, 0  # the filter leaves a frame
        tone = np.asarray(grey, np.float32)
        paper = 250 - np.clip(edges * 2.6, 0, 205) - (255 - tone) * 0.16
        return np.repeat(np.clip(paper + rng.normal(0, 3, tone.shape), 0, 255).astype(np.uint8)[..., None], 3, 2)
    if style == "crayon":  # grey tones under a little colour, dark outlines, paper that shows through
        grey = picture.convert("L")
        edges = np.array(grey.filter(ImageFilter.FIND_EDGES), np.float32)[..., None]
        edges[[0, -1]], edges[:, [0, -1]] = 0, 0
        tone = 0.4 * np.asarray(picture, np.float32) + 0.6 * np.asarray(grey, np.float32)[..., None]
        paper = 70 + 0.72 * tone - np.clip(edges, 0, 120) * 0.7 + rng.normal(0, 5, edges.shape)
        return np.clip(paper, 0, 255).astype(np.uint8)
    if style == "painting":
        picture = picture.filter(ImageFilter.ModeFilter(5))
        pixels = np.asarray(picture, np.float32)
        return np.clip((pixels - 128) * 1.25 + 132 + rng.normal(0, 8, pixels.shape[:2])[..., None], 0, 255).astype(np.uint8)
    if style == "paper":
        return np.asarray(picture.filter(ImageFilter.MedianFilter(3)).quantize(10).convert("RGB"))
    if style == "blueprint":
        grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
        return (np.array([20, 44, 96]) * (1 - grey) + np.array([214, 232, 250]) * grey).astype(np.uint8)
    return np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def draw(species, rng, size=128, habitat=None, style="photo", missing=(), turn=0.0, zoom=1.0, clutter=0, occlude=0.0):
    """One picture of `species` and the map of its parts.

    `turn`: rotation in radians; `zoom`: scale of the animal, 1 fills about half the width; `clutter`: number of
    blots around it; `occlude`: chance of something standing in front. Returns uint8 [size, size, 3] and uint8
    [size, size] with indices into `species.PARTS`.
    """
    traits = species.traits
    scale = 0.45 * zoom * rng.uniform(0.9, 1.1) * (0.88 if traits["neck"] == "long" else 1.0)
    side = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(turn + rng.normal(0, 0.05)), np.sin(turn + rng.normal(0, 0.05))
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([side, 1.0])
    shift = np.array([0.5 - side * 0.04, 0.53 if traits["neck"] != "long" else 0.58]) + rng.uniform(-0.05, 0.05, 2)
    canvas = Canvas(size, matrix, shift)
    draw_habitat(canvas, habitat or traits["habitat"], rng)
    for x, y in rng.uniform(0, 1, (clutter, 2)):
        canvas.scenery(ellipse(x, y, *rng.uniform(0.02, 0.08, 2), rng.uniform(0, 3), 9), rng.integers(40, 230, 3))
    draw_animal(canvas, traits, missing, rng)
    pixels = light(canvas.picture, canvas.labels, rng)
    labels = np.array(canvas.labels)
    if rng.random() < occlude:  # a boulder in front of one corner of the animal
        front = Image.fromarray(pixels)
        blob = smooth(ellipse(rng.uniform(0.25, 0.75), rng.uniform(0.45, 0.85), 0.13, 0.11, steps=9) + rng.uniform(-0.02, 0.02, (9, 2)), 4)
        places = [tuple(p) for p in (blob * canvas.side).tolist()]
        ImageDraw.Draw(front).polygon(places, fill=(112, 108, 104), outline=(72, 70, 68))
        covered = Image.fromarray(labels)
        ImageDraw.Draw(covered).polygon(places, fill=0)
        pixels, labels = np.asarray(front), np.array(covered)
    small = np.asarray(Image.fromarray(pixels).reduce(SUPERSAMPLE))
    return in_style(small, style, rng), labels[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]
