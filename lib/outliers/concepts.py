"""Encoded concepts: which directions of an embedding space tell images with a concept from images without it.

A direction gives each image a number, its projection; the average precision (AP) of ranking the images by it says how
well that number finds those with the concept. A concept is encoded if some direction reaches AP >= 0.9 (paper v1,
equation 5), and the number of such concepts is what the paper counts. Centring the embeddings changes no ranking.

A ranking without any information has an AP equal to the share of positives. So each concept is judged among as many
images without it as with it, drawn at random; several draws are averaged. With very few positives some direction of
hundreds reaches 0.9 by luck, so concepts with fewer than `minimum` positives (or negatives) are left out, by name. A
direction may point to a concept or away from it: both signs count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lib.errors import UserError
from lib.seeds import rng

MINIMUM = 20
RESAMPLES = 300


@dataclass(frozen=True)
class Sampling:
    """Which images a concept is judged on. draws: of as many negatives as positives, 0 for all images as they are;
    most: positives in a draw; seed."""

    draws: int = 3
    most: int = 500
    seed: int = 0


def choose(
    labels: np.ndarray, names: Sequence[str], minimum: int = MINIMUM
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Which concepts have at least `minimum` images with and without them; labels bool [n, C].

    Returns their columns, int, and the numbers of images with and without of the others, by name. Raises UserError when
    no concept is left, or when names and labels do not fit.
    """
    if labels.dtype != bool or labels.ndim != 2 or len(names) != labels.shape[1]:
        given = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"The labels of {len(names)} concepts are {given}; expected bool [images, {len(names)}].")
    positives = labels.sum(axis=0)
    enough = np.minimum(positives, len(labels) - positives) >= minimum
    left_out = np.flatnonzero(~enough).tolist()
    dropped = {names[c]: (int(positives[c]), int(len(labels) - positives[c])) for c in left_out}
    if not enough.any():
        raise UserError(
            f"None of {len(names)} concepts has {minimum} images with it and {minimum} without it among {len(labels)} "
            "images; give more images, or a smaller minimum."
        )
    return np.flatnonzero(enough), dropped


def samples(labels: np.ndarray, column: int, how: Sampling) -> tuple[list[np.ndarray], int]:
    """The images that a concept is judged on, arrays of indices, and how many positives come first in each.

    Balanced: min(positives, negatives, most) of each, positives first, both drawn anew; else all images, once.
    """
    positive = labels[:, column]
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not how.draws:
        return [np.concatenate([yes, no])], len(yes)
    stream = rng(how.seed, "negatives", column)
    k = min(len(yes), len(no), how.most)
    return [np.concatenate([stream.permutation(x)[:k] for x in (yes, no)]) for _ in range(how.draws)], k


def ranks(scores: Any) -> np.ndarray:
    """Dense ranks of each column, 0 for the highest, equal scores equal: [n, D] -> int32 [D, n]."""
    found = stats.rankdata(-np.asarray(scores, np.float64), "dense", axis=0)
    return np.ascontiguousarray(found.T, np.int32) - 1


def average_precision(ranked: np.ndarray, positives: int) -> np.ndarray:
    """AP of ranking images by each direction, and by its negative: float64 [2, D].

    ranked int [D, m]: ranks of m images, 0 the highest; positives: the first so many of them show the concept. Equal
    ranks are one threshold, as in scikit-learn's `average_precision_score`.
    """
    keys = 2 * ranked
    keys[:, positives:] += 1
    keys.sort(axis=1)
    place, m = np.nonzero(keys % 2 == 0)[1].reshape(-1, positives), keys.shape[1]  # of each positive, best first
    hits = np.arange(1, positives + 1)
    # from the other end, all the positives but those before have been found
    found = np.stack([(hits / (place + 1)).mean(1), (hits[::-1] / (m - place)).mean(1)])
    for d in np.flatnonzero((keys[:, 1:] // 2 == keys[:, :-1] // 2).any(1)):  # ties are rare
        both = ranked[d], ranked[d].max() - ranked[d]
        found[:, d] = [weighted(r, positives, np.ones((1, m), np.uint8))[0] for r in both]
    return found


def precisions(ranked: np.ndarray, labels: np.ndarray, columns: np.ndarray, how: Sampling) -> np.ndarray:
    """AP of each direction and its negative for each chosen concept, averaged over draws: float64 [2, D, C].

    ranked: `ranks` of the projections, int [D, n]; labels bool [n, all concepts]; columns: of the chosen ones, [C].
    """
    found = []
    for column in columns:
        drawn, k = samples(labels, column, how)
        found.append(np.mean([average_precision(ranked[:, images], k) for images in drawn], axis=0))
    return np.stack(found, axis=2)


def best(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best direction and sign for each concept: AP float64 [C], sign int [C] (1: the negative), direction [C]."""
    flat = precision.reshape(-1, precision.shape[-1])
    sign, direction = np.unravel_index(flat.argmax(axis=0), precision.shape[:2])
    return flat.max(axis=0), sign, direction


def overlap(*encoded: np.ndarray) -> dict[tuple[bool, ...], int]:
    """Sizes of the regions of a Venn diagram of sets of concepts, bool [C] each, by who encodes them."""
    found = np.stack(encoded)
    patterns = [p for p in np.ndindex(*(2,) * len(encoded)) if any(p)]
    return {tuple(map(bool, p)): int((found == np.array(p)[:, None]).all(axis=0).sum()) for p in patterns}


def best_on_new_images(
    ranked: np.ndarray, labels: np.ndarray, columns: np.ndarray, how: Sampling
) -> tuple[np.ndarray, np.ndarray]:
    """AP of each concept on half of the images, by the direction that was best on the other half.

    Returns float64 [C] and draws [RESAMPLES, C]. Searching hundreds of directions finds some that fit by luck; these
    do not carry over. A concept with too few images in a half is judged by those that there are.
    """
    half = rng(how.seed, "halves").permutation(len(labels)) % 2 == 0
    first, second = (np.flatnonzero(part) for part in (half, ~half))
    _, sign, direction = best(precisions(ranked[:, first], labels[first], columns, how))
    found = precisions(ranked[:, second], labels[second], columns, how)[sign, direction, np.arange(len(columns))]
    return found, resampled(ranked[:, second], labels[second], columns, (sign, direction), how)


def resampled(
    ranked: np.ndarray,
    labels: np.ndarray,
    columns: np.ndarray,
    chosen: tuple[np.ndarray, np.ndarray],
    how: Sampling,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """AP of each concept by a chosen direction when the images are drawn again: float64 [resamples, C].

    chosen: sign and direction for each concept, int [C] both, as of `best`; they stay. Each image has a Poisson(1)
    weight in each resample, alike for all concepts and models. Resamples share the draws of negatives between them.
    """
    sign, direction = chosen
    weights = rng(how.seed, "images again").poisson(1.0, (resamples, ranked.shape[1])).astype(np.uint8)
    found = np.empty((resamples, len(columns)))
    for c, column in enumerate(columns):
        drawn, k = samples(labels, column, how)
        own = ranked[direction[c]] if sign[c] == 0 else ranked[direction[c]].max() - ranked[direction[c]]
        for j, images in enumerate(drawn):
            found[j :: len(drawn), c] = weighted(own[images], k, weights[j :: len(drawn)][:, images])
    return found


def weighted(ranked: np.ndarray, positives: int, weights: np.ndarray) -> np.ndarray:
    """AP with weighted images: ranks int [m], weights [resamples, m] -> float64 [resamples]; positives come first."""
    order = np.argsort(ranked, kind="stable")
    sorted_ranks, weights, positive = ranked[order], weights[:, order], order < positives
    # whole numbers, and only what a positive needs: this is most of the time that a model takes
    seen = np.cumsum(weights, axis=1, dtype=np.int32)
    found = np.cumsum(weights * positive, axis=1, dtype=np.int32)
    end = np.searchsorted(sorted_ranks, sorted_ranks[positive], side="right") - 1
    hits = weights[:, positive]
    with np.errstate(invalid="ignore", divide="ignore"):
        # a positive that a resample lacks has weight 0, and 0 images may have been seen by then
        return (hits * (found[:, end] / np.maximum(seen[:, end], 1))).sum(axis=1) / hits.sum(axis=1)
