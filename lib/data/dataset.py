"""Images, their labels and the words that belong to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from lib import code, store
from lib.errors import UserError, some
from lib.seeds import rng

DEFAULT_TEMPLATES = ("a photo of a {}.",)
DEFAULT_PROMPT = "a photo showing {}"
CHUNK = 512  # images, about, that are read and kept together


@dataclass
class ImageDataset:
    """Images, labels, and the words that belong to them.

    classes: class names by index. labels: int64 [n]. descriptors: one list a class, aligned by index. templates:
    zero-shot prompts with {} for the class. descriptor_prompt: prompt with {} for a descriptor. source: what has the
    images: `source.image(k)`; `source.digests(indices)` with a sha256 for each, or `source.fingerprint` for all; in the
    bestiary also the truth about them. indices: int64 [n], the k of each image.
    """

    name: str
    split: str
    classes: list[str]
    labels: np.ndarray
    descriptors: list[list[str]]
    templates: tuple[str, ...]
    descriptor_prompt: str
    source: Any = field(repr=False)
    indices: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Image.Image:
        """Image i, RGB. Raises UserError when its file cannot be decoded."""
        return self.source.image(int(self.indices[i]))

    def part_masks(self, i: int) -> dict[str, np.ndarray]:
        """Part name -> bool [H, W] of image i. Raises UserError where the truth is not known."""
        return self._truth("part_masks", i)

    def true_descriptors(self, i: int) -> list[str]:
        """Descriptors that hold in image i. Raises UserError where the truth is not known."""
        return self._truth("true_descriptors", i)

    def _truth(self, what: str, i: int) -> Any:
        if not hasattr(self.source, what):
            raise UserError(f"Dataset '{self.name}' has no {what.replace('_', ' ')}; only 'bestiary' knows them.")
        return getattr(self.source, what)(int(self.indices[i]))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the images' content, in their order, and their labels; the files' names and times don't count."""
        if hasattr(self.source, "digests"):
            content = self.source.digests(self.indices)
        else:
            content = [self.source.fingerprint, self.indices.tolist()]
        return store.digest({"images": content, "labels": self.labels.tolist()})

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what a method sees: JSON values, for the keys of records."""
        words = {"classes": self.classes, "descriptors": self.descriptors, "templates": list(self.templates)}
        about = {"name": self.name, "split": self.split, "n": len(self), "images": self.fingerprint}
        about["code"] = code.digest("lib.data")  # how they are read
        return about | {k: store.digest(v) for k, v in words.items()} | {"descriptor_prompt": self.descriptor_prompt}

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageDataset":
        """The images at `indices` (int [m]), in that order; classes and descriptors stay as they are."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(self, labels=self.labels[indices], indices=self.indices[indices])

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """Indices of about `size` images at a time, ascending: int64 [m]. Classes stay whole, whatever their size."""
        order = np.argsort(self.labels, kind="stable")
        waiting: list[np.ndarray] = []
        for one_class in np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1):
            if waiting and sum(map(len, waiting)) + len(one_class) > size:
                yield np.sort(np.concatenate(waiting))
                waiting = []
            waiting.append(one_class)
        if len(order):
            yield np.sort(np.concatenate(waiting))

    @property
    def bank(self) -> list[str]:
        """Distinct descriptors in order of first appearance."""
        return list(dict.fromkeys(text for texts in self.descriptors for text in texts))

    def require_descriptors(self, every_class: bool = True) -> None:
        """Raise UserError when a class has no descriptors (every_class=False: when no class has any)."""
        without = [name for name, texts in zip(self.classes, self.descriptors, strict=True) if not texts]
        if without and (every_class or len(without) == len(self.classes)):
            raise UserError(
                f"{len(without)} of {len(self.classes)} classes of '{self.name}' have no descriptors "
                f"({some(without)}); give each a list in descriptors.json beside the class folders."
            )


def whole_classes(labels: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Indices of all images of `limit` classes, ascending: int64 [m]; 0, or as many as there are, takes all.

    `seed` decides which; a smaller limit takes a part of what a larger one takes.
    """
    present = np.unique(labels)
    if not 0 < limit < len(present):
        return np.arange(len(labels))
    return np.flatnonzero(np.isin(labels, rng(seed, "classes").permutation(present)[:limit]))


def spread(labels: np.ndarray, images: int, seed: int = 0) -> np.ndarray:
    """Indices of so many images, the same number from each class as far as it goes: int64, ascending; 0 takes all.

    Images come round by round, one a class, in an order within and among classes that `seed` decides; so a smaller
    number takes a part of what a larger one takes.
    """
    if not 0 < images < len(labels):
        return np.arange(len(labels))
    stream = rng(seed, "images")
    order = stream.permutation(len(labels))
    turn = stream.permutation(int(labels.max()) + 1)
    seen = np.zeros(len(turn), dtype=np.int64)
    rounds = np.empty(len(labels), dtype=np.int64)
    for i in order:
        rounds[i] = seen[labels[i]]
        seen[labels[i]] += 1
    return np.sort(np.lexsort((turn[labels], rounds))[:images])
