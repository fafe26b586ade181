"""Images whose concepts are known, to ask which directions encode which: the bestiary's own, or Broden on disk.

The bestiary's probe images are drawn for this purpose. They continue the stream of its val split beyond the last
image of val, so that no model was trained on them, whatever it was trained on, and none was evaluated on them
("web": beyond the last image of the web). What an image shows is known from its drawing: colours, patterns, shapes
and kinds of parts (the descriptors that hold in it), parts that are visible, the habitat, on the web the style.
Species are classes of the head, not parts of an image; Broden has no ImageNet classes either. They are labelled
too, as a kind of their own, which is counted apart.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lib.bestiary import SPLITS, Bestiary
from lib.bestiary.species import PARTS, TRAITS
from lib.data import ImageDataset
from lib.data import load as load_images
from lib.data.broden import labels as labels_of
from lib.data.broden import load as load_broden
from lib.errors import UserError

IMAGES = 2400
VISIBLE = 12  # pixels of 128 x 128 that a part must show to count
KINDS = {"colour": "colour", "pattern": "pattern", "habitat": "scene"}  # a trait that is not here is of kind "part"


@dataclass
class Probe:
    """Images and their concepts: images (ImageDataset), labels bool [n, C], names and kinds [C] (lists of str).

    A concept of the kind "species" is a class of the head.
    """

    images: ImageDataset
    labels: np.ndarray
    names: list
    kinds: list

    @property
    def apart(self):
        """Whether each concept is a class of the head: bool [C]."""
        return np.array([kind == "species" for kind in self.kinds])


def load(dataset, count=IMAGES, stream="val"):
    """The Probe that belongs to a dataset: fresh images of the bestiary, else Broden as it lies on disk.

    count: number of images (of Broden 0 for all). stream: "val" or "web", of the bestiary only.
    Raises UserError for another stream, and where Broden is not on disk.
    """
    return bestiary(count or IMAGES, stream) if dataset == "bestiary" else broden(count)


@lru_cache(maxsize=2)
def bestiary(count=IMAGES, stream="val"):
    """A Probe of `count` fresh images of the bestiary, species in turn."""
    if stream not in ("val", "web"):
        raise UserError(f"The probe's stream is '{stream}'; give 'val' or 'web'.")
    world = Bestiary(stream)
    used = SPLITS[stream][1] * len(world.classes)
    world.indices = used + np.arange(count)
    world.labels = world.indices % len(world.classes)
    world.keep(np.arange(count))
    shows = [set(world.true_descriptors(i)) for i in range(count)]
    concepts = [
        (text, KINDS.get(trait, "part")) for trait, values in TRAITS.items() for text in values.values() if text
    ]
    columns = {name: ([name in found for found in shows], kind) for name, kind in concepts}
    visible = np.stack([np.bincount(world.label_map(i).ravel(), minlength=len(PARTS)) for i in range(count)]) > VISIBLE
    columns |= {f"{part} visible": (visible[:, k], "part") for k, part in enumerate(PARTS) if k}
    if stream == "web":
        styles = [world.style(i) for i in range(count)]
        columns |= {f"style: {s}": ([style == s for style in styles], "style") for s in sorted(set(styles))}
    columns |= {name: (world.labels == k, "species") for k, name in enumerate(world.classes)}
    val = load_images("bestiary", split=stream)
    images = replace(
        val,
        split=f"{stream}-probe",
        labels=world.labels.astype(np.int64),
        source=world,
        indices=np.arange(count),
    )
    labels = np.stack([np.asarray(column, dtype=bool) for column, _ in columns.values()], axis=1)
    return Probe(images, labels, list(columns), [kind for _, kind in columns.values()])


def broden(count=0, seed=0):
    """A Probe of so many images of Broden, 0 for all: `lib.data.broden`. Raises UserError where it is not on disk."""
    images = load_broden(count, seed)
    return Probe(images, *labels_of(images))
