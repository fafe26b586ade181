"""Embeddings read in batches, and averages over them whose memory does not grow with the number of images.

In a Poisson bootstrap each image enters each draw a Poisson(1) number of times, independently of all other images, so
that a draw is a weighted sum and images can be read once and forgotten (Hanley & MacGibbon 2006). Images get the same
weights whatever the batch size and whatever the model: differences between models are differences of paired draws.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.seeds import rng

BATCH = 1024
RESAMPLES = 1000


def batches(rows: Any, size: int = BATCH) -> Iterator[torch.Tensor]:
    """Embeddings as float64 tensors [b, d], checked.

    rows [n, d]: a tensor, an array, a memory map, or anything else with `shape` and slices. Raises UserError for
    another rank, no rows, a single coordinate, values that are not finite, and rows that are all zero.
    """
    check_shape(rows)
    for start in range(0, len(rows), size):
        chunk = torch.as_tensor(rows[start : start + size]).to(torch.float64)
        bad = {
            "hold NaN or infinite values": ~chunk.isfinite().all(dim=1),
            "are all zero": (chunk == 0).all(dim=1),
        }
        for why, which in bad.items():
            if which.any():
                first = start + int(which.nonzero()[0])
                raise UserError(
                    f"{int(which.sum())} rows of the embeddings {why} (of rows {start} to {start + len(chunk) - 1}, "
                    f"the first is row {first}); check how they were computed, or leave these images out."
                )
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


class Averages:
    """Means over a stream of images, each with draws of its Poisson bootstrap.

    `add` takes {name: [b] or [b, ...]} batch after batch; afterwards `mean(name)` is float64 [] or [...], `draws(name)`
    [resamples] or [resamples, ...]. n: images so far.
    """

    def __init__(self, seed: int = 0, resamples: int = RESAMPLES):
        self.n, self.resamples = 0, resamples
        self._rng = rng(seed, "poisson bootstrap")
        self._total: Any = 0.0
        self._sums: dict[str, Any] = {}  # of the images as they are, and of each draw: [1 + resamples, ...]

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        b = len(next(iter(values.values())))
        # drawn image by image, so that the batch size changes nothing
        drawn = self._rng.poisson(1.0, (b, self.resamples))
        weights = torch.from_numpy(np.concatenate([np.ones((b, 1)), drawn], axis=1)).T
        self.n, self._total = self.n + b, self._total + weights.sum(1).numpy()
        for name, x in values.items():
            sums = torch.tensordot(weights.to(x.device), x.to(torch.float64), dims=1)
            self._sums[name] = self._sums.get(name, 0) + sums.cpu().numpy()

    @property
    def names(self) -> list[str]:
        return list(self._sums)

    def mean(self, name: str) -> np.ndarray:
        return self._sums[name][0] / self.n

    def draws(self, name: str) -> np.ndarray:
        sums = self._sums[name][1:]
        with np.errstate(invalid="ignore", divide="ignore"):  # of very few images a draw may hold none
            return sums / self._total[1:].reshape(-1, *[1] * (sums.ndim - 1))
