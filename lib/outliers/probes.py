"""Images whose concepts are known, to ask which directions encode which: the bestiary's own.

They are drawn for this purpose: they continue the stream of a split ("val", or "web") beyond its last image, so that
no model was trained on them, whatever it was trained on, and none was evaluated on them. What an image shows is known
from its drawing: colours, patterns, shapes and kinds of parts (the descriptors that hold in it), parts that are
visible, the habitat, on the web the style. Species are classes of the head, not parts of an image; Broden, which takes
their place at the papers' scale, has no ImageNet classes either. They are labelled too, as a kind that is counted
apart.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.bestiary import SPLITS, Bestiary
from lib.bestiary.species import PARTS, TRAITS
from lib.data import ImageDataset

IMAGES = 2400
APART = "species"  # the kind of concepts that are classes of the head
VISIBLE = 12  # pixels of 128 x 128 that a part must show to count
KINDS = {"colour": "colour", "pattern": "pattern", "habitat": "scene"}  # a trait that is not here is of kind "part"


@dataclass(frozen=True)
class Probe:
    """Images and their concepts: labels bool [n, C], names and kinds [C]."""

    images: ImageDataset
    labels: np.ndarray
    names: list[str]
    kinds: list[str]


def beyond(images: ImageDataset, count: int = IMAGES) -> Probe:
    """A Probe of `count` fresh images that continue a whole split of the bestiary, species in turn."""
    world, classes = Bestiary(images.split), len(images.classes)
    world.indices = SPLITS[images.split][1] * classes + np.arange(count)
    world.labels = world.indices % classes
    world.keep(np.arange(count))
    columns = _columns(world, count, styles=images.split == "web")
    labels = np.stack([np.asarray(column, dtype=bool) for column, _ in columns.values()], axis=1)
    kinds = [kind for _, kind in columns.values()]
    own, split = world.labels.astype(np.int64), f"{images.split}-probe"
    fresh = replace(images, split=split, labels=own, source=world, indices=np.arange(count))
    return Probe(fresh, labels, list(columns), kinds)


def _columns(world: Bestiary, count: int, styles: bool) -> dict[str, tuple[Any, str]]:
    """Concept -> (whether each image shows it, its kind)."""
    shows = [set(world.true_descriptors(i)) for i in range(count)]
    known = {text: KINDS.get(trait, "part") for trait, values in TRAITS.items() for text in values.values() if text}
    columns: dict[str, tuple[Any, str]] = {
        name: ([name in found for found in shows], kind) for name, kind in known.items()
    }
    visible = np.stack([np.bincount(world.label_map(i).ravel(), minlength=len(PARTS)) for i in range(count)]) > VISIBLE
    columns |= {f"{part} visible": (visible[:, k], "part") for k, part in enumerate(PARTS) if k}
    if styles:
        drawn = [world.style(i) for i in range(count)]
        columns |= {f"style: {s}": ([style == s for style in drawn], "style") for s in sorted(set(drawn))}
    return columns | {name: (world.labels == k, APART) for k, name in enumerate(world.classes)}
