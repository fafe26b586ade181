"""How alike two models see the same images: linear CKA, unbiased and in minibatches.

Centred kernel alignment of representations X and Y of the same n images, with K = X X^T and L = Y Y^T, is
HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)). The plain estimate of HSIC is biased upwards for few images; the unbiased
one (Song et al. 2012), with the diagonals of K and L set to zero, is

    HSIC = [ tr(K L) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(K L) / (n - 2) ] / (n (n - 3)).

Averaged over minibatches, each of the three HSICs estimates the one of the whole data set whatever the batch size
(Nguyen et al. 2021, equation 3), and memory does not grow with the images. CKA is their ratio: 1 for the same
embeddings up to rotation and scale, around 0 for unrelated ones, slightly below 0 by chance.
"""

from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import batches

BATCH = 64
NEEDED = 4  # the estimator divides by n - 3
TERMS = ("xy", "xx", "yy")


def hsic(x: Any, y: Any) -> float:
    """Unbiased HSIC of two linear kernels: [n, d], [n, e] of the same n >= 4 images."""
    n = len(x)
    if n != len(y) or n < NEEDED:
        raise UserError(f"{n} and {len(y)} embeddings were given; expected the same images twice, {NEEDED} at least.")
    k, m = (torch.as_tensor(a).to(torch.float64) for a in (x, y))
    k, m = k @ k.T, m @ m.T
    k.fill_diagonal_(0)
    m.fill_diagonal_(0)
    product = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)
    return float(product / (n * (n - 3)))


def terms(x: Any, y: Any, size: int = BATCH) -> np.ndarray:
    """HSIC(x, y), HSIC(x, x) and HSIC(y, y) of each minibatch of embeddings [n, d] and [n, e]: [batches, 3].

    Images are taken in their order (shuffle them beforehand if neighbours are alike); a last batch of fewer than four
    is left out. Raises UserError for different numbers of images, and too few.
    """
    if len(x) != len(y) or min(size, len(x)) < NEEDED:
        raise UserError(
            f"{len(x)} and {len(y)} embeddings were given in batches of {size}; expected the same images twice, and "
            f"batches of {NEEDED} or more."
        )
    pairs = zip(batches(x, size), batches(y, size), strict=True)
    return np.array([[hsic(a, b), hsic(a, a), hsic(b, b)] for a, b in pairs if len(a) >= NEEDED])


def cka(averages: Any) -> np.ndarray:
    """CKA from `terms` averaged over minibatches: [..., 3] -> [...]; nan where one of the two does not vary."""
    xy, xx, yy = np.moveaxis(np.asarray(averages, np.float64), -1, 0)
    there = (xx > 0) & (yy > 0)
    return np.where(there, xy / np.sqrt(np.where(there, xx * yy, 1)), np.nan)
