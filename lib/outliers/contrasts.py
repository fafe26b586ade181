"""Comparisons between models: a zero-shot model and its counterparts, one backbone, one kind of training.

Differences come from paired bootstrap draws: every model saw the same images, drawn again alike for all, so that the
interval of a difference is narrower than those of its two numbers suggest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lib.models import LIBRARIES, catalogue
from lib.outliers import cka, directions
from lib.outliers.probes import APART
from lib.run import Found
from lib.seeds import number
from lib.statistics import (
    Estimate,
    arranged,
    coefficient,
    correlation,
    interval,
    of_draws,
    permutation_p,
    resampled_means,
)

GROUPS = {"contrastive": "zero-shot", "finetuned": "fine-tuned", "supervised": "supervised", "captions": "captions"}
OTHERS = list(GROUPS.values())[1:]
SAVED = "saved"  # the group of embeddings from a file
BACKBONES = ("RN50", "RN101", "ViT-B-16", "ViT-B-32")  # those whose zero-shot models have counterparts
CONSTANT = ("d", "before_d", "outliers")  # columns of `observe.kurtosis` that are the same in all lines of a model
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
    the others started; its name is the backbone's.
    """
    found = table[["model", "title", "group", "backbone", "data"]].drop_duplicates("model").set_index("model")
    first = (found["group"] != "zero-shot") | (found.index == found["backbone"])
    return found.assign(own=found["backbone"].isin(BACKBONES) & first)


def pairs(models: pd.DataFrame, others: Sequence[str] = OTHERS, group: str = "zero-shot") -> Pairs:
    """(model of `group`, model of one of the groups `others`) of each backbone that has both."""
    own = models[models["own"]].reset_index()
    both = own[own["group"] == group].merge(own[own["group"].isin(others)], on="backbone")
    return list(zip(both["model_x"], both["model_y"], strict=True))


def by_backbone(models: pd.DataFrame, others: Sequence[str] = OTHERS) -> dict[str, Pairs]:
    """`pairs` of each backbone, and "mean" for all of them."""
    own = models[models["own"]].groupby("backbone", sort=False)
    return {str(b): pairs(part, others) for b, part in own} | {"mean": pairs(models, others)}


def by_pretraining(models: pd.DataFrame, endings: Sequence[str] = ("",)) -> Pairs:
    """(OpenAI's model, a zero-shot model of the same backbone and other pretraining, whose name has such an ending)."""
    zero_shot = models[models["group"] == "zero-shot"].reset_index()
    both = zero_shot[zero_shot["own"]].merge(zero_shot[~zero_shot["own"]], on="backbone")
    named = both["model_y"].astype(str).str.endswith(tuple(endings))
    return list(zip(both["model_x"][named], both["model_y"][named], strict=True))


# --- a number of each model, and its draws


@dataclass(frozen=True)
class Drawn:
    """A number of each model, and the same when the images are drawn again: values [models], draws [draws, models]."""

    values: pd.Series
    draws: pd.DataFrame

    def apply(self, function: Callable) -> "Drawn":
        return Drawn(function(self.values), function(self.draws))

    def __sub__(self, other: "Drawn") -> "Drawn":
        return Drawn(self.values - other.values, self.draws - other.draws)

    def of(self, models: Iterable[str]) -> "Drawn":
        """The same of some models, those that there are."""
        there = [m for m in models if m in self.values.index]
        return Drawn(self.values[there], self.draws[there])

    def mean(self, models: Iterable[str]) -> Estimate:
        """Mean over some models, those that there are; n counts them, nan for none."""
        some = self.of(models)
        return of_draws(some.values.mean(), some.draws.mean(axis=1).to_numpy(float), len(some.values))

    def difference(self, pairs: Pairs) -> Estimate:
        """Mean over pairs of models of the first's number minus the second's; n counts the pairs, nan for none."""
        there = [p for p in pairs if {*p} <= {*self.values.index}]
        gaps = Drawn(
            pd.Series({p: self.values[p[0]] - self.values[p[1]] for p in there}, dtype=float),
            pd.DataFrame({p: self.draws[p[0]] - self.draws[p[1]] for p in there}),
        )
        return of_draws(gaps.values.mean(), gaps.draws.mean(axis=1).to_numpy(float), len(there))

    def frame(self, name: str) -> pd.DataFrame:
        """Columns name, name_low and name_high, indexed by model."""
        found = [of_draws(self.values[m], self.draws[m], 0)[:3] for m in self.values.index]
        index = self.values.index if found else pd.Index([], dtype=str)
        return pd.DataFrame(found, index=index, columns=[name, f"{name}_low", f"{name}_high"], dtype=float)


def redrawn(wide: pd.DataFrame, seed: int = 0) -> Drawn:
    """Means over images, and when these are drawn again, alike for all models: [images, models]."""
    draws = resampled_means(wide.to_numpy(np.float64).T, None, seed) if wide.size else np.empty((0, wide.shape[1]))
    return Drawn(wide.mean(), pd.DataFrame(draws, columns=wide.columns))


def means(table: pd.DataFrame, value: str, seed: int = 0) -> Drawn:
    """The mean of a column over images for each model of a table of observations, and when these are drawn again."""
    if "image" not in table:  # no lines, or those of a file, of whose images nothing is kept
        return redrawn(pd.DataFrame(), seed)
    return redrawn(table.pivot(index="image", columns="model", values=value)[table["model"].unique()], seed)


def summary(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means of `observe.kurtosis` with their intervals, a line a model; the line of a file has its own."""
    if "image" not in table:
        return table.set_index("title")
    values = [c for c in table.select_dtypes("number") if c not in ("image", *CONSTANT)]
    return interval(table, values, seed=seed).join(table.groupby("title", sort=False)[list(CONSTANT)].first())


def within(numbers: Mapping[str, Drawn], models: pd.DataFrame) -> pd.DataFrame:
    """A zero-shot model's numbers minus its counterparts', a line a number and backbone, and their mean."""
    gaps = {
        (name, backbone, f"minus {other}"): drawn.difference(both)
        for name, drawn in numbers.items()
        for other in OTHERS
        for backbone, both in by_backbone(models, [other]).items()
    }
    return arranged({} if models["own"].sum() < 2 else gaps, ["of", "backbone"])


def ranked(curves: Mapping[str, np.ndarray], name: str) -> pd.DataFrame:
    """Curves [n] of models (or sets), each from its largest value down: columns model, rank and `name`."""
    parts = [
        pd.DataFrame({"model": m, "rank": 1 + np.arange(len(x)), name: np.sort(x)[::-1]}) for m, x in curves.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "rank", name])


def over_median(table: pd.DataFrame) -> pd.DataFrame:
    """`observe.directions`, each head's directions from the most important down: columns rank and over_median."""
    each = table.groupby(["model", "head"], sort=False)["importance"]
    ranks = each.rank(ascending=False, method="first").astype(int)
    return table.assign(rank=ranks, over_median=table["importance"] / each.transform("median")).sort_values(
        ["head", "rank"], kind="stable"
    )


def pruned(found: Found, models: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """Change of top-1 in points when a share of the directions is pruned: a line a way, a column a group of `models`.

    found: of `observe.pruning`. Means over those models of a group that have counterparts; images are drawn again.
    """
    full = hits(found, "val", "importance", 0.0)
    changes = {
        (way, group): redrawn(hits(found, "val", way, share) - full, seed).mean(part.index)
        for way in dict.fromkeys(found.table.get("way", ()))
        for group, part in models[models["own"]].groupby("group", sort=False)
    }
    return arranged(changes, ["kept by"])


def of_each(found: Found, number: Callable[[pd.DataFrame, dict], tuple[float, np.ndarray]]) -> Drawn:
    """A number of each model and its draws [draws] from the model's lines and tensors."""
    parts = found.table.groupby("model", sort=False) if len(found.table) else ()
    each = {model: number(part, found.tensors[model]) for model, part in parts}
    values, draws = ({m: x[k] for m, x in each.items()} for k in (0, 1))
    return Drawn(pd.Series(values, dtype=float), pd.DataFrame(draws))


def likeness(found: Found, seed: int = 0) -> Drawn:
    """The CKA of each model with another from `observe.likeness`, and when the minibatches are drawn again."""

    def of(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        terms = table[list(cka.TERMS)].to_numpy(float)
        return float(cka.cka(terms.mean(0))), cka.cka(resampled_means(terms.T, None, seed))

    return of_each(found, of)


def stand_out(found: Found, head: str = directions.HEADS[0], how: str = "ratio") -> Drawn:
    """The largest importance of each model's head over the median one ("ratio"), or over the sum ("share").

    found: of `observe.directions`.
    """

    def of(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        both = directions.concentration(table.loc[table["head"] == head, "importance"])
        return float(both[how == "share"]), tensors[how][directions.HEADS.index(head)]

    return of_each(found, of)


def encoded(found: Found, threshold: float, choice: str = "head", kind: str = "") -> Drawn:
    """How many concepts (of a kind; by default all but the classes of the head) each model encodes.

    found: of `observe_concepts.concepts`; a model's best directions stay when the images are drawn again.
    """

    def of(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        table = table[table["choice"] == choice]
        wanted = ((table["kind"] == kind) if kind else (table["kind"] != APART)).to_numpy()
        drawn = tensors[f"drawn {choice}"][:, wanted].sum(axis=1).astype(float)
        return float((table["ap"] >= threshold)[wanted].sum()), drawn

    return of_each(found, of)


def polysemanticity(found: Found, seed: int = 0) -> Drawn:
    """Concepts that a direction encodes, on average over the directions of a head, and when these are drawn again."""

    def of(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        counts, own = tensors["by direction"].astype(float), number(seed, "directions", table["model"].iloc[0])
        return counts.mean(), resampled_means(counts[None], None, own)[:, 0]

    return of_each(found, of)


def hits(found: Found, split: str, way: str, share: float) -> pd.DataFrame:
    """Whether each image of a split is classified rightly, in per cent, with a share of the directions pruned in a way.

    found: of `observe.pruning`. Returns [images, models]; models that have no such share are left out.
    """
    return pd.DataFrame(
        {
            model: found.tensors[model][split][notes["ways"].index(way), notes["shares"].index(share)].astype(float)
            for model, notes in found.notes.items()
            if share in notes.get("shares", ()) and split in found.tensors[model]
        }
    )


# --- what goes with what, over models


def baseline_models(dataset: str) -> list[str]:
    """Models that the line of effective robustness is fitted on: the bestiary's supervised ones, of all sizes and
    amounts of data; elsewhere none, as the testbed's are (`lib.outliers.testbed`)."""
    rows = catalogue("comparison baselines")
    return list(rows.index[rows["objective"] == "supervised"]) if dataset == "bestiary" else []


def correlations(x: Drawn, y: Drawn, models: Iterable[str], seed: int = 0) -> pd.DataFrame:
    """Pearson's and Spearman's coefficients of two numbers over models; no lines for fewer than three.

    Columns method, n, value, images_low and images_high (images drawn again), models_low and models_high (models drawn
    again), p (permutation).
    """
    x, y = _together(x, y, models)
    lines, size = [], min(len(x.draws), len(y.draws))
    for method in ("pearson", "spearman") if len(x.values) >= 3 else ():
        value, low, high, n = correlation(x.values, y.values, method, seed)
        images = of_draws(value, coefficient(x.draws[:size].to_numpy(), y.draws[:size].to_numpy(), method), n)
        line = {"method": method, "n": n, "value": value, "images_low": images.low, "images_high": images.high}
        line |= {"models_low": low, "models_high": high, "p": permutation_p(x.values, y.values, method, seed)}
        lines.append(line)
    return pd.DataFrame(lines)


def partial(x: Drawn, y: Drawn, given: Drawn, models: Iterable[str]) -> float:
    """Spearman's correlation of two numbers over models with a third taken out; nan below 4 models.

    Ranks of x and y minus what a line in the ranks of `given` predicts.
    """
    x, y = _together(x, y, models)
    if len(x.values) < 4:
        return np.nan
    a, b, c = (stats.rankdata(v) for v in (x.values, y.values, given.of(x.values.index).values))
    return float(coefficient(*(r - np.polyval(np.polyfit(c, r, 1), c) for r in (a, b))))


def _together(x: Drawn, y: Drawn, models: Iterable[str]) -> tuple[Drawn, Drawn]:
    """Both of those models that have finite numbers in both."""
    there = [m for m in models if np.isfinite(x.values.get(m, np.nan)) and np.isfinite(y.values.get(m, np.nan))]
    return x.of(there), y.of(there)
