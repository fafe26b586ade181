"""Outlier features: the kurtosis of an embedding over its own coordinates, and which coordinates carry it.

For a vector h with d coordinates, mean m and (population) standard deviation s over these coordinates,

    K(h) = (1/d) sum_i ((h_i - m) / s)^4,

not excess: a Gaussian vector has 3 (Elhage et al. 2023), a vector with a single other coordinate has almost d.
The paper reports the mean of K over the images. Two controls: K of h minus the data set's mean embedding, which asks
whether the outliers say anything about the image, and K after a random rotation, which has no reason to prefer an axis.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import BATCH, Averages, batches, check_shape
from lib.seeds import rng

ROTATIONS = 5  # random rotations that the control averages over
SUBSETS = 20  # random sets of coordinates that `subspaces` averages over
COMMON_WIDTH = 64  # at which models of different widths are compared; no miniature is narrower
OUTLYING = 3.0  # a coordinate whose |z| averages more than this over the images is called an outlier feature


def kurtosis(rows: Any) -> torch.Tensor:
    """Non-excess kurtosis of each row over its coordinates, float64: [n, d] -> [n].

    Raises UserError for another rank, a single coordinate, and a row whose coordinates are all equal, which has no
    spread to divide by. Source: Elhage et al. (2023); Crabbé et al. (2024), section 3.
    """
    return (standardised(rows) ** 4).mean(dim=1)


def standardised(rows: Any) -> torch.Tensor:
    """Each row minus its mean over its standard deviation, float64: [n, d] -> [n, d]. Raises as `kurtosis`."""
    check_shape(rows, "vectors")
    rows = torch.as_tensor(rows).to(torch.float64)
    deviation = rows - rows.mean(dim=1, keepdim=True)
    spread = deviation.square().mean(dim=1, keepdim=True).sqrt()
    # equal coordinates leave rounding errors of their size
    flat = (spread <= 1e-12 * rows.abs().amax(dim=1, keepdim=True)).squeeze(1)
    if flat.any():
        raise UserError(
            f"{int(flat.sum())} of {len(rows)} vectors have no spread over their coordinates (the first is row "
            f"{int(flat.nonzero()[0])}), so their kurtosis is not defined; leave these images out, and centre only "
            "embeddings of images that differ."
        )
    return deviation / spread


def gaussian(d: int) -> float:
    """Expected kurtosis of a vector of d independent Gaussian coordinates: 3 (d - 1) / (d + 1)."""
    return 3 * (d - 1) / (d + 1)


def largest(d: int) -> float:
    """The largest kurtosis that d coordinates can have, that of a single other coordinate: d - 2 + 1 / (d - 1)."""
    return d - 2 + 1 / (d - 1)


def relative(value: Any, d: int) -> Any:
    """Where a kurtosis stands between a Gaussian's (0) and the largest (1): comparable between widths.

    nan for fewer than four coordinates, which leave kurtosis nothing to vary.
    """
    return (value - gaussian(d)) / (largest(d) - gaussian(d)) if d >= 4 else value * np.nan


@lru_cache(maxsize=2 * ROTATIONS)  # each batch of a file asks for the same
def rotation(d: int, seed: int = 0, k: int = 0) -> torch.Tensor:
    """The k-th random rotation (or reflection) of d coordinates, uniform over all of them: float64 [d, d]."""
    q, r = np.linalg.qr(rng(seed, "rotation", k).normal(size=(d, d)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def subspaces(rows: Any, d: int, seed: int = 0) -> torch.Tensor:
    """Kurtosis of each row over random sets of d of its coordinates, their mean: [n, D] -> [n], D >= d.

    What a width of d would show of them: an outlier is in a set with chance d / D. Raises UserError for d > D.
    """
    width = rows.shape[1]
    if not 2 <= d <= width:
        raise UserError(f"d = {d} was given for embeddings of {width} coordinates; expected 2 to {width}.")
    stream = rng(seed, "subspaces", width, d)
    return torch.stack([kurtosis(rows[:, stream.permutation(width)[:d]]) for _ in range(SUBSETS)]).mean(0)


@dataclass(frozen=True)
class Coordinates:
    """What a first reading of embeddings says about each coordinate: its mean over the images, what it adds to the mean
    kurtosis (contribution) and its mean |z|, each [d]. n: images."""

    mean: torch.Tensor
    contribution: np.ndarray
    z: np.ndarray
    n: int

    @property
    def top(self) -> int:
        """The coordinate that adds most."""
        return int(self.contribution.argmax())

    @property
    def outliers(self) -> np.ndarray:
        """Coordinates whose |z| averages more than OUTLYING."""
        return np.flatnonzero(self.z > OUTLYING)


def coordinates(rows: Any, size: int = BATCH) -> Coordinates:
    """The Coordinates of embeddings [n, d], read in batches.

    Raises UserError for bad embeddings (see `streaming.batches`), and for fewer than two images.
    """
    check_shape(rows)
    if len(rows) < 2:
        raise UserError(f"Centring needs at least two embeddings; {len(rows)} was given.")
    n, d = len(rows), rows.shape[1]
    sums = torch.zeros(3, d, dtype=torch.float64)
    for chunk in batches(rows, size):
        z = standardised(chunk)
        sums = sums.to(z.device) + torch.stack([chunk.sum(0), (z**4).sum(0), z.abs().sum(0)])
    mean, fourth, z_mean = sums / n
    return Coordinates(mean, (fourth / d).cpu().numpy(), z_mean.cpu().numpy(), n)


def measures(rows: torch.Tensor, about: Coordinates, seed: int = 0) -> dict[str, torch.Tensor]:
    """What is asked of each of some embeddings [b, d], `about` all of which is known: each [b].

    raw, centred, rotated (mean over a few rotations), without_top (K without the coordinate that adds most), top (what
    that coordinate adds to K), max_z (the largest |z|), ratio (largest |h_i| over the mean |h_i|), relative (see there)
    and common (K of COMMON_WIDTH coordinates). nan where there are too few coordinates.
    """
    z, d = standardised(rows), rows.shape[1]
    turns = [rotation(d, seed, k) for k in range(ROTATIONS)]
    raw, none = (z**4).mean(1), torch.full((len(rows),), torch.nan)
    rest = [i for i in range(d) if i != about.top]
    return {
        "raw": raw,
        "centred": kurtosis(rows - about.mean),
        "rotated": torch.stack([kurtosis(rows @ turn.to(rows.device)) for turn in turns]).mean(0),
        "without_top": kurtosis(rows[:, rest]) if d > 2 else none,
        "top": z[:, about.top] ** 4 / d,
        "max_z": z.abs().amax(1),
        "ratio": rows.abs().amax(1) / rows.abs().mean(1),
        "relative": relative(raw, d),
        "common": subspaces(rows, COMMON_WIDTH, seed) if d >= COMMON_WIDTH else none,
    }


def each(rows: Any, seed: int = 0, size: int = BATCH) -> tuple[Coordinates, dict[str, np.ndarray]]:
    """The Coordinates of embeddings [n, d], and the `measures` of each image: float64 [n]."""
    about = coordinates(rows, size)
    parts = [measures(chunk, about, seed) for chunk in batches(rows, size)]
    return about, {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]}


def averaged(rows: Any, seed: int = 0, size: int = BATCH) -> tuple[Coordinates, Averages]:
    """The same for so many rows that nothing is kept of each: `Averages` of the measures; rows are read twice."""
    about, found = coordinates(rows, size), Averages(seed)
    for chunk in batches(rows, size):
        found.add(measures(chunk, about, seed))
    return about, found
