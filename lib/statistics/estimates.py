"""Means and differences of observations with their intervals.

Everything takes a tidy table, one line for each thing seen, and names of its columns. What is drawn again is said by
`cluster`. By default it is whole classes, where the table has a column "class": images of a class share their text and
are explained together, so that they are not independent. Elsewhere, and with None, it is lines. Draws are the same for
all groups that have the same units, so that differences between models are paired.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from lib import seeds
from lib.errors import UserError, nearest

DRAWS = 2000
CLASS = "class"  # the column whose values are drawn whole where a table has it


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
    cluster: str | None = CLASS,
    seed: int = 0,
    draws: int = DRAWS,
    under: str | None = None,
) -> pd.DataFrame:
    """Mean of each value with its bootstrap interval, a line a group: columns v, v_low, v_high, and n.

    by: column or columns that make the groups, which become the index, in the order in which they come. cluster: the
    column whose values are drawn whole, None draws lines. under: a column by whose mean each mean is divided, drawn
    together with it. n: lines (clusters) with a number of the first value.
    """
    if table.empty:  # of no models
        bounds = [f"{v}{end}" for v in values for end in ("", "_low", "_high")]
        return pd.DataFrame(columns=[*_names(by), *bounds, "n"]).set_index(_names(by))
    below = [under] if under else []
    cluster = None if cluster in _names(by) else _cluster(table, cluster)
    _check_columns(table, [*values, *below, *_names(by)])
    lines = {}
    for group, part in table.groupby(_names(by), sort=False, observed=True):
        means = resampled_means(part[[*values, *below]].to_numpy(float).T, numbered(part, cluster), seed, draws)
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
    cluster: str | None = CLASS,
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
    return estimate(gaps.to_numpy(), whole(table, gaps.index, names, cluster), seed)


def whole(
    table: pd.DataFrame, units: pd.Index, unit: str | Sequence[str] = "image", cluster: str | None = CLASS
) -> np.ndarray | None:
    """The number of the class (value of `cluster`) of each unit of a table: int [units]; None where each is its own."""
    cluster = _cluster(table, cluster)
    if cluster is None:
        return None
    names = _names(unit)
    labels = table.drop_duplicates(names).set_index(names)[cluster].reindex(units)
    return pd.factorize(labels)[0]


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


def band(
    values: np.ndarray, cluster: ArrayLike | None = None, seed: int = 0, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve and its interval at each point: (mean, low, high) [points], from curves [n, points].

    cluster: labels [n] of curves that are drawn together; None: each is its own.
    """
    values = np.asarray(values, dtype=np.float64)
    units = None if cluster is None else pd.factorize(np.asarray(cluster))[0]
    low, high = np.quantile(resampled_means(values.T, units, seed, draws), [0.025, 0.975], axis=0)
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


# --- the shape of a table


def _names(by: str | Sequence[str]) -> list[str]:
    return [by] if isinstance(by, str) else list(by)


def numbered(part: pd.DataFrame, cluster: str | None = CLASS) -> np.ndarray | None:
    """The number of the class (value of `cluster`) of each line: int [lines]; None where each line is its own."""
    cluster = _cluster(part, cluster)
    return None if cluster is None else pd.factorize(part[cluster])[0]


def _cluster(table: pd.DataFrame, cluster: str | None) -> str | None:
    """The column whose values are drawn whole, or None: no table has to have classes, nor each of its lines one."""
    if cluster == CLASS and (CLASS not in table or table[CLASS].isna().any()):
        return None
    _check_columns(table, [cluster] if cluster else [])
    return cluster


def _check_columns(table: pd.DataFrame, wanted: Sequence[str] | Mapping[str, object]) -> None:
    for column in wanted:
        if column not in table:
            hint = nearest(column, table.columns) or f" It has {', '.join(map(str, table.columns))}."
            raise UserError(f"The table has no column '{column}'.{hint}")
