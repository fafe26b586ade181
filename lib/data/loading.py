"""A dataset by its name: the bestiary, the papers' datasets, any image folder."""

import numpy as np

from lib import store
from lib.bestiary import SPLITS, Bestiary, captions
from lib.data import broden, folders, probes, shifts
from lib.data.dataset import ImageDataset, spread, whole_classes
from lib.errors import UserError


def names() -> list[str]:
    """Names that `load` knows; it also takes the path of an image folder."""
    return ["bestiary", *folders.entries()]


def _reader(name: str) -> str:
    """How a dataset lies on disk: "bestiary" (drawn), "folders", "shift" (of another), "cifar", "broden" or "own"."""
    if name == "bestiary" or name not in folders.entries():
        return name if name == "bestiary" else "own"
    entry = folders.entries()[name]
    return entry.get("reader", "shift" if "shift_of" in entry else "folders")


def check(name: str, split: str = "val") -> None:
    """Raise UserError unless `name` can be loaded: an unknown name, or images that are not on disk."""
    reader = _reader(name)
    if reader == "bestiary":
        _bestiary(split)
    elif reader == "cifar":
        probes.cifar100(split)
    elif reader == "broden":
        broden.load()
    else:
        folders.class_folders(folders.root_of(name, split))


def load(
    name: str = "bestiary",
    split: str = "val",
    limit: int = 0,
    seed: int = 0,
    on_error: str = "raise",
    images: int = 0,
) -> ImageDataset:
    """A dataset by name ("bestiary", an entry of data/datasets.toml) or by the path of an image folder.

    An image folder has one sub-folder a class; beside them may lie classes.json (folder -> class name) and
    descriptors.json (class name -> list of str). limit: number of classes whose images are taken, all of them; `seed`
    decides which, and all class names stay, so that a zero-shot classifier still chooses among all. images: number of
    images, spread evenly over the classes. 0 takes all. on_error: "raise" refuses images that cannot be read, "skip"
    leaves them out and says which. Raises UserError for bad input, and inside a measurement (see `lib.run`).
    """
    store.must_be_handed(f"the images '{name}'")
    for option, value, what in (("limit", limit, "classes"), ("images", images, "images")):
        if int(value) != value or value < 0:
            raise UserError(f"{option} is {value}; give a number of {what}, or 0 for all of them.")
    if on_error not in ("raise", "skip"):
        raise UserError(f"on_error is '{on_error}'; give 'raise' or 'skip'.")
    reader = _reader(name)
    if reader == "bestiary":
        data = _bestiary(split)
    elif reader == "cifar":
        data = probes.cifar100(split)
    elif reader == "broden":
        data = broden.load()
    else:
        data = {"folders": folders.known, "shift": shifts.known, "own": folders.own}[reader](name, split)
    data = data.subset(whole_classes(data.labels, int(limit), seed))
    if reader in ("folders", "shift", "own"):
        data = folders.readable(data, on_error)
    data = data.subset(spread(data.labels, int(images), seed))
    if reader == "bestiary":
        data.source.keep(data.indices)
    return data


def _bestiary(split: str) -> ImageDataset:
    if split not in SPLITS:
        raise UserError(f"The bestiary has no split '{split}'; it has {', '.join(SPLITS)}.")
    world = Bestiary(split=split)
    return ImageDataset(
        name="bestiary",
        split=split,
        classes=list(world.classes),
        labels=np.asarray(world.labels, dtype=np.int64),
        descriptors=[list(texts) for texts in world.descriptors],
        templates=tuple(captions.TEMPLATES),
        descriptor_prompt=captions.DESCRIPTOR_PROMPT,
        source=world,
        indices=np.arange(len(world)),
    )
