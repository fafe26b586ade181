"""Intervals and correlations, each seeded and checked against scipy by the tests.

Two questions hide in "how sure is a correlation over models": would other images change it (the models stay,
the images are drawn again, the same for all models), and would other models (these are drawn again)? Both are
here.
"""

from itertools import permutations

import numpy as np
from scipy import stats

from lib.errors import UserError

RESAMPLES = 2000
MODELS_NEEDED = 5  # below that, resampling models tells nothing: most draws repeat two or three of them


def interval(values, seed=0, confidence=0.95, resamples=RESAMPLES):
    """The mean over images and its percentile bootstrap interval: (mean, low, high, n).

    values: [images], one number an image; nan where an image has none, n counts the others.
    Source: Efron & Tibshirani (1993), chapter 13.
    """
    return intervals([values], seed, confidence, resamples)[0]


def of_draws(value, draws, n):
    """(value, low, high, n): the 95 % percentile interval of bootstrap draws [resamples]; nan draws are left out."""
    draws = np.asarray(draws, dtype=np.float64)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return float(value), float(low), float(high), int(n)


def intervals(rows, seed=0, confidence=0.95, resamples=RESAMPLES):
    """`interval` of several numbers an image, all from the same draws: a list of (mean, low, high, n).

    rows: [numbers, images].
    """
    rows = np.asarray(rows, dtype=np.float64)
    there = (~np.isnan(rows)).sum(1)
    if not there.any():
        return [(np.nan, np.nan, np.nan, 0)] * len(rows)
    means = resampled_means(rows, seed, resamples)
    found = []
    for row, resampled, n in zip(rows, means.T, there, strict=True):
        mean = float(np.nanmean(row)) if n else np.nan
        found.append((mean, *_quantiles(resampled, confidence), int(n)))
    return found


def band(values, seed=0, confidence=0.95, resamples=RESAMPLES):
    """The same for every point of a curve: (mean [points], low [points], high [points]).

    values: [images, points] without nan; the images are drawn jointly for all points.
    """
    values = np.asarray(values, dtype=np.float64)
    means = resampled_means(values.T, seed, resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return values.mean(0), low, high


def resampled_means(values, seed=0, resamples=RESAMPLES):
    """Means over images drawn with replacement, alike for all rows: [rows, images] -> [resamples, rows].

    nan is left out of a mean; a resample without any number gives nan.
    """
    values = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(values)
    filled, n = np.where(there, values, 0.0), values.shape[1]
    rng = np.random.default_rng(seed)
    chunk = max(1, min(resamples, 5_000_000 // n))  # how often each image is drawn: at most 40 MB at a time
    means = []
    for start in range(0, resamples, chunk):
        draws = _draws(rng, min(chunk, resamples - start), n)
        with np.errstate(invalid="ignore"):
            means.append((draws @ filled.T) / (draws @ there.T))
    return np.concatenate(means)


def _draws(rng, size, n):
    """How often each of n images is drawn in each of `size` resamples: float64 [size, n]."""
    cells = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def coefficient(x, y, method="pearson"):
    """Pearson's or Spearman's correlation along the last axis: [..., models] twice -> [...].

    nan where one of the two is constant. Raises UserError for another method.
    """
    if method not in ("pearson", "spearman"):
        raise UserError(f"method is {method!r}, but it must be 'pearson' or 'spearman'.")
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if method == "spearman":
        x, y = stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norm = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 1e-12, np.clip((x * y).sum(-1) / norm, -1, 1), np.nan)


def over_images(x, y, method="pearson", seed=0, confidence=0.95, resamples=RESAMPLES):
    """Interval of a correlation over models when the images are drawn again, alike for all: (low, high).

    x, y: [models, images], one number an image (its AUC, and whether it was classified rightly).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    means = resampled_means(np.concatenate([x, y]), seed, resamples)
    return _quantiles(coefficient(means[:, : len(x)], means[:, len(x) :], method), confidence)


def over_models(x, y, method="pearson", seed=0, confidence=0.95, resamples=RESAMPLES):
    """Interval of a correlation when the models are drawn again: (low, high); nan below MODELS_NEEDED models.

    x, y: [models].
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < MODELS_NEEDED:
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    return _quantiles(coefficient(x[drawn], y[drawn], method), confidence)


def permutation_p(x, y, method="pearson", seed=0, resamples=10_000):
    """Share of pairings with a correlation at least as large in size.

    x, y: [models]. All pairings up to 7 models, else `resamples` seeded ones.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    exact = len(x) <= 7
    if exact:
        orders = np.array(list(permutations(range(len(x)))))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(x)), (resamples, 1)), axis=1)
    chance = np.abs(coefficient(x[orders], y, method))
    as_large = (chance >= abs(coefficient(x, y, method)) - 1e-12).sum()
    return float(as_large / len(orders) if exact else (as_large + 1) / (len(orders) + 1))


def correlations(x, y, groups, x_images=None, y_images=None, seed=0):
    """A table of correlations, a row per group and method.

    x, y: dict model -> number; groups: dict name -> list of models (the families, and "all"); x_images,
    y_images: dict model -> [images], for the interval over images. Returns a DataFrame with group, method, n,
    value, images_low, images_high, models_low, models_high, p. A group of fewer than 3 models is left out.
    """
    import pandas as pd

    rows = []
    for group, models in groups.items():
        models = [m for m in models if m in x and m in y and np.isfinite(x[m]) and np.isfinite(y[m])]
        a, b = np.array([x[m] for m in models]), np.array([y[m] for m in models])
        for method in ("pearson", "spearman") if len(models) >= 3 else ():
            row = {
                "group": group,
                "method": method,
                "n": len(models),
                "value": float(coefficient(a, b, method)),
            }
            if x_images is not None:
                images = [x_images[m] for m in models], [y_images[m] for m in models]
                row["images_low"], row["images_high"] = over_images(*images, method, seed)
            row["models_low"], row["models_high"] = over_models(a, b, method, seed)
            rows.append({**row, "p": permutation_p(a, b, method, seed)})
    return pd.DataFrame(rows)


def _quantiles(values, confidence):
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
