"""The animal's parts, each a few filled polygons; a picture is painted from back to front.

Coordinates: the middle of the body is (0, 0), x runs towards the head, y runs down, the body is about one unit
long. Random numbers come from the generator that the caller passes.
"""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw

from lib.bestiary.canvas import Canvas, Colour, bend, ellipse, shade, smooth, tube

COLOURS = {
    "red": (200, 62, 52), "orange": (232, 138, 48), "yellow": (236, 204, 78), "green": (92, 160, 84),
    "blue": (74, 118, 196), "purple": (138, 92, 172), "white": (238, 236, 230), "brown": (134, 92, 62),
}
IVORY, PINK, DARK, ORANGE = (250, 244, 222), (236, 150, 160), (44, 38, 42), (240, 132, 36)


def body_outline(shape: str) -> tuple[np.ndarray, float, float]:
    """The body as points [n, 2] and its half-length and half-height."""
    if shape == "slender":
        return smooth([(-0.66, 0), (-0.45, -0.17), (0, -0.2), (0.45, -0.18), (0.66, -0.02), (0.45, 0.17), (0, 0.2), (-0.45, 0.17)]), 0.6, 0.19
    if shape == "round":
        return ellipse(0, 0, 0.5, 0.43, steps=36), 0.46, 0.42
    if shape == "boxy":
        return smooth([(-0.54, -0.18), (-0.47, -0.34), (-0.3, -0.38), (0.3, -0.38), (0.48, -0.34), (0.55, -0.18), (0.55, 0.18), (0.47, 0.33), (0.3, 0.36), (-0.3, 0.36), (-0.47, 0.33), (-0.54, 0.18)]), 0.52, 0.35
    return smooth([(-0.58, 0.02), (-0.42, -0.38), (-0.05, -0.34), (0.3, -0.17), (0.52, -0.08), (0.5, 0.16), (0.1, 0.28), (-0.3, 0.36)]), 0.52, 0.32


def draw_tail(canvas: Canvas, kind: str, at: tuple, colour: Colour, rng: np.random.Generator) -> None:
    """The tail; `at`: where it meets the body."""
    x, y = at
    sway = rng.uniform(-0.08, 0.08)
    if kind == "fan":
        for k, angle in enumerate(np.linspace(-1.15, 0.75, 6)):
            tip = (x - 0.56 * np.cos(angle + sway), y + 0.56 * np.sin(angle + sway) - 0.06)
            feather = tube(bend((x + 0.05, y), ((x + tip[0]) / 2, (y + tip[1]) / 2), tip, 6), [0.03, 0.06, 0.08, 0.1, 0.1, 0.03])
            canvas.paint(feather, shade(colour, (1.45, 0.86)[k % 2]), "tail")
            eye = np.array(tip) * 0.88 + np.array(at) * 0.12
            canvas.paint(ellipse(eye[0], eye[1], 0.05, 0.05, steps=10), shade(colour, 0.45), "tail", 0)
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
        canvas.paint(ellipse(path[-1, 0], path[-1, 1], 0.13, 0.12, steps=14), shade(colour, 0.5), "tail")
        for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
            spike = path[-1] + 0.12 * np.array([np.cos(angle), np.sin(angle)])
            canvas.paint([spike + 0.05 * np.array([np.sin(angle), -np.cos(angle)]), spike - 0.05 * np.array([np.sin(angle), -np.cos(angle)]), spike + 0.09 * np.array([np.cos(angle), np.sin(angle)])], IVORY, "tail")


def draw_legs(
    canvas: Canvas, kind: str, length: float, height: float, colour: Colour, rng: np.random.Generator
) -> None:
    """The legs of the far side, then of the near side; length, height: half the body's."""
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


def draw_back(
    canvas: Canvas, kind: str, length: float, height: float, colour: Colour, rng: np.random.Generator
) -> None:
    """What stands or lies on the back; length, height: half the body's."""
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


def draw_pattern(
    canvas: Canvas,
    kind: str,
    outline: np.ndarray,
    length: float,
    height: float,
    colour: Colour,
    rng: np.random.Generator,
) -> None:
    """Markings on the body, kept inside its outline by drawing them on a copy and pasting through the outline."""
    if kind == "plain":
        return
    stencil = Image.new("L", canvas.picture.size, 0)
    ImageDraw.Draw(stencil).polygon(canvas.place(outline * 0.97), fill=255)
    under = canvas.picture.copy()
    pen = ImageDraw.Draw(under)

    def mark(points: np.ndarray, tone: tuple) -> None:
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


def draw_ears(canvas: Canvas, kind: str, x: float, y: float, r: float, colour: Colour, near: bool) -> None:
    """The ear or horn of one side of a head around (x, y) with radius r."""
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
        for up in (0.3, 0.55, 0.8):
            canvas.line([(x - r * (0.35 - 0.7 * up), y - r * (0.75 + 1.75 * up)), (x + r * (0.12 + 0.2 * up), y - r * (0.85 + 1.6 * up))], (170, 136, 60), 2)


def draw_mouth(canvas: Canvas, kind: str, x: float, y: float, r: float, colour: Colour) -> None:
    """Beak, trunk or muzzle of a head around (x, y) with radius r."""
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
        for dx, lit in ((0.75, 0.85), (1.05, 1.0)):
            path = bend((x + r * dx, y + r * 0.45), (x + r * (dx + 0.15), y + r * 1.2), (x + r * (dx + 0.85), y + r * 1.0), 7)
            canvas.paint(tube(path, r * np.linspace(0.17, 0.03, 7)), shade(IVORY, lit), "mouth")


def draw_eyes(canvas: Canvas, kind: str, x: float, y: float, r: float) -> None:
    """The eyes of a head around (x, y) with radius r."""
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


def draw_neck(canvas: Canvas, kind: str, start: np.ndarray, head: np.ndarray, r: float, colour: Colour) -> None:
    """The neck from the body (`start`) to the head's middle, and what hangs on it."""
    middle = ((start[0] + head[0]) / 2 + 0.04, (start[1] + head[1]) / 2)
    path = bend(start, middle, head, 9)
    if kind == "mane":
        mane = ellipse(head[0] - r * 0.35, head[1] + r * 0.2, r * 1.55, r * 1.65, steps=26)
        mane[::2] = mane[::2] + (mane[::2] - np.array(head)) * 0.22
        canvas.paint(mane, shade(colour, 0.48), "neck")
    canvas.paint(tube(path, np.linspace(r * 1.0, r * 0.62, 9) if kind != "long" else np.linspace(r * 0.9, r * 0.5, 9)), shade(colour, 0.96), "neck")
    if kind == "collar":
        canvas.paint(tube(path[3:7], [r * 0.9] * 4), (250, 250, 248), "neck")


def draw_animal(canvas: Canvas, traits: dict[str, str], missing: Collection[str], rng: np.random.Generator) -> None:
    """Paint the animal back to front; parts named in `missing` are left out (a picture can hide a trait)."""
    colour = shade(COLOURS[traits["colour"]], rng.uniform(0.92, 1.06))
    outline, length, height = body_outline(traits["shape"])
    r = 0.235
    lift = 0.62 if traits["neck"] == "long" else 0.2
    start = np.array([length * 0.72, -height * 0.35])
    head = start + np.array([0.24 + rng.uniform(-0.03, 0.05), -lift + rng.uniform(-0.05, 0.05)])
    x, y = head
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
        draw_ears(canvas, traits["ears"], x, y, r, colour, False)
    draw_neck(canvas, traits["neck"], start, head, r, colour)
    canvas.paint(ellipse(x, y, r * 1.06, r), shade(colour, 1.04), "head")
    if "mouth" not in missing:
        draw_mouth(canvas, traits["mouth"], x, y, r, colour)
    if "ears" not in missing:
        draw_ears(canvas, traits["ears"], x, y, r, colour, True)
    if "eyes" not in missing:
        draw_eyes(canvas, traits["eyes"], x, y, r)

