"""Images whose concepts are known, to ask which directions encode which: the bestiary's own, or Broden on disk.

The bestiary's probe images are drawn for this purpose. They continue the stream of its val split beyond the last
image of val, so that no model was trained on them, whatever it was trained on, and none was evaluated on them
("web": beyond the last image of the web). What an image shows is known from its drawing: colours, patterns, shapes
and kinds of parts (the descriptors that hold in it), parts that are visible, the habitat, on the web the style.
Species are classes of the head, not parts of an image; Broden has no ImageNet classes either. They are labelled
too, as a kind of their own, which is counted apart.
"""

import csv
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from lib import cache, datasets
from lib.errors import UserError, some
from lib.paths import datasets_folder

VERSION = 1
IMAGES = 2400
VISIBLE = 12  # pixels of 128 x 128 that a part must show to count
KINDS = {"colour": "colour", "pattern": "pattern", "habitat": "scene"}  # a trait that is not here is of kind "part"
BRODEN = ("color", "object", "part", "material", "scene", "texture")


@dataclass
class Probe:
    """Images and their concepts: images (ImageDataset), labels bool [n, C], names and kinds [C] (lists of str).

    A concept of the kind "species" is a class of the head.
    """

    images: datasets.ImageDataset
    labels: np.ndarray
    names: list
    kinds: list

    @property
    def apart(self):
        """Whether each concept is a class of the head: bool [C]."""
        return np.array([kind == "species" for kind in self.kinds])


def load(dataset, count=IMAGES, stream="val"):
    """The Probe that belongs to a dataset: fresh images of the bestiary, else Broden as it lies on disk.

    count: number of images (of Broden the first so many, 0 for all). stream: "val" or "web", of the bestiary only.
    Raises UserError for another stream, and where Broden is not on disk.
    """
    return bestiary(count or IMAGES, stream) if dataset == "bestiary" else broden(count)


@lru_cache(maxsize=2)
def bestiary(count=IMAGES, stream="val"):
    """A Probe of `count` fresh images of the bestiary, species in turn."""
    from lib.bestiary import SPLITS, Bestiary
    from lib.bestiary.species import PARTS, TRAITS

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
    val = datasets.load("bestiary", split=stream)
    images = replace(
        val,
        split=f"{stream}-probe",
        labels=world.labels.astype(np.int64),
        fingerprint=world.fingerprint,
        source=world,
        indices=np.arange(count),
    )
    labels = np.stack([np.asarray(column, dtype=bool) for column, _ in columns.values()], axis=1)
    return Probe(images, labels, list(columns), [kind for _, kind in columns.values()])


def broden(count=0):
    """A Probe of Broden, the densely labelled set of Network Dissection (broden1_224), as it lies on disk.

    A concept is in an image if the image has its label or any pixel has. Raises UserError where it is not on disk.
    """
    root = datasets_folder() / "broden1_224"
    if not (root / "index.csv").is_file():
        raise UserError(
            f"Broden is not on disk: looked for {root / 'index.csv'}; download broden1_224 (Network Dissection) and "
            "unpack it there, or set COMPANION_DATASETS to the folder that holds broden1_224/."
        )
    with open(root / "label.csv", newline="", encoding="utf-8") as file:
        names = {int(row["number"]): (row["name"], row["category"].partition("(")[0]) for row in csv.DictReader(file)}
    with open(root / "index.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:count] if count else rows
    images = _broden_images(root, rows)
    numbers = sorted(number for number in names if number)
    key = {"kind": "probe_labels", "version": VERSION, "images": images.fingerprint, "concepts": numbers}
    labels = cache.tensors(key, lambda: {"labels": _broden_labels(root, rows, numbers)})["labels"].numpy()
    return Probe(images, labels, [names[k][0] for k in numbers], [names[k][1] for k in numbers])


def _broden_images(root, rows):
    """The images of Broden as an ImageDataset of a single class."""
    paths = [root / "images" / row["image"] for row in rows]
    missing = [row["image"] for row, path in zip(rows, paths, strict=True) if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} images of Broden are missing in {root / 'images'} ({some(missing)}); "
            "unpack broden1_224 again."
        )
    about = cache.digest({"images": [[row["image"], p.stat().st_size] for row, p in zip(rows, paths, strict=True)]})
    none = np.zeros(len(rows), dtype=np.int64)
    words = (datasets.DEFAULT_TEMPLATES, datasets.DEFAULT_PROMPT)
    source = datasets._Files(paths)
    return datasets.ImageDataset("broden", "all", ["image"], none, [[]], *words, about, source, np.arange(len(rows)))


def _broden_labels(root, rows, numbers):
    """Whether each image has each label anywhere: bool tensor [n, C]."""
    column = np.full(max(numbers) + 1, -1)
    column[numbers] = np.arange(len(numbers))
    found = np.zeros((len(rows), len(numbers)), dtype=bool)
    for i, row in enumerate(rows):
        for item in (item for category in BRODEN for item in (row.get(category) or "").split(";") if item):
            present = np.array([int(item)]) if item.isdigit() else _numbers(root / "images" / item)
            columns = column[present[(present > 0) & (present < len(column))]]
            found[i, columns[columns >= 0]] = True
    return torch.from_numpy(found)


def _numbers(path):
    """The label numbers in a map of labels: red plus 256 times green."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    return np.unique(rgb[..., 0] + 256 * rgb[..., 1])
