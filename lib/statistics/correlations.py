"""Correlations and lines over models, with intervals over other models and over other classes of images."""

from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from lib import seeds
from lib.errors import UserError
from lib.statistics.estimates import CLASS, DRAWS, Estimate, of_draws, resampled_means, whole

MODELS_NEEDED = 5  # below that, drawing models anew tells nothing: most draws repeat two or three of them
METHODS = ("pearson", "spearman")


def coefficient(x: ArrayLike, y: ArrayLike, method: str = "pearson") -> np.ndarray:
    """Pearson's or Spearman's correlation along the last axis: [..., models] twice -> [...].

    nan where one of the two is constant. Raises UserError for another method.
    """
    if method not in METHODS:
        raise UserError(f"method is {method!r}, but it must be 'pearson' or 'spearman'.")
    a, b = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if method == "spearman":
        a, b = stats.rankdata(a, axis=-1), stats.rankdata(b, axis=-1)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norm = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > 1e-12, np.clip((a * b).sum(-1) / norm, -1, 1), np.nan)


def correlation(x: ArrayLike, y: ArrayLike, method: str = "pearson", seed: int = 0) -> Estimate:
    """Correlation over models [models], its interval when the *models* are drawn again; none below MODELS_NEEDED."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    value = float(coefficient(a, b, method)) if len(a) >= 3 else np.nan
    if len(a) < MODELS_NEEDED:
        return Estimate(value, n=len(a))
    drawn = seeds.rng(seed, "models", len(a)).integers(len(a), size=(DRAWS, len(a)))
    return of_draws(value, coefficient(a[drawn], b[drawn], method), len(a))


def correlation_over_images(
    table: pd.DataFrame,
    x: str,
    y: str,
    method: str = "pearson",
    unit: str = "image",
    cluster: str | None = CLASS,
    seed: int = 0,
) -> Estimate:
    """The same correlation, of model means, when the *images* (or their clusters) are drawn again, alike for all."""
    wide = [table.pivot_table(v, "model", unit, sort=False) for v in (x, y)]
    units = whole(table, wide[0].columns, unit, cluster)
    means = resampled_means(np.concatenate([w.to_numpy() for w in wide]), units, seed)
    count = len(wide[0])
    value = coefficient(wide[0].mean(axis=1), wide[1].mean(axis=1), method)
    return of_draws(float(value), coefficient(means[:, :count], means[:, count:], method), count)


def correlations(
    table: pd.DataFrame, x: str, y: str, by: str = "family", cluster: str | None = CLASS, seed: int = 0
) -> pd.DataFrame:
    """Correlation over models of two columns of observations, for each group of models and for "all".

    Indexed by group and method; columns n, value, images and models (the value, its interval over other classes and
    over other models), each with _low and _high, and p. A group of fewer than 3 models is left out.
    """
    groups = {**{str(g): part for g, part in table.groupby(by, sort=False)}, "all": table}
    lines = {}
    for group, part in groups.items():
        means = part.groupby("model", sort=False)[[x, y]].mean().dropna()
        part = part[part["model"].isin(means.index)]
        for method in METHODS if len(means) >= 3 else ():
            models = correlation(means[x], means[y], method, seed)
            images = correlation_over_images(part, x, y, method, cluster=cluster, seed=seed)
            line: dict[str, float] = {"n": len(means), "value": models.value}
            for name, found in (("images", images), ("models", models)):
                line |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            lines[group, method] = line | {"p": permutation_p(means[x], means[y], method, seed)}
    index = pd.MultiIndex.from_tuples(lines or [("none", "")], names=["group", "method"])[: len(lines)]
    columns = ["n", "value", *(f"{k}{end}" for k in ("images", "models") for end in ("", "_low", "_high")), "p"]
    return pd.DataFrame(list(lines.values()), index=index, columns=columns)


def regressions(table: pd.DataFrame, x: str, y: str, by: str = "family") -> pd.DataFrame:
    """The least-squares line y = slope x + intercept through the models (lines) of each group, with 95 % intervals.

    Columns models, slope, intercept and the bounds of the last two, by Student's t: over other models. A group of fewer
    than 3 models has no line.
    """
    lines = {}
    for group, points in table.groupby(by, sort=False):
        lines[group] = {"models": len(points)}
        if len(points) >= 3:
            fit, t = stats.linregress(points[x], points[y]), stats.t.ppf(0.975, len(points) - 2)
            for name, error in (("slope", fit.stderr), ("intercept", fit.intercept_stderr)):
                value = getattr(fit, name)
                lines[group] |= {name: value, f"{name}_low": value - t * error, f"{name}_high": value + t * error}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(by)


def permutation_p(x: ArrayLike, y: ArrayLike, method: str = "pearson", seed: int = 0, draws: int = 10_000) -> float:
    """Share of pairings of two lists of models with a correlation at least as large in size.

    All pairings up to 7 models, else `draws` seeded ones.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    exact = len(a) <= 7
    if exact:
        orders = np.array(list(permutations(range(len(a)))))
    else:
        orders = seeds.rng(seed, "pairings").permuted(np.tile(np.arange(len(a)), (draws, 1)), axis=1)
    chance = np.abs(coefficient(a[orders], b, method))
    as_large = (chance >= abs(coefficient(a, b, method)) - 1e-12).sum()
    return float(as_large / len(orders) if exact else (as_large + 1) / (len(orders) + 1))
