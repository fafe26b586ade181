"""The truth about probing images where it is known: which concepts an image shows, and where."""

from functools import lru_cache

import numpy as np
import torch

from lib.bestiary.species import PART_OF_TRAIT, TRAITS
from lib.data import ImageDataset, broden


@lru_cache
def part_of() -> dict[str, str]:
    """Descriptor -> the part of the animal where it shows ("background" for habitats)."""
    return {text: PART_OF_TRAIT[trait] for trait, values in TRAITS.items() for text in values.values() if text}


def present(images: ImageDataset, concepts: list[str]) -> torch.Tensor | None:
    """Whether an image shows a concept: bool [images, concepts]; None where none is known to be shown.

    Known are Broden's labels, the class of an image, and in the miniature its descriptors.
    """
    if hasattr(images.source, "parts"):  # several sets as one
        parts = [(present(part, concepts), len(part)) for part in images.source.parts]
        blank = torch.zeros(1, len(concepts), dtype=torch.bool)
        shown = torch.cat([blank.expand(n, -1) if found is None else found for found, n in parts])[images.indices]
        return shown if shown.any() else None
    shown, column = torch.zeros(len(images), len(concepts), dtype=torch.bool), _columns(concepts)
    if images.name == "broden":
        found, names, _ = broden.labels(images)
        for k in (k for k, name in enumerate(names) if name in column):
            shown[:, column[names[k]]] = torch.from_numpy(found[:, k])
    else:
        for i, label in enumerate(images.labels):
            known = [images.classes[label], *_descriptors(images, i)]
            shown[i, [column[text] for text in known if text in column]] = True
    return shown if shown.any() else None


def classes_of(images: ImageDataset, classes: list[str]) -> np.ndarray:
    """Which of `classes` each probing image shows, by their names: int64 [n], -1 for none of them."""
    if hasattr(images.source, "parts"):  # several sets as one
        return np.concatenate([classes_of(part, classes) for part in images.source.parts])[images.indices]
    if images.classes == classes:
        return images.labels
    number = {name.lower(): k for k, name in reversed(list(enumerate(classes)))}  # of equal ones the first
    return np.array([number.get(name.lower(), -1) for name in images.classes])[images.labels]


def _columns(concepts: list[str]) -> dict[str, int]:
    return {text: m for m, text in reversed(list(enumerate(concepts)))}  # of equal ones the first


def _descriptors(images: ImageDataset, i: int) -> list[str]:
    return images.true_descriptors(i) if hasattr(images.source, "true_descriptors") else []


def masks(images: ImageDataset, concepts: list[str], stride: int = 4) -> torch.Tensor:
    """Where a miniature's image shows a concept: bool [images, concepts, H / stride, W / stride].

    A class name is shown by the whole animal.
    """
    column, rows = _columns(concepts), []
    for i, label in enumerate(images.labels):
        parts = {name: mask[::stride, ::stride] for name, mask in images.part_masks(i).items()}
        animal = np.any(list(parts.values()), axis=0)
        parts |= {"background": ~animal, "animal": animal}
        row = np.zeros((len(concepts), *animal.shape), bool)
        for text in [*images.true_descriptors(i), images.classes[label]]:
            if text in column:
                row[column[text]] = parts.get(part_of().get(text, "animal"), False)
        rows.append(row)
    return torch.from_numpy(np.stack(rows))


def holds(labels: list[str], descriptors: list[list[str]]) -> np.ndarray:
    """Whether each label is one of the descriptors beside it: bool [n]."""
    return np.array([label in texts for label, texts in zip(labels, descriptors, strict=True)])


def shared_traits(descriptors: list[list[str]]) -> np.ndarray:
    """How many descriptors two classes have in common: int64 [classes, classes]."""
    sets = [set(texts) for texts in descriptors]
    return np.array([[len(a & b) for b in sets] for a in sets])
