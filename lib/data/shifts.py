"""Folders of shifted images that show the classes of another dataset, or some of them."""

from dataclasses import replace

import numpy as np

from lib.data.dataset import ImageDataset
from lib.errors import UserError, nearest, some


def aligned(images: ImageDataset, data: ImageDataset) -> tuple[ImageDataset, np.ndarray]:
    """A folder's images with the labels of `data`, and which of its classes the folder has: int, ascending.

    Both are matched by the names of their class folders (ImageNet: synsets). Raises UserError for folders that `data`
    does not have.
    """
    known = {name: k for k, name in enumerate(sorted({p.parent.name for p in data.source.paths}))}
    names = [p.parent.name for p in images.source.paths]
    strange = sorted(set(names) - set(known))
    if strange:
        raise UserError(
            f"{len(strange)} class folders of {images.name} are none of {data.name} ({some(strange)}); name the class "
            f"folders of a shift like those of the data.{nearest(strange[0], known)}"
        )
    labels = np.array([known[name] for name in names])
    own = {"classes": data.classes, "descriptors": data.descriptors, "labels": labels[images.indices]}
    return replace(images, **own), np.unique(labels)
