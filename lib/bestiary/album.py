"""Pictures that need not be drawn again: on disk, all of a set in one file."""

import threading
from collections.abc import Callable, Iterable

import numpy as np
import torch

from lib import store

FEW = 24  # pictures that are drawn one by one before it is worth while to draw the whole set
Picture = tuple[np.ndarray, np.ndarray]


class Album:
    """A set of pictures, drawn one by one while only a few are looked at, and then all at once and kept.

    about: JSON values that decide the pictures; numbers: which they are. draw(number) returns uint8 [S, S, 3] and the
    map of parts uint8 [S, S], and so does album(number).
    """

    def __init__(self, about: dict, numbers: Iterable[int], draw: Callable[[int], Picture]):
        self.place = {int(number): k for k, number in enumerate(numbers)}
        self.key = {"kind": "pictures", **about, "numbers": list(self.place)}
        self.draw, self.lock = draw, threading.Lock()
        self.asked: set[int] = set()
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    def __contains__(self, number: int) -> bool:
        return number in self.place

    def __call__(self, number: int) -> Picture:
        with self.lock:  # images are read by threads, of which one draws for all
            self.asked.add(number)
            if self.kept is None and len(self.asked) >= min(FEW, len(self.place)):
                found = store.tensors(self.key, self._all)
                self.kept = found["pixels"].numpy(), found["parts"].numpy()
        if self.kept is None:
            return self.draw(number)
        k = self.place[number]
        return self.kept[0][k], self.kept[1][k]

    def _all(self) -> dict[str, torch.Tensor]:
        pixels, parts = zip(*(self.draw(number) for number in self.place), strict=True)
        return {"pixels": torch.from_numpy(np.stack(pixels)), "parts": torch.from_numpy(np.stack(parts))}
