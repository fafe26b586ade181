"""Shifted versions of a dataset: the bestiary's splits, or folders of images with the data's own class folders."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.bestiary import SHIFTS
from lib.data.dataset import ImageDataset, whole_classes
from lib.data.loading import load
from lib.errors import UserError, nearest, some


def shifted(
    data: ImageDataset, shifts: Sequence[str] | None = None, limit: int = 0, seed: int = 0
) -> dict[str, tuple[ImageDataset, np.ndarray]]:
    """The shifted versions of a dataset: name -> (its images, int [classes that it has]).

    Labels are as in `data`. At the bestiary `shifts` are splits, by default all five. Elsewhere each is the path of an
    image folder whose class folders are named like those of `data` (ImageNet: synsets), all or some of them; by default
    there are none. limit: classes of each, 0 for all. Raises UserError for other class folders.
    """
    if shifts is None:
        shifts = SHIFTS if data.name == "bestiary" else ()
    if data.name == "bestiary":
        every = np.arange(len(data.classes))
        return {name: (load("bestiary", split=name, limit=limit, seed=seed), every) for name in shifts}
    return {str(path).rstrip("/").rpartition("/")[2]: aligned(path, data, limit, seed) for path in shifts}


def aligned(path: str, data: ImageDataset, limit: int = 0, seed: int = 0) -> tuple[ImageDataset, np.ndarray]:
    """A folder of shifted images with the labels of `data`, matched by the names of the class folders."""
    known = {name: k for k, name in enumerate(sorted({p.parent.name for p in data.source.paths}))}
    images = load(path)
    names = [p.parent.name for p in images.source.paths]
    strange = sorted(set(names) - set(known))
    if strange:
        raise UserError(
            f"{len(strange)} class folders of {path} are none of {data.name} ({some(strange)}); name the class folders "
            f"of a shift like those of the data.{nearest(strange[0], known)}"
        )
    labels = np.array([known[name] for name in names])[images.indices]
    images = replace(images, classes=data.classes, labels=labels, descriptors=data.descriptors)
    return images.subset(whole_classes(labels, limit, seed)), np.unique(labels)
