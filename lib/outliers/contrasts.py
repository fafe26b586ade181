"""Comparisons between models: a zero-shot model and its counterparts, one backbone, one kind of training.

Every model saw the same images, which are drawn again alike for all, so that the interval of a difference is narrower
than those of its two numbers suggest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lib import statistics
from lib.models import LIBRARIES, catalogue
from lib.statistics import METHODS, Estimate, arranged, interval, of_draws

GROUPS = {"contrastive": "zero-shot", "finetuned": "fine-tuned", "supervised": "supervised", "captions": "captions"}
OTHERS = list(GROUPS.values())[1:]
SAVED = "saved"  # the group of embeddings from a file
BACKBONES = ("RN50", "RN101", "ViT-B-16", "ViT-B-32")  # those whose zero-shot models have counterparts
CONSTANT = ["d", "before_d", "outliers"]  # columns of `observe.kurtosis` that are the same in all lines of a model
NEEDED = 3  # models that a correlation needs
Pairs = Sequence[tuple[str, str]]


# --- which models belong together


def described(table: pd.DataFrame) -> pd.DataFrame:
    """A table of models' observations with columns group, backbone and data, in the order of the groups.

    group: one of GROUPS; SAVED for a name that is no model's.
    """
    if not len(table):
        return pd.DataFrame(columns=["model", "title", "group", "backbone", "data", *table])
    known, names = catalogue(), table["model"].astype(str)
    stems = names.str.split(":").str[0]
    other = np.select([stems.str.startswith(LIBRARIES), names.str.contains("[/:]")], ["supervised", "zero-shot"], SAVED)
    groups = stems.map(known["objective"]).map(GROUPS).fillna(pd.Series(other, table.index))
    about = {"group": groups, **{c: stems.map(known[c]).fillna("") for c in ("backbone", "data")}}
    order = groups.map([*GROUPS.values(), SAVED].index)
    return table.assign(**about).iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)


def models_of(table: pd.DataFrame) -> pd.DataFrame:
    """One line a model of a described table, indexed by model: title, group, backbone, data, own.

    own: whether it belongs to the comparison within its backbone. Of the zero-shot models that is the one from which
    the others started; its name is the backbone's. Where none does (other models, saved embeddings), all do.
    """
    found = table[["model", "title", "group", "backbone", "data"]].drop_duplicates("model").set_index("model")
    first = (found["group"] != "zero-shot") | (found.index == found["backbone"])
    own = found["backbone"].isin(BACKBONES) & first
    return found.assign(own=own if own.any() else True)


def pairs(models: pd.DataFrame, others: Sequence[str] = OTHERS, group: str = "zero-shot") -> Pairs:
    """(model of `group`, model of one of the groups `others`) of each backbone that has both."""
    own = models[models["own"]].reset_index()
    both = own[own["group"] == group].merge(own[own["group"].isin(others)], on="backbone")
    return list(zip(both["model_x"], both["model_y"], strict=True))


def by_pretraining(models: pd.DataFrame, endings: Sequence[str] = ("",)) -> Pairs:
    """(OpenAI's model, a zero-shot model of the same backbone and other pretraining, whose name has such an ending)."""
    zero_shot = models[models["group"] == "zero-shot"].reset_index()
    both = zero_shot[zero_shot["own"]].merge(zero_shot[~zero_shot["own"]], on="backbone")
    both = both[both["model_y"].astype(str).str.endswith(tuple(endings))]
    return list(zip(both["model_x"], both["model_y"], strict=True))


# --- a number of each model, and its draws


@dataclass(frozen=True)
class Drawn:
    """A number of each model, as measured and with the images drawn again: rows [1 + draws, models], as measured first.

    Without draws it has no interval.
    """

    rows: pd.DataFrame

    @property
    def values(self) -> pd.Series:
        return self.rows.iloc[0]

    def apply(self, function: Callable) -> "Drawn":
        return Drawn(function(self.rows))

    def __sub__(self, other: "Drawn") -> "Drawn":
        return Drawn(self.rows - other.rows)

    def of(self, models: Iterable[Any]) -> "Drawn":
        """The same of some models, those that there are."""
        return Drawn(self.rows[[m for m in models if m in self.rows]])

    def mean(self, models: Iterable[str]) -> Estimate:
        """Mean over some models, those that there are; n counts them, nan for none."""
        some = self.of(models).rows
        return _estimate(some.mean(axis=1), some.shape[1])

    def difference(self, pairs: Pairs) -> Estimate:
        """Mean over pairs of models of the first's number minus the second's; n counts the pairs, nan for none."""
        there = [(a, b) for a, b in pairs if a in self.rows and b in self.rows]
        gaps = {(a, b): self.rows[a] - self.rows[b] for a, b in there}
        return _estimate(pd.DataFrame(gaps, self.rows.index, dtype=float).mean(axis=1), len(there))

    def frame(self, name: str) -> pd.DataFrame:
        """Columns name, name_low and name_high, indexed by model."""
        found = [_estimate(self.rows[m], 0)[:3] for m in self.rows]
        index = self.rows.columns if found else pd.Index([], dtype=str)
        return pd.DataFrame(found, index=index, columns=[name, f"{name}_low", f"{name}_high"], dtype=float)


def _estimate(rows: pd.Series, n: int) -> Estimate:
    return of_draws(rows.iloc[0], rows.iloc[1:].to_numpy(float), n)


def redrawn(wide: pd.DataFrame, seed: int = 0, units: np.ndarray | None = None) -> Drawn:
    """Means over images, and when these are drawn again, alike for all models: [images, models].

    units: the number of each image's class, int [images], where whole classes are drawn; None: images are.
    """
    rows = [wide.mean().to_numpy(float)[None]]
    if wide.size:
        rows.append(statistics.resampled_means(wide.to_numpy(np.float64).T, units, seed))
    return Drawn(pd.DataFrame(np.concatenate(rows), columns=wide.columns))


NONE = redrawn(pd.DataFrame())  # of no models


def means(table: pd.DataFrame, value: str, seed: int = 0) -> Drawn:
    """The mean of a column over images for each model of a table of observations, and when classes are drawn again."""
    if "image" not in table:  # no lines, or those of a file, of whose images nothing is kept
        return NONE
    wide = table.pivot(index="image", columns="model", values=value)[table["model"].unique()]
    return redrawn(wide, seed, statistics.whole(table, wide.index))


def summary(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means of `observe.kurtosis` with their intervals, a line a model; the line of a file has its own."""
    if "image" not in table:
        return table.set_index("title")
    values = [str(c) for c in table.select_dtypes("number") if c not in ("image", *CONSTANT)]
    return interval(table, values, seed=seed).join(table.groupby("title", sort=False)[CONSTANT].first())


def beside(models: pd.DataFrame, numbers: Mapping[str, Drawn]) -> pd.DataFrame:
    """Several numbers of each model with their intervals, a line a model, by title."""
    return models[["title"]].join([x.frame(name) for name, x in numbers.items()]).set_index("title")


def within(numbers: Mapping[str, Drawn], models: pd.DataFrame) -> pd.DataFrame:
    """A zero-shot model's numbers minus its counterparts', a line a number and backbone, and their mean."""
    backbones = {**dict(list(models[models["own"]].groupby("backbone", sort=False))), "mean": models}
    gaps = {
        (name, backbone, f"minus {other}"): drawn.difference(pairs(part, [other]))
        for (name, drawn), other, (backbone, part) in product(numbers.items(), OTHERS, backbones.items())
    }
    return arranged(gaps if pairs(models) else {}, ["of", "backbone"])


# --- what goes with what, over models


def over_models(x: Drawn, y: Drawn, models: Iterable[str], seed: int = 0) -> Estimate:
    """Spearman's correlation over models, with the interval when the models are drawn again; n counts them."""
    x, y = _together(x, y, models)
    return statistics.correlation(x.values, y.values, "spearman", seed)


def goes_with(measures: Mapping[str, Drawn], y: Drawn, models: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Correlations of several numbers with `y`, over all models and over the zero-shot ones, where these are three.

    Indexed by with, models and coefficient ("pearson", "spearman"). Columns value, value_low and value_high (images
    drawn again), other models (interval when the models are drawn again, text), n, p (permutation) and given
    (Spearman's, with the measure "accuracy" taken out).
    """
    lines: dict[tuple, dict[str, Any]] = {}
    groups = {"all": models.index, "zero-shot": models.index[models["group"] == "zero-shot"]}
    for (name, measure), (group, some), method in product(measures.items(), groups.items(), METHODS):
        a, b = _together(measure, y, some)
        if a.rows.shape[1] < NEEDED:
            continue
        size = min(len(a.rows), len(b.rows))
        drawn = statistics.coefficient(a.rows[:size], b.rows[:size], method)
        _, low, high, n = statistics.correlation(a.values, b.values, method, seed)[:4]
        cells = zip(("value", "value_low", "value_high", "n"), of_draws(drawn[0], drawn[1:], n)[:4], strict=True)
        line: dict[str, Any] = dict(cells)
        line["other models"] = f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else "–"
        line["p"] = statistics.permutation_p(a.values, b.values, method, seed)
        taken_out = method == "spearman" and name != "accuracy"
        line["given"] = partial(a, b, measures["accuracy"], some) if taken_out else np.nan
        lines[name, group, method] = line
    names = ["with", "models", "coefficient"]
    return pd.DataFrame(list(lines.values()), index=pd.MultiIndex.from_tuples(lines, names=names) if lines else None)


def inside_backbones(measures: Mapping[str, Drawn], y: Drawn, models: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of several numbers with `y` within each backbone of three models, with its p: texts."""
    lines: dict[str, dict[str, str]] = {}
    for (backbone, part), (name, measure) in product(models.groupby("backbone", sort=False), measures.items()):
        a, b = _together(measure, y, part.index)
        if a.rows.shape[1] >= NEEDED:
            value = float(statistics.coefficient(a.values, b.values, "spearman"))
            p = statistics.permutation_p(a.values, b.values, "spearman", seed)
            lines.setdefault(str(backbone), {"models": str(len(part))})[name] = f"{value:.2f} (p {p:.2f})"
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("backbone")


def partial(x: Drawn, y: Drawn, given: Drawn, models: Iterable[str]) -> float:
    """Spearman's correlation of two numbers over models with a third taken out; nan below 4 models.

    Ranks of x and y minus what a line in the ranks of `given` predicts.
    """
    x, y = _together(x, y, models)
    if x.rows.shape[1] < 4:
        return np.nan
    a, b, c = (stats.rankdata(v) for v in (x.values, y.values, given.of(x.rows.columns).values))
    return float(statistics.coefficient(*(r - np.polyval(np.polyfit(c, r, 1), c) for r in (a, b))))


def _together(x: Drawn, y: Drawn, models: Iterable[str]) -> tuple[Drawn, Drawn]:
    """Both of those models that have finite numbers in both."""
    there = [m for m in models if np.isfinite(x.values.get(m, np.nan)) and np.isfinite(y.values.get(m, np.nan))]
    return x.of(there), y.of(there)
