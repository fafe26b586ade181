"""Encoded concepts: which directions of an embedding space tell images with a concept from images without it.

A direction gives each image a number, its projection. The average precision (AP) of ranking the images by it says
how well that number finds those with the concept. A concept is encoded if some direction reaches AP >= 0.9 (paper
v1, equation 5), and the number of such concepts is what the paper counts.

AP depends on how rare a concept is: a ranking without any information has an AP equal to the share of positives.
So each concept is judged among as many images without it as with it, drawn at random; several draws are averaged.
With very few positives some direction of hundreds reaches 0.9 by luck, so concepts with fewer than `minimum`
positives (or negatives) are left out, by name. A direction may point to a concept or away from it: both signs count.

Adding a constant to all projections changes no ranking: centring the embeddings changes nothing here.
"""

from dataclasses import dataclass

import numpy as np

from lib.errors import UserError
from lib.outliers.streaming import batches

THRESHOLD = 0.9
MINIMUM = 20
MOST = 500
DRAWS = 3


@dataclass
class Choice:
    """Which concepts can be judged. names: their names; columns: int, their columns among all labels; dropped:
    dict of each other concept to its (positives, negatives)."""

    names: list
    columns: np.ndarray
    dropped: dict


def choose(labels, names, minimum=MINIMUM):
    """The Choice of concepts with at least `minimum` images with and without them; labels bool [n, C].

    Raises UserError when no concept is left, or when names and labels do not fit.
    """
    labels = checked_labels(labels)
    if len(names) != labels.shape[1]:
        raise UserError(f"There are {len(names)} concept names for labels of {labels.shape[1]} concepts.")
    positives = labels.sum(axis=0)
    enough = np.minimum(positives, len(labels) - positives) >= minimum
    dropped = {names[c]: (int(positives[c]), int(len(labels) - positives[c])) for c in np.flatnonzero(~enough)}
    if not enough.any():
        raise UserError(
            f"None of {len(names)} concepts has {minimum} images with it and {minimum} without it among {len(labels)} "
            "images; give more images, or a smaller minimum."
        )
    return Choice([names[c] for c in np.flatnonzero(enough)], np.flatnonzero(enough), dropped)


def checked_labels(labels, n=None):
    """Labels as bool [n, C]. Raises UserError for another rank, another number of images, or other values."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or (n is not None and len(labels) != n):
        wanted = "[images, concepts]" if n is None else f"[{n} images, concepts]"
        raise UserError(f"The concept labels have shape {list(labels.shape)}; expected {wanted}.")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise UserError("The concept labels hold other values than 0 and 1; expected whether each image shows each.")
    return labels.astype(bool)


def project(rows, right, size=4096):
    """Projections of embeddings on directions, read in batches: [n, d], [d, D] -> float64 [n, D]."""
    return np.concatenate([(chunk @ right.to(chunk.device)).cpu().numpy() for chunk in batches(rows, size)])


def samples(labels, column, draws=DRAWS, most=MOST, seed=0, balanced=True):
    """The images that a concept is judged on: `draws` arrays of indices, and how many positives come first.

    Balanced: min(positives, negatives, `most`) of each, positives first, both drawn anew; else all images, once.
    """
    positive = labels[:, column]
    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not balanced:
        return [np.concatenate([yes, no])], len(yes)
    rng = np.random.default_rng([seed, 106, column])
    k = min(len(yes), len(no), most)
    return [np.concatenate([rng.permutation(yes)[:k], rng.permutation(no)[:k]]) for _ in range(draws)], k


def ranks(scores):
    """Dense ranks of each column, 0 for the highest, equal scores equal: [n, D] -> int32 [D, n]."""
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, axis=0, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=0)
    step = np.zeros(scores.shape, dtype=np.int32)
    step[1:] = ordered[1:] != ordered[:-1]
    found = np.empty_like(step)
    np.put_along_axis(found, order, np.cumsum(step, axis=0, dtype=np.int32), axis=0)
    return np.ascontiguousarray(found.T)


def average_precision(ranked, positives):
    """AP of ranking images by each direction, and by its negative: float64 [2, D].

    ranked int [D, m]: ranks of m images, 0 the highest; positives: the first so many of them show the concept. Equal
    ranks are one threshold, as in scikit-learn's `average_precision_score`.
    """
    keys = 2 * ranked
    keys[:, positives:] += 1
    keys.sort(axis=1)
    hit, m = 1 - (keys & 1), keys.shape[1]
    found, seen = np.cumsum(hit, axis=1, dtype=np.int32), np.arange(1, m + 1)
    keys >>= 1
    if (keys[:, 1:] == keys[:, :-1]).any():  # ties: each takes the counts at the end of its threshold
        last = np.concatenate([keys[:, 1:] != keys[:, :-1], np.ones((len(keys), 1), bool)], axis=1)
        first = np.concatenate([np.ones((len(keys), 1), bool), last[:, :-1]], axis=1)
        end = np.minimum.accumulate(np.where(last, seen - 1, m)[:, ::-1], axis=1)[:, ::-1]
        start = np.maximum.accumulate(np.where(first, seen - 1, 0), axis=1)
        up = np.take_along_axis(found, end, axis=1) / (end + 1)
        down = (positives - np.take_along_axis(found - hit, start, axis=1)) / (m - start)
    else:  # from the other end, all the positives but those before have been found
        up, down = found / seen, (positives - found + hit) / (m - seen + 1)
    return np.stack([(hit * up).sum(axis=1), (hit * down).sum(axis=1)]) / positives


def precisions(ranked, labels, choice, draws=DRAWS, most=MOST, seed=0, balanced=True):
    """AP of each direction and its negative for each chosen concept, averaged over draws: float64 [2, D, C].

    ranked: `ranks` of the projections, int [D, n]; labels bool [n, all concepts]. Paper v1, equation 5.
    """
    found = []
    for column in choice.columns:
        drawn, k = samples(labels, column, draws, most, seed, balanced)
        found.append(np.mean([average_precision(ranked[:, images], k) for images in drawn], axis=0))
    return np.stack(found, axis=2)


def best(precision):
    """The best direction and sign for each concept: AP float64 [C], sign int [C] (1: the negative), direction [C]."""
    flat = precision.reshape(-1, precision.shape[-1])
    chosen = flat.argmax(axis=0)
    return flat.max(axis=0), *np.unravel_index(chosen, precision.shape[:2])


def unique(best_precision, threshold=THRESHOLD):
    """Number of concepts that some direction encodes, N_unique: [..., C] -> int [...]. Paper v1, equation 5."""
    return (np.asarray(best_precision) >= threshold).sum(axis=-1)


def by_direction(precision, threshold=THRESHOLD):
    """How many concepts each direction encodes, in either sign: [2, D, C] -> int [D]; their mean is the
    polysemanticity (our reading: the paper's own measure is not known)."""
    return (precision.max(axis=0) >= threshold).sum(axis=1)


def overlap(*encoded):
    """Sizes of the regions of a Venn diagram of sets of concepts, bool [C] each: dict of tuple of bools to int."""
    found = np.stack(encoded)
    regions = {}
    for pattern in np.ndindex(*(2,) * len(encoded)):
        if any(pattern):
            regions[tuple(map(bool, pattern))] = int((found == np.array(pattern)[:, None]).all(axis=0).sum())
    return regions


def best_on_new_images(ranked, labels, choice, seed=0, **options):
    """AP of each concept on half of the images, by the direction that was best on the other half.

    Returns float64 [C] and draws [resamples, C]. Searching hundreds of directions finds some that fit by luck; these
    do not carry over. A concept with too few images in a half is judged by those that there are.
    """
    half = np.random.default_rng([seed, 107]).permutation(len(labels)) % 2 == 0
    parts = [np.flatnonzero(half), np.flatnonzero(~half)]
    found = [precisions(ranked[:, p], labels[p], choice, seed=seed, **options) for p in parts]
    _, sign, direction = best(found[0])
    drawn = resampled(ranked[:, parts[1]], labels[parts[1]], choice, (sign, direction), seed=seed, **options)
    return found[1][sign, direction, np.arange(len(choice.columns))], drawn


def resampled(ranked, labels, choice, chosen, resamples=300, draws=DRAWS, most=MOST, seed=0, balanced=True):
    """AP of each concept by a chosen direction when the images are drawn again: float64 [resamples, C].

    chosen: sign and direction for each concept, int [C] both, as of `best`; they stay. Each image has a Poisson(1)
    weight in each resample, alike for all concepts and models. Resamples share the draws of negatives between them.
    """
    sign, direction = chosen
    rng = np.random.default_rng([seed, 108])
    weights = rng.poisson(1.0, (resamples, ranked.shape[1])).astype(np.uint8)
    found = np.empty((resamples, len(choice.columns)))
    for c, column in enumerate(choice.columns):
        drawn, k = samples(labels, column, draws, most, seed, balanced)
        own = ranked[direction[c]] if sign[c] == 0 else ranked[direction[c]].max() - ranked[direction[c]]
        for j, images in enumerate(drawn):
            found[j :: len(drawn), c] = weighted(own[images], k, weights[j :: len(drawn)][:, images])
    return found


def weighted(ranked, positives, weights):
    """AP with weighted images: ranks int [m], weights [resamples, m] -> float64 [resamples]; positives come first."""
    order = np.argsort(ranked, kind="stable")
    sorted_ranks, weights, positive = ranked[order], weights[:, order], order < positives
    # whole numbers, and only what a positive needs: this is most of the time that a model's row takes
    seen = np.cumsum(weights, axis=1, dtype=np.int32)
    found = np.cumsum(weights * positive, axis=1, dtype=np.int32)
    end = np.searchsorted(sorted_ranks, sorted_ranks[positive], side="right") - 1
    hits = weights[:, positive]
    with np.errstate(invalid="ignore", divide="ignore"):
        # a positive that a resample lacks has weight 0, and 0 images may have been seen by then
        return (hits * (found[:, end] / np.maximum(seen[:, end], 1))).sum(axis=1) / hits.sum(axis=1)
