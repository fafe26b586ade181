"""How alike two models see the same images: linear CKA, unbiased and in minibatches.

Centred kernel alignment of representations X and Y of the same n images, with K = X X^T and L = Y Y^T, is
HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). The plain estimate of HSIC is biased upwards for few images; the unbiased
one (Song et al. 2012), with the diagonals of K and L set to zero, is

    HSIC = [ tr(K L) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(K L) / (n - 2) ] / (n (n - 3)).

Averaged over minibatches, each of the three HSICs estimates the one of the whole data set whatever the batch size
(Nguyen et al. 2021, equation 3), and memory does not grow with the images. CKA is their ratio: 1 for the same
embeddings up to rotation and scale, around 0 for unrelated ones, slightly below 0 by chance.
"""

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import RESAMPLES, Averages, batches
from lib.report.statistics import of_draws

BATCH = 64
NEEDED = 4  # the estimator divides by n - 3


def hsic(x, y):
    """Unbiased HSIC of two linear kernels, a float: [n, d], [n, e] of the same n >= 4 images."""
    n = len(x)
    if n != len(y) or n < NEEDED:
        raise UserError(f"{n} and {len(y)} embeddings were given; expected the same images twice, {NEEDED} at least.")
    k, m = (torch.as_tensor(a).to(torch.float64) for a in (x, y))
    k, m = k @ k.T, m @ m.T
    k.fill_diagonal_(0)
    m.fill_diagonal_(0)
    product = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return float(product / (n * (n - 3)))


def cka(x, y, size=BATCH, seed=0, resamples=RESAMPLES):
    """Linear CKA of embeddings [n, d] and [n, e] of the same images: (value, low, high, batches).

    Images are taken in their order (shuffle them beforehand if neighbours are alike), in minibatches of `size`; a
    last batch of fewer than four images is left out. The interval draws the minibatches again: it is nan for one.
    Raises UserError for different numbers of images, and where one of the two does not vary.
    """
    if len(x) != len(y) or min(size, len(x)) < NEEDED:
        raise UserError(
            f"{len(x)} and {len(y)} embeddings were given in batches of {size}; expected the same images twice, and "
            f"batches of {NEEDED} or more."
        )
    averages = Averages(resamples, seed)
    for a, b in zip(batches(x, size), batches(y, size), strict=True):
        if len(a) >= NEEDED:
            averages.add({"terms": torch.tensor([[hsic(a, b), hsic(a, a), hsic(b, b)]])})
    value = float(_ratio(averages.mean("terms")))
    if not np.isfinite(value):
        raise UserError("One of the two sets of embeddings does not vary over the images; CKA compares variation.")
    draws = _ratio(averages.draws("terms")) if averages.n > 1 else [np.nan]
    return of_draws(value, draws, averages.n)


def _ratio(terms):
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), nan where a set does not vary: [..., 3] -> [...]."""
    scale = terms[..., 1] * terms[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = (terms[..., 1] > 0) & (terms[..., 2] > 0)
        return np.where(positive, terms[..., 0] / np.sqrt(np.where(positive, scale, 1)), np.nan)
