"""Draws one animal in its habitat, and at the same time the map of its parts."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lib.bestiary.animal import draw_animal
from lib.bestiary.canvas import SUPERSAMPLE, Canvas, ellipse, smooth
from lib.bestiary.habitats import draw_habitat
from lib.bestiary.species import Species


@dataclass(frozen=True)
class Scene:
    """How an animal is shown.

    habitat: None for the animal's own. style: see `in_style`. missing: parts that are left out, so that a picture can
    hide a trait. turn: rotation in radians. zoom: scale of the animal, 1 fills about half the width. clutter: number
    of blots around it. occlude: chance of something standing in front.
    """

    habitat: str | None = None
    style: str = "photo"
    missing: tuple[str, ...] = ()
    turn: float = 0.0
    zoom: float = 1.0
    clutter: int = 0
    occlude: float = 0.0


def draw(
    species: Species, rng: np.random.Generator, size: int = 128, scene: Scene | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One picture of `species` and the map of its parts; a function of the scene and of the generator's state.

    Returns uint8 [size, size, 3] and uint8 [size, size] with indices into `species.PARTS`.
    """
    scene = scene or Scene()
    traits = species.traits
    scale = 0.45 * scene.zoom * rng.uniform(0.9, 1.1) * (0.88 if traits["neck"] == "long" else 1.0)
    side = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(scene.turn + rng.normal(0, 0.05)), np.sin(scene.turn + rng.normal(0, 0.05))
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([side, 1.0])
    shift = np.array([0.5 - side * 0.04, 0.53 if traits["neck"] != "long" else 0.58]) + rng.uniform(-0.05, 0.05, 2)
    canvas = Canvas(size, matrix, shift)
    draw_habitat(canvas, scene.habitat or traits["habitat"], rng)
    for x, y in rng.uniform(0, 1, (scene.clutter, 2)):
        rx, ry = rng.uniform(0.02, 0.08, 2)
        canvas.scenery(ellipse(x, y, rx, ry, rng.uniform(0, 3), 9), rng.integers(40, 230, 3))
    draw_animal(canvas, traits, scene.missing, rng)
    pixels = light(canvas.picture, canvas.labels, rng)
    labels = np.array(canvas.labels)
    if rng.random() < scene.occlude:
        pixels, labels = behind_a_boulder(pixels, labels, rng)
    small = np.asarray(Image.fromarray(pixels).reduce(SUPERSAMPLE))
    return in_style(small, scene.style, rng), labels[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]


def light(picture: Image.Image, labels: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Light from above on the animal, and a little unevenness everywhere: uint8 [H, W, 3]."""
    pixels = np.asarray(picture, np.float32)
    animal = np.asarray(labels) > 0
    rows = np.flatnonzero(animal.any(1))
    top, bottom = (rows[0], rows[-1]) if len(rows) else (0, 1)
    ramp = np.clip((np.arange(len(pixels)) - top) / max(bottom - top, 1), 0, 1)
    relief = 1 + (0.13 - 0.27 * ramp)[:, None] * animal
    lit = pixels * relief[..., None] * rng.uniform(0.86, 1.1) + rng.normal(0, 3, 3)
    return np.clip(lit, 0, 255).astype(np.uint8)


def behind_a_boulder(pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 [H, W, 3] and its map [H, W] with something in front of one corner of the animal."""
    blob = ellipse(rng.uniform(0.25, 0.75), rng.uniform(0.45, 0.85), 0.13, 0.11, steps=9)
    blob = smooth(blob + rng.uniform(-0.02, 0.02, (9, 2)), 4)
    places = [tuple(p) for p in (blob * len(pixels)).tolist()]
    front, covered = Image.fromarray(pixels), Image.fromarray(labels)
    ImageDraw.Draw(front).polygon(places, fill=(112, 108, 104), outline=(72, 70, 68))
    ImageDraw.Draw(covered).polygon(places, fill=0)
    return np.asarray(front), np.array(covered)


def in_style(pixels: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
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
        strokes = np.asarray(picture.filter(ImageFilter.ModeFilter(5)), np.float32)
        rough = (strokes - 128) * 1.25 + 132 + rng.normal(0, 8, pixels.shape[:2])[..., None]
        return np.clip(rough, 0, 255).astype(np.uint8)
    if style == "paper":
        return np.asarray(picture.filter(ImageFilter.MedianFilter(3)).quantize(10).convert("RGB"))
    if style == "blueprint":
        light_of = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
        return (np.array([20, 44, 96]) * (1 - light_of) + np.array([214, 232, 250]) * light_of).astype(np.uint8)
    return np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
