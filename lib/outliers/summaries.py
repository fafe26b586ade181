"""What pages say of the observations of each exhibit: numbers of models with their draws, and tables to be shown."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from lib import seeds
from lib.outliers import cka, concepts, directions
from lib.outliers.contrasts import Drawn, redrawn
from lib.outliers.probes import APART
from lib.run import Found
from lib.statistics import arranged, resampled_means

TRIO = ("zero-shot", "fine-tuned", "supervised")
# regions of the paper's Figure 4 (version 1): which of TRIO encode a concept there
REGIONS = {
    "zs only": (True, False, False),
    "zs+ft only": (True, True, False),
    "ft only": (False, True, False),
    "all three": (True, True, True),
    "zs+sup only": (True, False, True),
    "ft+sup only": (False, True, True),
    "sup only": (False, False, True),
}
RANDOM = ("random", "random_low", "random_high")  # of `counted`: mean over the draws, and their range
# what `venn` counts -> its name in data/published/outlier_features.csv
FIGURE4 = {group: f"N_unique_{group.replace('fine-tuned', 'finetuned')}" for group in TRIO}
FIGURE4 |= {name: f"n_concepts_{name.replace('+', '_and_').replace(' ', '_')}" for name in REGIONS}


def ranked(curves: Mapping[str, np.ndarray], name: str) -> pd.DataFrame:
    """Curves [n] of models (or sets), each from its largest value down: columns model, rank and `name`."""
    parts = [pd.DataFrame({"model": m, "rank": 1 + np.arange(len(x)), name: -np.sort(-x)}) for m, x in curves.items()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "rank", name])


def over_median(table: pd.DataFrame) -> pd.DataFrame:
    """`observe.directions`, each head's directions from the most important down: columns rank and over_median."""
    each = table.groupby(["model", "head"], sort=False)["importance"]
    rank = each.rank(ascending=False, method="first").astype(int)
    table = table.assign(over_median=table["importance"] / each.transform("median"), rank=rank)
    return table.sort_values(["head", "rank"], kind="stable")


def pruned(found: Found, models: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """Change of top-1 in points when a share of the directions is pruned: a line a way, a column a group of `models`.

    found: of `observe.pruning`. Means over those models of a group that have counterparts; images are drawn again. Of a
    file, whose images have no labels, the change of agreement with the full head.
    """
    if "top1" not in found.table:
        lines = found.table[found.table["share"] == share].set_index(["title", "way"])
        return lines[["agree", "agree_low", "agree_high"]] - 100
    full = hits(found, "val", "importance", 0.0)
    changes = {
        (way, f"{group} ({len(part)})"): redrawn(hits(found, "val", way, share) - full, seed).mean(part.index)
        for way in dict.fromkeys(found.table["way"])
        for group, part in models[models["own"]].groupby("group", sort=False)
    }
    return arranged(changes, ["kept by"])


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


# --- numbers of each model: as measured, and drawn again


def _drawn(found: Found, number: Callable[[pd.DataFrame, dict], tuple[float, np.ndarray]]) -> Drawn:
    """A number of each model, and its draws, from the model's lines and tensors."""
    parts = found.table.groupby("model", sort=False) if len(found.table) else ()
    rows = {str(model): np.append(*number(part, found.tensors[str(model)])) for model, part in parts}
    return Drawn(pd.DataFrame(rows, None if rows else [0]))


def likeness(found: Found, seed: int = 0) -> Drawn:
    """The CKA of each model with another from `observe.likeness`, and when the minibatches are drawn again."""

    def number(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        terms = table[list(cka.TERMS)].to_numpy(float)
        return float(cka.cka(terms.mean(0))), cka.cka(resampled_means(terms.T, None, seed))

    return _drawn(found, number)


def stand_out(found: Found, head: str = directions.HEADS[0], how: str = "ratio") -> Drawn:
    """The largest importance of each model's head over the median one ("ratio"), or over the sum ("share").

    found: of `observe.directions`.
    """

    def number(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        both = directions.concentration(table.loc[table["head"] == head, "importance"])
        return float(both[how == "share"]), tensors[how][directions.HEADS.index(head)]

    return _drawn(found, number)


def encoded(found: Found, threshold: float, choice: str = "head", kind: str = "") -> Drawn:
    """How many concepts (of a kind; by default all but the classes of the head) each model encodes.

    found: of `observe_concepts.concepts`; a model's best directions stay when the images are drawn again.
    """

    def number(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        table = table[table["choice"] == choice]
        wanted = ((table["kind"] == kind) if kind else (table["kind"] != APART)).to_numpy()
        drawn = tensors[f"drawn {choice}"][:, wanted].sum(axis=1)
        return float((table["ap"] >= threshold)[wanted].sum()), drawn

    return _drawn(found, number)


def polysemanticity(found: Found, seed: int = 0) -> Drawn:
    """Concepts that a direction encodes, on average over the directions of a head, and when these are drawn again."""

    def number(table: pd.DataFrame, tensors: dict) -> tuple[float, np.ndarray]:
        counts = tensors["by direction"].astype(float)
        own = seeds.number(seed, "directions", table["model"].iloc[0])  # no model's directions are another's
        return counts.mean(), resampled_means(counts[None], None, own)

    return _drawn(found, number)


# --- tables of encoded concepts


def counted(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How many concepts (no classes of the head) each model encodes under each choice, a line a model.

    Also the columns of RANDOM, and tested (concepts in all).
    """
    if not len(table):
        return pd.DataFrame(columns=["head", "tested", *RANDOM])
    inside = table[table["kind"] != APART].assign(encoded=lambda x: x["ap"] >= threshold)
    counts = inside.pivot_table("encoded", "model", "choice", "sum", sort=False)
    random = counts.filter(like="random").agg(["mean", "min", "max"], axis=1).set_axis(RANDOM, axis=1)
    return counts.join(random).assign(tested=inside[inside["choice"] == "head"].groupby("model").size())


def kinds(found: Found, models: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The share of the concepts of each kind that is encoded (%), mean over the models of a group: a column a group."""
    table, shares = found.table[found.table["choice"] == "head"], {}
    for kind, size in table.groupby("kind", sort=False)["concept"].nunique().items():
        each = encoded(found, threshold, kind=str(kind)).apply(lambda x, size=size: 100 * x / size)
        for group, part in models.groupby("group", sort=False):
            shares[kind, size, group] = each.mean(part.index)
    return arranged(shares, ["kind", "tested"])


def venn(table: pd.DataFrame, models: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How many concepts the zero-shot, fine-tuned and supervised model of each backbone encode, and which of them do.

    Columns as of FIGURE4; a line a backbone that has all three.
    """
    lines = {}
    inside = table[(table["choice"] == "head") & (table["kind"] != APART)]
    for backbone, part in models[models["own"]].groupby("backbone", sort=False):
        trio = dict(zip(part["group"], part.index, strict=True))
        if set(TRIO) <= set(trio):
            sets = [inside.loc[inside["model"] == trio[group], "ap"].to_numpy() >= threshold for group in TRIO]
            regions = concepts.overlap(*sets)
            totals = {group: int(own.sum()) for group, own in zip(TRIO, sets, strict=True)}
            lines[backbone] = totals | {name: regions[pattern] for name, pattern in REGIONS.items()}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("backbone")
