"""Embeddings read in batches, and averages over them whose memory does not grow with the number of images.

In a Poisson bootstrap each image enters each draw a Poisson(1) number of times, independently of all other images, so
that a draw is a weighted sum and images can be read once and forgotten (Hanley & MacGibbon 2006). Images get the same
weights whatever the batch size and whatever the model: differences between models are differences of paired draws.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.seeds import rng

BATCH = 1024
RESAMPLES = 1000


def batches(rows: Any, size: int = BATCH, what: str = "embeddings") -> Iterator[torch.Tensor]:
    """The rows as float64 tensors [b, d], checked.

    rows [n, d]: a tensor, an array, a memory map, or anything else with `shape` and slices. Raises UserError for
    another rank, no rows, a single coordinate, values that are not finite, and rows that are all zero.
    """
    check_shape(rows, what)
    for start in range(0, len(rows), size):
        chunk = torch.as_tensor(rows[start : start + size]).to(torch.float64)
        _refuse(~chunk.isfinite().all(dim=1), start, len(rows), what, "hold NaN or infinite values")
        _refuse((chunk == 0).all(dim=1), start, len(rows), what, "are all zero")
        yield chunk


def check_shape(rows: Any, what: str = "embeddings") -> None:
    """Raises UserError unless `rows` has two axes, at least one row and at least two coordinates."""
    shape = tuple(rows.shape)
    if len(shape) != 2 or not shape[0]:
        raise UserError(f"The {what} have shape {list(shape)}; expected one row an image, [images, coordinates].")
    if shape[1] < 2:
        raise UserError(
            f"The {what} have a single coordinate; what is measured here compares coordinates, so give two or more."
        )


def _refuse(bad: torch.Tensor, start: int, n: int, what: str, why: str) -> None:
    if bad.any():
        first = start + int(bad.nonzero()[0])
        raise UserError(
            f"{int(bad.sum())} rows of the {what} {why} (of rows {start} to {min(start + len(bad), n) - 1}, the first "
            f"is row {first}); check how they were computed, or leave these images out."
        )


class Averages:
    """Means over a stream of images, each with draws of its Poisson bootstrap.

    `add` takes {name: [b] or [b, ...]} batch after batch; afterwards `mean(name)` is float64 [] or [...], `draws(name)`
    [resamples] or [resamples, ...]. n: images so far.
    """

    def __init__(self, seed: int = 0, resamples: int = RESAMPLES):
        self.n, self.resamples = 0, resamples
        self._rng = rng(seed, "poisson bootstrap")
        self._total = np.zeros(resamples)
        self._sums: dict[str, Any] = {}
        self._drawn: dict[str, Any] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        b = len(next(iter(values.values())))
        # drawn image by image, so that the batch size changes nothing
        weights = torch.from_numpy(self._rng.poisson(1.0, (b, self.resamples)).astype(np.float64))
        self.n += b
        self._total += weights.sum(dim=0).numpy()
        for name, x in values.items():
            x = x.to(torch.float64)
            drawn = torch.tensordot(weights.to(x.device), x, dims=([0], [0])).cpu().numpy()
            self._sums[name] = self._sums.get(name, 0) + x.sum(dim=0).cpu().numpy()
            self._drawn[name] = self._drawn.get(name, 0) + drawn

    @property
    def names(self) -> list[str]:
        return list(self._sums)

    def mean(self, name: str) -> np.ndarray:
        return self._sums[name] / self.n

    def draws(self, name: str) -> np.ndarray:
        total = self._total.reshape(-1, *[1] * (self._drawn[name].ndim - 1))
        with np.errstate(invalid="ignore", divide="ignore"):  # of very few images a draw may hold none
            return self._drawn[name] / total
