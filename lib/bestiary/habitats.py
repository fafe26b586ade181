"""Where the animals live: sky, ground and a few things that grow there, in unit-square coordinates."""

import numpy as np
from PIL import Image

from lib.bestiary.canvas import Canvas, Colour, ellipse, shade, tube

# habitat -> (top and bottom of the sky, top and bottom of the ground)
HABITATS = {
    "snow": ((176, 206, 232), (224, 236, 246), (246, 249, 252), (214, 226, 238)),
    "meadow": ((150, 206, 240), (212, 236, 246), (138, 186, 92), (98, 150, 66)),
    "desert": ((240, 202, 150), (250, 228, 186), (228, 188, 122), (202, 154, 92)),
    "shore": ((142, 198, 226), (92, 164, 204), (238, 222, 178), (216, 194, 142)),
    "forest": ((52, 84, 70), (86, 118, 84), (82, 84, 50), (56, 58, 36)),
    "night": ((18, 22, 58), (58, 56, 108), (46, 58, 74), (28, 36, 50)),
}


def draw_habitat(canvas: Canvas, habitat: str, rng: np.random.Generator) -> None:
    """Sky and ground with the horizon somewhere below the middle, hills, and what the habitat is known by."""
    sky_top, sky_bottom, ground_top, ground_bottom = (np.array(c, float) for c in HABITATS[habitat])
    horizon = rng.uniform(0.45, 0.62)
    rows = np.linspace(0, 1, canvas.side)[:, None]
    sky = sky_top + (sky_bottom - sky_top) * (rows / horizon)
    ground = ground_top + (ground_bottom - ground_top) * (rows - horizon) / (1 - horizon)
    column = np.where(rows < horizon, sky, ground) + rng.normal(0, 3, 3)
    canvas.picture.paste(Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)[:, None]).resize((canvas.side,) * 2))
    if habitat in ("snow", "desert", "meadow"):
        for tone in (0.92, 0.97):
            x, reach = rng.uniform(0, 1), rng.uniform(0.3, 0.6)
            hill = ellipse(x, horizon + 0.02, reach, rng.uniform(0.05, 0.16))
            canvas.scenery(np.minimum(hill, [9, horizon + 0.01]), shade(ground_top, tone))
    KNOWN_BY[habitat](canvas, horizon, rng)


def _firs(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    for _ in range(3):
        _fir(canvas, rng.uniform(0, 1), horizon + rng.uniform(0, 0.05), rng.uniform(0.1, 0.2), (86, 118, 112))
    for x, y in rng.uniform(0, 1, (22, 2)):
        canvas.scenery(ellipse(x, y, 0.006, 0.006, steps=6), (255, 255, 255))


def _fir(canvas: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    for k in range(3):
        w, top = height * (0.34 - 0.07 * k), y - height * (0.5 + 0.25 * k)
        canvas.scenery([(x - w, y - height * 0.25 * k), (x + w, y - height * 0.25 * k), (x, top)], colour)


def _flowers(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    for x, y in zip(rng.uniform(0, 1, 26), rng.uniform(horizon + 0.03, 1, 26), strict=True):
        petal = [(240, 90, 110), (250, 220, 90), (250, 250, 250), (170, 110, 210)][rng.integers(4)]
        canvas.scenery(ellipse(x, y, 0.012, 0.012, steps=6), petal)


def _cactuses(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    green = (96, 138, 84)
    canvas.scenery(ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), 0.06, 0.06), (255, 244, 206))
    for x in rng.uniform(0, 1, 2):
        y, h = horizon + rng.uniform(0, 0.06), rng.uniform(0.1, 0.2)
        canvas.scenery(tube([(x, y), (x, y - h)], [0.018, 0.016]), green)
        arm = [(x, y - h * 0.5), (x + 0.05, y - h * 0.5), (x + 0.05, y - h * 0.8)]
        canvas.scenery(tube(arm, [0.01] * 3), green)


def _waves(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    for k in range(4):
        y = horizon - 0.03 - 0.05 * k
        wave = np.stack([np.linspace(0, 1, 14), y + 0.006 * np.sin(np.arange(14) * 1.7 + rng.uniform(0, 6))], 1)
        canvas.scenery(tube(wave, [0.004] * 14), (226, 242, 248))
    for x, y in zip(rng.uniform(0, 1, 7), rng.uniform(horizon + 0.05, 1, 7), strict=True):
        canvas.scenery(ellipse(x, y, 0.016, 0.01, steps=8), (250, 206, 190))


def _trunks(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    for x in rng.uniform(-0.02, 1.02, 7):
        w, bottom = rng.uniform(0.012, 0.035), horizon + rng.uniform(0, 0.1)
        canvas.scenery([(x - w, bottom), (x - w * 0.7, 0), (x + w * 0.7, 0), (x + w, bottom)], (58, 46, 36))
    for x, y in zip(rng.uniform(0, 1, 8), rng.uniform(0, 0.14, 8), strict=True):
        canvas.scenery(ellipse(x, y, 0.13, 0.07, steps=12), shade((58, 100, 62), rng.uniform(0.8, 1.1)))


def _moon(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    canvas.scenery(ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.22), 0.07, 0.07), (248, 244, 214))
    for x, y in zip(rng.uniform(0, 1, 26), rng.uniform(0, horizon, 26), strict=True):
        canvas.scenery(ellipse(x, y, 0.005, 0.005, steps=5), (236, 236, 250))


KNOWN_BY = {
    "snow": _firs,
    "meadow": _flowers,
    "desert": _cactuses,
    "shore": _waves,
    "forest": _trunks,
    "night": _moon,
}
