"""Outlier features: the kurtosis of an embedding over its own coordinates, and which coordinates carry it.

For a vector h with d coordinates, mean m and (population) standard deviation s over these coordinates,

    K(h) = (1/d) sum_i ((h_i - m) / s)^4,

not excess: a Gaussian vector has 3 (Elhage et al. 2023), a vector with a single other coordinate has almost d.
The paper reports the mean of K over the images. K does not change when h is scaled, so that normalising it
changes nothing; it changes when a vector is subtracted from all embeddings, and when they are rotated. Hence the
two controls: K of h minus the data set's mean embedding, which asks whether the outliers say anything about the
image, and K after a random rotation, which has no reason to prefer an axis.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import BATCH, RESAMPLES, Averages, batches, check_shape
from lib.report.statistics import of_draws

ROTATIONS = 5  # random rotations that the control averages over
OUTLYING = 3.0  # a coordinate whose |z| averages more than this over the images is called an outlier feature


def kurtosis(rows):
    """Non-excess kurtosis of each row over its coordinates, float64: [n, d] -> [n].

    Raises UserError for another rank, a single coordinate, and a row whose coordinates are all equal, which has no
    spread to divide by. Source: Elhage et al. (2023); Crabbé et al. (2024), section 3.
    """
    return (standardised(rows) ** 4).mean(dim=1)


def standardised(rows):
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


def gaussian(d):
    """Expected kurtosis of a vector of d independent Gaussian coordinates: 3 (d - 1) / (d + 1)."""
    return 3 * (d - 1) / (d + 1)


def largest(d):
    """The largest kurtosis that d coordinates can have, that of a single other coordinate: d - 2 + 1 / (d - 1)."""
    return d - 2 + 1 / (d - 1)


def relative(value, d):
    """Where a kurtosis stands between a Gaussian's (0) and the largest (1): comparable between widths.

    nan for fewer than four coordinates, which leave kurtosis nothing to vary.
    """
    if d < 4:
        return np.full(np.shape(value), np.nan)[()]
    return (value - gaussian(d)) / (largest(d) - gaussian(d))


def rotation(d, seed=0):
    """A random rotation (or reflection) of d coordinates, uniform over all of them: float64 [d, d].

    seed: an int, or several.
    """
    gauss = np.random.default_rng([*np.atleast_1d(seed), 102]).normal(size=(d, d))
    q, r = np.linalg.qr(gauss)
    return torch.from_numpy(q * np.sign(np.diag(r)))


@dataclass
class Profile:
    """What a set of embeddings says about outlier features.

    averages: `Averages` of raw, centred, rotated (mean over a few rotations), without_top (K without the coordinate
    that carries most of it), top (what that coordinate adds to K), max_z and centred_max_z (largest |z| of an image),
    and ratio (largest |h_i| over the mean |h_i|). mean [d]: the data set's mean embedding. contribution [d]: what each
    coordinate adds to the raw K, on average; they sum to it. z [d]: mean |z| of each coordinate. n: images.
    """

    averages: Averages
    mean: np.ndarray
    contribution: np.ndarray
    z: np.ndarray
    n: int

    @property
    def d(self):
        return len(self.mean)

    @property
    def top(self):
        return int(self.contribution.argmax())

    @property
    def share(self):
        """Share of the kurtosis that the top coordinate carries: (value, low, high, n)."""
        draws = self.averages.draws("top") / self.averages.draws("raw")
        return of_draws(self.contribution.max() / self.contribution.sum(), draws, self.n)

    @property
    def outliers(self):
        """Coordinates whose |z| averages more than OUTLYING: int array."""
        return np.flatnonzero(self.z > OUTLYING)


def profile(rows, seed=0, resamples=RESAMPLES, size=BATCH):
    """The Profile of embeddings [n, d], read twice in batches; what is kept does not grow with n.

    Raises UserError for bad embeddings (see `streaming.batches`), and for fewer than two images.
    """
    check_shape(rows)
    if len(rows) < 2:
        raise UserError(f"Centring needs at least two embeddings; {len(rows)} was given.")
    total, fourth, z_total = 0, 0, 0
    for chunk in batches(rows, size):
        z = standardised(chunk)
        total, fourth, z_total = total + chunk.sum(0), fourth + (z**4).sum(0), z_total + z.abs().sum(0)
    n, d = len(rows), rows.shape[1]
    mean, contribution = total / n, (fourth / (n * d)).cpu().numpy()
    top = int(contribution.argmax())
    rest = [i for i in range(d) if i != top]
    turns = [rotation(d, [*np.atleast_1d(seed), k]).to(mean.device) for k in range(ROTATIONS)]
    averages = Averages(resamples, seed)
    for chunk in batches(rows, size):
        z, centred = standardised(chunk), standardised(chunk - mean)
        averages.add(
            {
                "raw": (z**4).mean(1),
                "centred": (centred**4).mean(1),
                "rotated": sum(kurtosis(chunk @ turn) for turn in turns) / ROTATIONS,
                "without_top": kurtosis(chunk[:, rest]) if d > 2 else torch.full((len(chunk),), torch.nan),
                "top": z[:, top] ** 4 / d,
                "max_z": z.abs().amax(1),
                "centred_max_z": centred.abs().amax(1),
                "ratio": chunk.abs().amax(1) / chunk.abs().mean(1),
            }
        )
    return Profile(averages, mean.cpu().numpy(), contribution, (z_total / n).cpu().numpy(), n)


def subspaces(rows, d, draws=20, seed=0, size=BATCH):
    """Mean raw kurtosis over random sets of d of the coordinates: what a width of d would show of them.

    rows [n, D] with D >= d -> (value, low, high, n): an outlier is in a set with chance d / D. Raises UserError for
    d > D.
    """
    width = rows.shape[1]
    if not 2 <= d <= width:
        raise UserError(f"d = {d} was given for embeddings of {width} coordinates; expected 2 to {width}.")
    rng = np.random.default_rng([seed, 103])
    chosen = [rng.permutation(width)[:d] for _ in range(draws)]
    averages = Averages(RESAMPLES, seed)
    for chunk in batches(rows, size):
        averages.add({"raw": sum(kurtosis(chunk[:, c]) for c in chosen) / draws})
    return averages.interval("raw")
