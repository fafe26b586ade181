"""Intervals, differences and correlations of observations, each seeded and checked against scipy by the tests.

Everything takes a tidy table, one line for each thing seen, and names of its columns. What is drawn again is said by
`cluster`: lines, or whole classes (images of a class are explained together, so that they are not independent), or
models. Draws are the same for all groups that have the same units, so that differences between models are paired.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from lib import seeds
from lib.errors import UserError, nearest

DRAWS = 2000
MODELS_NEEDED = 5  # below that, drawing models anew tells nothing: most draws repeat two or three of them
METHODS = ("pearson", "spearman")


class Estimate(NamedTuple):
    """A statistic, its 95 % interval, the number of units (images, classes or models) behind it, and p against zero."""

    value: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    p: float = np.nan


def of_draws(value: float, draws: np.ndarray, n: int) -> Estimate:
    """An Estimate from bootstrap draws [draws] of a statistic; nan draws are left out.

    The interval holds the middle 95 %. p is the smallest level at which such an interval leaves out zero, so that
    p < 0.05 says the same as the interval. Source: Efron & Tibshirani (1993), chapters 13 and 15.4.
    """
    draws = np.asarray(draws, dtype=np.float64)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Estimate(float(value), n=int(n))
    low, high = np.quantile(draws, [0.025, 0.975])
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (len(draws) + 1))
    return Estimate(float(value), float(low), float(high), int(n), float(p))


def false_discoveries(p: ArrayLike) -> np.ndarray:
    """p of many tests [tests], adjusted so that at most 5 % of those below 0.05 are expected to be chance; nan stays.

    Source: Benjamini & Hochberg (1995); scipy.stats.false_discovery_control.
    """
    adjusted = np.array(p, dtype=np.float64)
    known = np.isfinite(adjusted)
    adjusted[known] = stats.false_discovery_control(adjusted[known]) if known.any() else adjusted[known]
    return adjusted


# --- means and their intervals


def interval(
    table: pd.DataFrame,
    values: Sequence[str],
    by: str | Sequence[str] = "title",
    cluster: str | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    under: str | None = None,
) -> pd.DataFrame:
    """Mean of each value with its bootstrap interval, a line a group: columns v, v_low, v_high, and n.

    by: column or columns that make the groups, which become the index, in the order in which they come. cluster: the
    column whose values are drawn whole; None draws lines. under: a column by whose mean each mean is divided, drawn
    together with it. n: lines (clusters) with a number of the first value.
    """
    if table.empty:  # of no models
        bounds = [f"{v}{end}" for v in values for end in ("", "_low", "_high")]
        return pd.DataFrame(columns=[*_names(by), *bounds, "n"]).set_index(_names(by))
    below = [under] if under else []
    _check_columns(table, [*values, *below, *_names(by), *([cluster] if cluster else [])])
    lines = {}
    for group, part in table.groupby(_names(by), sort=False, observed=True):
        means = resampled_means(part[[*values, *below]].to_numpy(float).T, _units(part, cluster), seed, draws)
        line: dict[str, float] = {}
        for k, value in enumerate(values):
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn = means[:, k] / means[:, -1] if under else means[:, k]
                found = of_draws(np.divide(part[value].mean(), part[under].mean() if under else 1.0), drawn, 0)
            line |= {value: found.value, f"{value}_low": found.low, f"{value}_high": found.high}
        there = part[part[values[0]].notna()]
        lines[group] = line | {"n": there[cluster].nunique() if cluster else len(there)}
    frame = pd.DataFrame.from_dict(lines, orient="index")
    index = pd.MultiIndex.from_tuples(lines, names=_names(by))
    return frame.set_axis(index if len(_names(by)) > 1 else index.get_level_values(0), axis=0)


def estimate(values: ArrayLike, cluster: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """The mean of numbers [n] with its bootstrap interval; nan are left out; cluster: labels [n] drawn whole."""
    rows = np.asarray(values, float)[None]
    there = ~np.isnan(rows[0])
    if not there.any():
        return Estimate(np.nan)
    units = None if cluster is None else pd.factorize(np.asarray(cluster))[0]
    n = int(there.sum()) if units is None else len(np.unique(units[there]))
    return of_draws(float(np.nanmean(rows)), resampled_means(rows, units, seed)[:, 0], n)


def difference(
    table: pd.DataFrame,
    value: str,
    greater: Mapping[str, object],
    less: Mapping[str, object],
    unit: str | Sequence[str] = "image",
    cluster: str | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean of `value` over the lines of `greater` minus that over `less`, unit by unit, so that draws are paired.

    greater, less: column -> value or list of values, e.g. {"model": ["ViT-B-16", "ViT-B-32"]}; several lines of a unit
    are averaged. unit: columns that say which lines belong together. Units that one side lacks are left out; nan where
    a side lacks one of the values asked for, since the mean of the others would be another statistic.
    """
    names = _names(unit)
    if any(not _there(table, side) for side in (greater, less)):
        return Estimate(np.nan)
    sides = [chosen(table, side).groupby(names)[value].mean() for side in (greater, less)]
    gaps = (sides[0] - sides[1]).dropna()
    if not len(gaps):
        return Estimate(np.nan)
    labels = None
    if cluster:
        labels = table.drop_duplicates(names).set_index(names)[cluster].reindex(gaps.index).to_numpy()
    return estimate(gaps.to_numpy(), labels, seed)


def chosen(table: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    """The lines of a table whose columns have the given values (one, or one of a list)."""
    _check_columns(table, where)
    for column, wanted in where.items():
        table = table[table[column].isin(_many(wanted))]
    return table


def _many(wanted: object) -> list:
    return list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]


def _there(table: pd.DataFrame, where: Mapping[str, object]) -> bool:
    """Whether each column has all the values asked of it."""
    _check_columns(table, where)
    return all(set(_many(wanted)) <= set(table[column]) for column, wanted in where.items())


def beside(frame: pd.DataFrame, levels: str | Sequence[str], joint: str = ", ") -> pd.DataFrame:
    """The groups of one or more levels of an `interval`'s index beside each other: columns "v, group", and its bounds.

    joint: what joins a value's name with its groups'. The lines keep their order; the column n is left out.
    """
    names, columns = _names(levels), []
    if not len(frame):
        return frame
    wide = pd.DataFrame(frame.drop(columns="n", errors="ignore").unstack(names, sort=False))
    for column, *groups in map(tuple, wide.columns):
        end = next((e for e in ("_low", "_high") if column.endswith(e)), "")
        columns.append(joint.join([column.removesuffix(end), *map(str, groups)]) + end)
    return wide.set_axis(columns, axis=1).reindex(frame.reset_index(names).index.unique())


def band(values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve and its interval at each point: (mean, low, high) [points], from curves [n, points]."""
    values = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(resampled_means(values.T, None, seed, draws), [0.025, 0.975], axis=0)
    return values.mean(0), low, high


def resampled_means(
    values: np.ndarray, units: np.ndarray | None = None, seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Means over units drawn with replacement, alike for all rows: [rows, n] -> [draws, rows].

    units: int [n], which unit each number belongs to (0 to the number of units less one); None: each its own. nan is
    left out of a mean; a draw without any number gives nan.
    """
    values = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(values)
    filled, counted = np.where(there, values, 0.0), there.astype(np.float64)
    if units is not None:
        count = int(units.max()) + 1
        filled, counted = (np.stack([np.bincount(units, row, count) for row in x]) for x in (filled, counted))
    n = filled.shape[1]
    rng, means = seeds.rng(seed, "bootstrap", n), []
    chunk = max(1, min(draws, 5_000_000 // n))  # at most 40 MB of weights at a time
    for start in range(0, draws, chunk):
        weights = _weights(rng, min(chunk, draws - start), n)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weights @ filled.T) / (weights @ counted.T))
    return np.concatenate(means)


def _weights(rng: np.random.Generator, size: int, n: int) -> np.ndarray:
    """How often each of n units is drawn in each of `size` resamples: float64 [size, n]."""
    cells = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(cells.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def arranged(estimates: Mapping[tuple, Estimate], names: Sequence[str]) -> pd.DataFrame:
    """Estimates as a frame for `lib.show.tables`: columns c, c_low and c_high, lines in the order in which they come.

    estimates: by (what names the line, ..., column); names: of all but the last.
    """
    lines: dict[tuple, dict[str, float]] = {}
    for (*line, column), found in estimates.items():
        cells = {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        lines.setdefault(tuple(line), {}).update(cells)
    if not lines:
        return pd.DataFrame(columns=list(names)).set_index(list(names))
    return pd.DataFrame(list(lines.values()), index=pd.MultiIndex.from_tuples(lines, names=list(names)))


# --- correlations over models


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
    cluster: str | None = None,
    seed: int = 0,
) -> Estimate:
    """The same correlation, of model means, when the *images* (or their clusters) are drawn again, alike for all."""
    wide = [table.pivot_table(v, "model", unit, sort=False) for v in (x, y)]
    units = None
    if cluster:
        labels = table.drop_duplicates(unit).set_index(unit)[cluster].reindex(wide[0].columns)
        units = pd.factorize(labels)[0]
    means = resampled_means(np.concatenate([w.to_numpy() for w in wide]), units, seed)
    count = len(wide[0])
    value = coefficient(wide[0].mean(axis=1), wide[1].mean(axis=1), method)
    return of_draws(float(value), coefficient(means[:, :count], means[:, count:], method), count)


def correlations(
    table: pd.DataFrame, x: str, y: str, by: str = "family", cluster: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """Correlation over models of two columns of observations, for each group of models and for "all".

    Indexed by group and method; columns n, value, images and models (the value, its interval over other images and over
    other models), each with _low and _high, and p. A group of fewer than 3 models is left out.
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


# --- the shape of a table


def _names(by: str | Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def _units(part: pd.DataFrame, cluster: str | None) -> np.ndarray | None:
    return pd.factorize(part[cluster])[0] if cluster else None


def _check_columns(table: pd.DataFrame, wanted: Sequence[str] | Mapping[str, object]) -> None:
    for column in wanted:
        if column not in table:
            hint = nearest(column, table.columns) or f" It has {', '.join(map(str, table.columns))}."
            raise UserError(f"The table has no column '{column}'.{hint}")
