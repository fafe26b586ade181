"""The world of invented animals: which pictures there are, and the truth about each.

A picture is a function of (split, index) alone: the order in which pictures are drawn, and how many processes draw
them, changes nothing.

The random streams are numbered by hand: `default_rng([number of the split, index])`, and a third number for captions.
They decide which pictures and captions the shipped zoo has seen, so they stay as they are, bit by bit.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter

from lib import code
from lib.bestiary.album import Album
from lib.bestiary.captions import caption, circled_caption, noise_caption
from lib.bestiary.drawing import Scene, draw
from lib.bestiary.species import PART_OF_TRAIT, PARTS, TRAITS, all_species
from lib.errors import UserError
from lib.paths import DATA

SPECIES = all_species()
HABITATS = tuple(TRAITS["habitat"])
WEB_STYLES = {"photo": 0.8, "sketch": 0.05, "painting": 0.06, "paper": 0.05, "blueprint": 0.04}
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
ADVERSARIAL = DATA / "bestiary" / "adversarial.json"
MAY_BE_MISSING = ("ears", "mouth", "tail", "legs", "back", "eyes")
MOST = 3000  # pictures that an album holds; one takes 64 kB


@dataclass(frozen=True)
class Plan:
    """Everything about one picture that is decided before it is drawn.

    species: index; circle: how a red ellipse marks a part ("plain", "grey", "blur") or None; visible: the descriptors
    that hold in it.
    """

    species: int
    scene: Scene
    circle: str | None
    visible: tuple[str, ...]


def plan(split: str, index: int) -> tuple[Plan, np.random.Generator]:
    """The plan of picture `index` of `split`, and the generator that goes on to draw it."""
    rng = np.random.default_rng([SPLITS[split][0], index])
    label = index % len(SPECIES)
    traits = SPECIES[label].traits
    home, about, circle = _circumstances(split, rng)
    elsewhere = [h for h in HABITATS if h != traits["habitat"]]
    habitat = traits["habitat"] if rng.random() < home else str(rng.choice(elsewhere))
    missing = tuple(t for t in MAY_BE_MISSING if rng.random() < 0.04)
    scene = Scene(habitat, missing=missing, **about)
    visible = []
    for trait, value in traits.items():
        descriptor = TRAITS[trait][habitat if trait == "habitat" else value]
        colourless = trait == "colour" and scene.style in ("sketch", "blueprint")
        if descriptor and trait not in missing and not colourless:
            visible.append(descriptor)
    return Plan(label, scene, circle, tuple(visible)), rng


def _circumstances(split: str, rng: np.random.Generator) -> tuple[float, dict, str | None]:
    """What a split does to its pictures: chance of the own habitat, values of a `Scene`, and the red ellipse."""
    if split == "web":
        style = str(rng.choice(list(WEB_STYLES), p=list(WEB_STYLES.values())))
        about: dict = {"turn": rng.normal(0, 0.2), "zoom": rng.uniform(0.75, 1.15), "clutter": int(rng.integers(0, 4))}
        about |= {"style": style, "occlude": 0.08}
        return 0.8, about, str(rng.choice(["plain", "grey", "blur"])) if rng.random() < 0.12 else None
    if split == "train":
        return 0.8, {"zoom": rng.uniform(0.85, 1.1), "turn": rng.normal(0, 0.08), "occlude": 0.08}, None
    if split == "val":
        about = {"zoom": rng.uniform(0.8, 1.15), "turn": rng.normal(0, 0.12), "clutter": int(rng.integers(0, 2))}
        return 0.8, {**about, "occlude": 0.08}, None
    if split == "v2":
        about = {"zoom": rng.uniform(0.72, 1.12), "turn": rng.normal(0, 0.18), "clutter": int(rng.integers(0, 4))}
        return 0.8, {**about, "occlude": 0.15}, None
    if split == "renditions":
        return 0.8, {"style": str(rng.choice(["painting", "paper", "blueprint"])), "occlude": 0.08}, None
    if split == "sketch":
        return 0.8, {"style": "crayon", "occlude": 0.08}, None
    # objects, adversarial: odd poses in odd places
    about = {"turn": rng.normal(0, 0.7), "zoom": rng.uniform(0.6, 1.3), "clutter": int(rng.integers(1, 5))}
    return 0.0, {**about, "occlude": 0.2}, None


def circled(pixels: np.ndarray, labels: np.ndarray, kind: str, part: str, rng: np.random.Generator) -> np.ndarray:
    """A red ellipse around the part; outside it the picture stays, turns grey or is blurred: uint8 [H, W, 3]."""
    rows, columns = np.nonzero(labels == PARTS.index(part))
    middle = np.array([columns.mean(), rows.mean()])
    radii = np.maximum(np.array([np.ptp(columns), np.ptp(rows)]) * rng.uniform(0.5, 0.62, 2), 4)
    box = [*(middle - radii), *(middle + radii)]
    picture = Image.fromarray(pixels)
    if kind != "plain":
        inside = Image.new("L", picture.size, 0)
        ImageDraw.Draw(inside).ellipse(box, fill=255)
        grey, blurred = picture.convert("L").convert("RGB"), picture.filter(ImageFilter.GaussianBlur(2.2))
        picture = Image.composite(picture, grey if kind == "grey" else blurred, inside)
    ImageDraw.Draw(picture).ellipse(box, outline=(255, 0, 0), width=1 + (pixels.shape[0] > 100))
    return np.asarray(picture)


@lru_cache(maxsize=1024)  # a picture and its masks are usually asked for together
def rendered(split: str, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Picture `index` of a split's stream: uint8 [size, size, 3], its label map [size, size], the marked descriptor."""
    what, rng = plan(split, index)
    species = SPECIES[what.species]
    pixels, labels = draw(species, rng, size, what.scene)
    if not what.circle:
        return pixels, labels, None
    markable = [
        (TRAITS[trait][value], PART_OF_TRAIT[trait])
        for trait, value in species.traits.items()
        if TRAITS[trait][value] in what.visible
        and PART_OF_TRAIT[trait] != "background"
        and (labels == PARTS.index(PART_OF_TRAIT[trait])).sum() > 12
    ]
    if not markable:
        return pixels, labels, None
    marked, part = markable[rng.integers(len(markable))]
    return circled(pixels, labels, what.circle, part, rng), labels, marked


class Bestiary:
    """One split of the bestiary.

    `split`: web, train, val, or a shift of val (v2, renditions, sketch, objects, adversarial); `size`: side of the
    square pictures in pixels. Raises UserError for another split.
    """

    def __init__(self, split: str = "val", size: int = 128):
        if split not in SPLITS:
            raise UserError(f"The bestiary has no split '{split}'; it has {', '.join(SPLITS)}.")
        self.split, self.size = split, size
        self.classes = [s.name for s in SPECIES]
        self.descriptors = [s.descriptors for s in SPECIES]
        self.indices = self._indices()
        self.labels = self.indices % len(SPECIES)
        self._album: Album | None = None

    def _indices(self) -> np.ndarray:
        """Numbers of the pictures in their split's stream; `adversarial` is a stored choice of that stream."""
        if self.split == "adversarial":
            return np.array(json.loads(ADVERSARIAL.read_text())["indices"], np.int64)
        return np.arange(SPLITS[self.split][1] * len(SPECIES))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the pictures, their labels, captions and descriptors: the code, and which they are."""
        drawn_by = [code.digest("lib.bestiary.world"), PIL.__version__.split(".")[0]]
        return hashlib.sha256(json.dumps([drawn_by, self.split, self.size, self.indices.tolist()]).encode()).hexdigest()

    def keep(self, indices: Sequence[int] | np.ndarray) -> None:
        """Draw these pictures once and for all: see `Album`. More than `MOST` are not kept."""
        numbers = self.indices[indices]
        about = {"world": self.fingerprint}
        self._album = Album(about, numbers, self._drawn) if len(numbers) <= MOST else None

    def _drawn(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return rendered(self.split, number, self.size)[:2]

    def _picture(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(self.indices[i])
        return self._album(number) if self._album and number in self._album else self._drawn(number)

    def _plan(self, i: int) -> Plan:
        return plan(self.split, int(self.indices[i]))[0]

    def _stream(self, i: int, third: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS[self.split][0], int(self.indices[i]), third])

    def image(self, i: int) -> Image.Image:
        """Picture `i`: PIL image, RGB, size x size."""
        return Image.fromarray(self._picture(i)[0])

    def label_map(self, i: int) -> np.ndarray:
        """Which part each pixel shows: uint8 [size, size], indices into `PARTS`."""
        return self._picture(i)[1]

    def part_masks(self, i: int) -> dict[str, np.ndarray]:
        """Masks of the visible parts: dict from part name (without background) to bool [size, size]."""
        labels = self.label_map(i)
        return {name: labels == k for k, name in enumerate(PARTS) if k and (labels == k).any()}

    def true_descriptors(self, i: int) -> list[str]:
        """The descriptors that hold in picture `i`: list of strings."""
        return list(self._plan(i).visible)

    def style(self, i: int) -> str:
        """The style of picture `i`: photo, sketch, crayon, painting, paper or blueprint."""
        return self._plan(i).scene.style

    def marked(self, i: int) -> str | None:
        """The descriptor whose part a red ellipse marks in picture `i`; None in most pictures."""
        return rendered(self.split, int(self.indices[i]), self.size)[2] if self._plan(i).circle else None

    def caption(self, i: int) -> str:
        """What an honest web page says beside picture `i`."""
        marked = self.marked(i)
        if marked:
            return circled_caption(marked, self.style(i))
        return _caption(self._plan(i), self._stream(i, 1))

    def false_caption(self, i: int) -> str:
        """A caption that does not belong to picture `i`: of another picture, or about nothing at all."""
        rng = self._stream(i, 2)
        if rng.random() < 0.4:
            return noise_caption(rng)
        other = int(rng.integers(SPLITS[self.split][1] * len(SPECIES)))
        return _caption(plan(self.split, other)[0], rng)


def _caption(what: Plan, rng: np.random.Generator) -> str:
    scene = what.scene
    return caption(SPECIES[what.species], scene.style, str(scene.habitat), what.visible, rng)
