"""The bestiary: a small world of invented animals whose truth is known.

Pictures are drawn when they are asked for. A picture is a function of (split, index) alone: the order in which
pictures are drawn, and how many processes draw them, changes nothing.
"""

import hashlib
import json
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter

from lib import store
from lib.bestiary import captions, drawing
from lib.bestiary.species import PART_OF_TRAIT, PARTS, TRAITS, all_species

VERSION = 1  # raise it when a picture, a caption or a split changes: it is part of every fingerprint
SPECIES = all_species()
HABITATS = tuple(TRAITS["habitat"])
WEB_STYLES = (("photo", 0.8), ("sketch", 0.05), ("painting", 0.06), ("paper", 0.05), ("blueprint", 0.04))
# split -> (number in the seed, pictures a species). The five shifts are shifts of val.
SPLITS = {
    "web": (1, 500),
    "train": (2, 100),
    "val": (3, 8),
    "v2": (4, 8),
    "renditions": (5, 8),
    "sketch": (6, 8),
    "objects": (7, 8),
    "adversarial": (8, 8),
}
SHIFTS = ("v2", "renditions", "sketch", "objects", "adversarial")
MOST = 3000  # pictures that an album holds; one takes 64 kB
ADVERSARIAL = Path(__file__).parents[2] / "data" / "bestiary" / "adversarial.json"


@dataclass(frozen=True)
class Plan:
    """Everything about one picture that is decided before it is drawn."""

    species: int
    habitat: str
    style: str
    missing: tuple
    options: dict
    circle: str | None
    visible: tuple


def plan(split, index):
    """The plan of picture `index` of `split`, and the generator that goes on to draw it."""
    rng = np.random.default_rng([SPLITS[split][0], index])
    label = index % len(SPECIES)
    traits = SPECIES[label].traits
    home, style, turn, zoom, clutter, occlude, circle = 0.8, "photo", 0.0, 1.0, 0, 0.08, None
    if split == "web":
        names, shares = zip(*WEB_STYLES, strict=True)
        style = str(rng.choice(names, p=shares))
        turn, zoom, clutter = rng.normal(0, 0.2), rng.uniform(0.75, 1.15), int(rng.integers(0, 4))
        circle = str(rng.choice(["plain", "grey", "blur"])) if rng.random() < 0.12 else None
    elif split == "train":
        zoom, turn = rng.uniform(0.85, 1.1), rng.normal(0, 0.08)
    elif split == "val":
        zoom, turn, clutter = rng.uniform(0.8, 1.15), rng.normal(0, 0.12), int(rng.integers(0, 2))
    elif split == "v2":
        zoom, turn, clutter, occlude = (
            rng.uniform(0.72, 1.12),
            rng.normal(0, 0.18),
            int(rng.integers(0, 4)),
            0.15,
        )
    elif split == "renditions":
        style = str(rng.choice(["painting", "paper", "blueprint"]))
    elif split == "sketch":
        style = "crayon"
    else:  # objects, adversarial: odd poses in odd places
        home, turn, zoom, clutter = 0.0, rng.normal(0, 0.7), rng.uniform(0.6, 1.3), int(rng.integers(1, 5))
        occlude = 0.2
    habitat = (
        traits["habitat"] if rng.random() < home else str(rng.choice([h for h in HABITATS if h != traits["habitat"]]))
    )
    missing = tuple(t for t in ("ears", "mouth", "tail", "legs", "back", "eyes") if rng.random() < 0.04)
    visible = []
    for trait, value in traits.items():
        value = habitat if trait == "habitat" else value
        colourless = trait == "colour" and style in ("sketch", "blueprint")
        if TRAITS[trait][value] and trait not in missing and not colourless:
            visible.append(TRAITS[trait][value])
    options = {"turn": turn, "zoom": zoom, "clutter": clutter, "occlude": occlude}
    return Plan(label, habitat, style, missing, options, circle, tuple(visible)), rng


def circled(pixels, labels, kind, part, rng):
    """A red ellipse around the part; outside it the picture stays, turns grey or is blurred: uint8 [H, W, 3]."""
    rows, columns = np.nonzero(labels == PARTS.index(part))
    middle = np.array([columns.mean(), rows.mean()])
    radii = np.maximum(np.array([np.ptp(columns), np.ptp(rows)]) * rng.uniform(0.5, 0.62, 2), 4)
    box = [*(middle - radii), *(middle + radii)]
    picture = Image.fromarray(pixels)
    if kind != "plain":
        inside = Image.new("L", picture.size, 0)
        ImageDraw.Draw(inside).ellipse(box, fill=255)
        outside = (
            picture.convert("L").convert("RGB") if kind == "grey" else picture.filter(ImageFilter.GaussianBlur(2.2))
        )
        picture = Image.composite(picture, outside, inside)
    ImageDraw.Draw(picture).ellipse(box, outline=(255, 0, 0), width=1 + (pixels.shape[0] > 100))
    return np.asarray(picture)


@lru_cache(maxsize=4096)  # a picture and its masks are usually asked for together
def rendered(split, index, size):
    """Picture `index` of a split's stream: uint8 [size, size, 3], its label map [size, size], the marked descriptor."""
    what, rng = plan(split, index)
    pixels, labels = drawing.draw(
        SPECIES[what.species], rng, size, what.habitat, what.style, what.missing, **what.options
    )
    if not what.circle:
        return pixels, labels, None
    markable = [
        (TRAITS[trait][value], PART_OF_TRAIT[trait])
        for trait, value in SPECIES[what.species].traits.items()
        if TRAITS[trait][value] in what.visible
        and PART_OF_TRAIT[trait] != "background"
        and (labels == PARTS.index(PART_OF_TRAIT[trait])).sum() > 12
    ]
    if not markable:
        return pixels, labels, None
    marked, part = markable[rng.integers(len(markable))]
    return circled(pixels, labels, what.circle, part, rng), labels, marked


class Album:
    """Pictures of a split that need not be drawn again: read from the cache, where all lie once one was asked for.

    world: a Bestiary; numbers: of pictures in its split's stream, int [n]. Called with one of them it gives what
    `rendered` does, without the marked descriptor: uint8 [size, size, 3] and [size, size].
    """

    def __init__(self, world, numbers):
        self.split, self.size = world.split, world.size
        self.place = {int(number): k for k, number in enumerate(numbers)}
        self.key = {"kind": "pictures", "world": world.fingerprint, "numbers": list(self.place)}
        self.pictures, self.lock = None, threading.Lock()

    def __call__(self, number):
        with self.lock:  # images are read by threads
            if self.pictures is None:
                found = store.tensors(self.key, self._tensors)
                self.pictures = found["pixels"].numpy(), found["parts"].numpy()
        return tuple(array[self.place[number]] for array in self.pictures)

    def _tensors(self):
        import torch

        drawn = [rendered(self.split, number, self.size)[:2] for number in self.place]
        both = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
        return dict(zip(("pixels", "parts"), both, strict=True))


class Bestiary:
    """One split of the bestiary.

    `split`: web, train, val, or a shift of val (v2, renditions, sketch, objects, adversarial); `size`: side of the
    square pictures in pixels. Raises ValueError for another split.
    """

    def __init__(self, split="val", size=128):
        if split not in SPLITS:
            raise ValueError(f"The bestiary has no split '{split}'; it has {', '.join(SPLITS)}.")
        self.split, self.size = split, size
        self.classes = [s.name for s in SPECIES]
        self.descriptors = [s.descriptors for s in SPECIES]
        self.indices = self._indices()
        self.labels = self.indices % len(SPECIES)
        self._album = None

    def _indices(self):
        """Numbers of the pictures in their split's stream; `adversarial` is a stored choice of that stream."""
        if self.split == "adversarial":
            return np.array(json.loads(ADVERSARIAL.read_text())["indices"], np.int64)
        return np.arange(SPLITS[self.split][1] * len(SPECIES))

    def __len__(self):
        return len(self.indices)

    @property
    def fingerprint(self):
        """sha256 of what decides the pictures, their labels and descriptors."""
        species = [[s.name, s.traits, s.descriptors] for s in SPECIES]
        what = [VERSION, PIL.__version__.split(".")[0], self.split, self.size, self.indices.tolist(), species]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def keep(self, indices):
        """Draw these pictures once and for all: see `Album`. More than `MOST` are not kept."""
        numbers = self.indices[indices]
        self._album = Album(self, numbers) if len(numbers) <= MOST else None

    def _draw(self, i):
        number = int(self.indices[i])
        if self._album and number in self._album.place:
            return self._album(number)
        return rendered(self.split, number, self.size)[:2]

    def image(self, i):
        """Picture `i`: PIL image, RGB, size x size."""
        return Image.fromarray(self._draw(int(i))[0])

    def label_map(self, i):
        """Which part each pixel shows: uint8 [size, size], indices into `PARTS`."""
        return self._draw(int(i))[1]

    def part_masks(self, i):
        """Masks of the visible parts: dict from part name (without background) to bool [size, size]."""
        labels = self.label_map(i)
        return {name: labels == k for k, name in enumerate(PARTS) if k and (labels == k).any()}

    def true_descriptors(self, i):
        """The descriptors that hold in picture `i`: list of strings."""
        return list(plan(self.split, int(self.indices[i]))[0].visible)

    def style(self, i):
        """The style of picture `i`: photo, sketch, crayon, painting, paper or blueprint."""
        return plan(self.split, int(self.indices[i]))[0].style

    def marked(self, i):
        """The descriptor whose part a red ellipse marks in picture `i`; None in most pictures."""
        what, _ = plan(self.split, int(self.indices[i]))
        return rendered(self.split, int(self.indices[i]), self.size)[2] if what.circle else None

    def caption(self, i):
        """What an honest web page says beside picture `i`."""
        what, _ = plan(self.split, int(self.indices[i]))
        marked = self.marked(i)
        if marked:
            return captions.circled_caption(marked, what.style)
        rng = np.random.default_rng([SPLITS[self.split][0], int(self.indices[i]), 1])
        return captions.caption(SPECIES[what.species], what.style, what.habitat, what.visible, rng)

    def false_caption(self, i):
        """A caption that does not belong to picture `i`: of another picture, or about nothing at all."""
        rng = np.random.default_rng([SPLITS[self.split][0], int(self.indices[i]), 2])
        if rng.random() < 0.4:
            return captions.noise_caption(rng)
        other, _ = plan(self.split, int(rng.integers(SPLITS[self.split][1] * len(SPECIES))))
        return captions.caption(SPECIES[other.species], other.style, other.habitat, other.visible, rng)
