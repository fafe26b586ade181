"""Shifted images that show the classes of another dataset, or some of them: ImageNet-V2, R, A, Sketch, ObjectNet, and
folders of one's own.

The published ones are read as they are distributed; how their class folders are called is the `folders` of their
entries in data/datasets.toml: "synset", "number" (0 to 999), or "objectnet" (names, of which its mapping files say
which classes of ImageNet they stand for).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lib.data import folders
from lib.data.dataset import ImageDataset
from lib.errors import UserError, nearest, some

MAPPINGS = "mappings"  # ObjectNet's, beside its images


class Shift(NamedTuple):
    """Shifted images, and the classes that compete for them.

    images: their labels are classes of the unshifted data. present: classes that compete, int64 [m], ascending. group:
    int64 [m]; classes of one group are one class of the shift: ObjectNet has some that are two of ImageNet's.
    """

    images: ImageDataset
    present: np.ndarray
    group: np.ndarray

    @classmethod
    def none(cls, images: ImageDataset) -> "Shift":
        """The images as they are: all classes compete."""
        every = np.arange(len(images.classes))
        return cls(images, every, every)

    @property
    def right(self) -> np.ndarray:
        """Which of the competing classes are right for each image: bool [n, m]."""
        own = self.group[np.searchsorted(self.present, self.images.labels)]
        return own[:, None] == self.group

    def hits(self, logits: torch.Tensor) -> np.ndarray:
        """100.0 where the likeliest of the competing classes is right, else 0.0: [n], from logits [n, m]."""
        best = logits.argmax(1).cpu().numpy()
        return 100.0 * self.right[np.arange(len(best)), best]


def published(dataset: str) -> list[str]:
    """Names of the published shifts of a dataset, in the order of data/datasets.toml."""
    return [name for name, entry in folders.entries().items() if entry.get("shift_of") == dataset]


def known(name: str, split: str = "val") -> ImageDataset:
    """The images of a published shift; classes and descriptors are those of what it is a shift of, as are the labels.

    Folders that are none of its classes (200 of ObjectNet's) are left out. Raises UserError where it is incomplete.
    """
    entry = folders.entries()[name]
    there = folders.complete(name, split)
    classes = _classes_of(name)
    kept = [folder for folder in there if folder.name in classes]
    data = folders.listed(name, split, kept)
    parent = folders.entries()[entry["shift_of"]]
    data.classes = folders.imagenet_classes()
    data.descriptors = folders.descriptors_of(parent, data.classes)
    data.templates, data.descriptor_prompt = tuple(parent["templates"]), parent["descriptor_prompt"]
    first = np.array([classes[folder.name][0] for folder in kept])
    data = replace(data, labels=first[data.labels])
    return replace(data, source=_Cropped(data.source.paths, entry["border"])) if entry.get("border") else data


class _Cropped(folders.Files):
    """Images as files, without `border` pixels on each side: ObjectNet's are red, so that nobody trains on them."""

    def __init__(self, paths: list[Path], border: int):
        super().__init__(paths)
        self.border = border

    def image(self, k: int) -> Image.Image:
        image = super().image(k)
        return image.crop((self.border, self.border, image.width - self.border, image.height - self.border))


def _classes_of(name: str) -> dict[str, list[int]]:
    """Class folder -> the classes of ImageNet that it shows."""
    how = folders.entries()[name]["folders"]
    if how == "objectnet":
        return objectnet_classes(folders.root_of(name, "val").parent / MAPPINGS)
    names = map(str, range(1000)) if how == "number" else synsets()
    return {folder: [k] for k, folder in enumerate(names)}


@lru_cache
def synsets() -> list[str]:
    """ImageNet's 1000 synsets in the order of its classes: timm's list, read without loading the package."""
    spec = find_spec("timm")
    assert spec and spec.origin  # a dependency of this project
    return (Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()


def objectnet_classes(mappings: Path) -> dict[str, list[int]]:
    """ObjectNet's class folders that show classes of ImageNet -> these classes, ascending.

    mappings: the folder of its four mapping files. A folder has a label, a label one or more of ImageNet's names with
    "; " between them, a name stands on a line of a list, and a number of a class (PyTorch's) stands for a line. Raises
    UserError for files that are not there or are of another version.
    """
    try:
        labels = json.loads((mappings / "folder_to_objectnet_label.json").read_text(encoding="utf-8"))
        meant = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text(encoding="utf-8"))
        lines = json.loads((mappings / "pytorch_to_imagenet_2012_id.json").read_text(encoding="utf-8"))
        names = (mappings / "imagenet_to_label_2012_v2").read_text(encoding="utf-8").splitlines()
        number = {names[line].strip(): int(k) for k, line in lines.items()}
        return {f: sorted(number[n] for n in meant[label].split("; ")) for f, label in labels.items() if label in meant}
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"ObjectNet's mapping files in {mappings} cannot be used ({type(error).__name__}: {error}); unpack "
            "objectnet-1.0 whole, so that images/ and mappings/ lie beside each other."
        ) from None


def aligned(images: ImageDataset, data: ImageDataset) -> Shift:
    """Shifted images with the labels of `data`, and which of its classes compete for them.

    A published shift knows; in any other folder the class folders are called like those of `data` (ImageNet: synsets).
    Raises UserError for folders that `data` does not have.
    """
    own: dict[str, Any] = {"classes": data.classes, "descriptors": data.descriptors}
    if images.name in published(data.name):
        classes = _classes_of(images.name)
        there = dict.fromkeys(p.parent.name for p in images.source.paths)
        group = {k: min(classes[name]) for name in there for k in classes[name]}
        present = np.array(sorted(group))
        return Shift(replace(images, **own), present, np.array([group[k] for k in present.tolist()]))
    known = {name: k for k, name in enumerate(sorted({p.parent.name for p in data.source.paths}))}
    names = [p.parent.name for p in images.source.paths]
    _refuse_strange(images.name, names, data.name, known)
    labels = np.array([known[name] for name in names])
    present = np.unique(labels)
    return Shift(replace(images, **own, labels=labels[images.indices]), present, present)


def _refuse_strange(shift: str, names: Sequence[str], data: str, known: dict[str, int]) -> None:
    strange = sorted(set(names) - set(known))
    if strange:
        raise UserError(
            f"{len(strange)} class folders of {shift} are none of {data} ({some(strange)}); name the class "
            f"folders of a shift like those of the data.{nearest(strange[0], known)}"
        )
