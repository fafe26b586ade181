"""Which conclusions of Table 3 and Figure 3 survive every switch between paper and released code?

One switch of `Options` is turned at a time. Those of `readings` only read the parts anew; those of `FINDINGS` find them
anew and cost as much as Table 3 itself.
"""

from typing import Any

import numpy as np
import pandas as pd

from lib import statistics
from lib.data import ImageDataset
from lib.mutual.words import language_size
from lib.statistics import Estimate

FINDINGS: dict[str, dict[str, Any]] = {
    "foreground: released default": {"foreground": "published"},
    "decomposed image by image": {"spectral": "image"},
    "largest component only": {"components": "largest"},
    "3 parts": {"parts": 3},
    "8 parts": {"parts": 8},
    "groups by prediction": {"group": "predicted"},
    "K-means, another start": {"restart": 1},
    "keys without their bias": {"foreground": "keys_no_bias"},
    "outline by the CRF": {"crf": True},
}
CORRELATIONS = {
    "AUC ~ accuracy, all": ("auc", None),
    "AUC ~ accuracy, ViT": ("auc", "ViT"),
    "AUC ~ accuracy, ResNet": ("auc", "ResNet"),
    "MI ~ accuracy, all": ("mi", None),
}
DIFFERENCES = {  # of AUC, as in data/claims.toml
    "ViT > ResNet": (("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"), ("RN50", "RN101", "RN50x4", "RN50x16")),
    "larger model": (("ViT-L-14",), ("ViT-B-16",)),
    "more patches": (("ViT-B-16", "ViT-L-14-336"), ("ViT-B-32", "ViT-L-14")),
    "better data": (("ViT-B-16-dcp", "ViT-B-16-dfn"), ("ViT-B-16",)),
}
ABOVE = "K above chance"


def readings(images: ImageDataset) -> dict[str, dict[str, Any]]:
    """The switches that only read the parts anew: name to what it changes in `Options`.

    500 candidates are more than a small bank holds, so that there a quarter of the bank is tried.
    """
    size, quarter = language_size(images), max(1, round(0.25 * len(images.bank)))
    return {
        "parts by PCA": {"parts_by": "pca"},
        "1 descriptor a part": {"per_part": 1},
        "5 descriptors a part": {"per_part": 5},
        "half as long a language list": {"top_u": max(1, round(0.5 * size))},
        "twice as long a language list": {"top_u": 2 * size},
        "candidates: a quarter of the bank": {"top": quarter},
        "candidates: of any part": {"top": quarter, "candidates": "union"},
        "relevance: median + 0.02": {"relevance": "paper"},
        "relevance: no filter": {"relevance": "none"},
        "matching: nearest candidates": {"matching": "nearest"},
        "matching: nearest of the bank": {"matching": "top"},
        "removal shortens the list": {"removal": "drop"},
        "ln(NM/K), as written": {"information": "definition"},
        "ln K, consistent": {"information": "consistent"},
    }


def by_image(table: pd.DataFrame, against: str = "predicted class") -> pd.DataFrame:
    """A line a model and image of `observe.table3`: its means over the part methods, and `above_chance`.

    above_chance: the matches K with the class asked for less those with a class that was not predicted.
    """
    keys = ["model", "title", "family", "image", "class"]
    own = table[table["against"] == against].groupby(keys, sort=False)[["top1", "mi", "auc", "matches"]].mean()
    chance = table[table["against"] == "wrong class"].groupby(keys, sort=False)["matches"].mean()
    return own.assign(above_chance=own["matches"] - chance).reset_index()


def conclusions(seen: pd.DataFrame, top1: pd.Series, seed: int = 0) -> pd.DataFrame:
    """The statistic of each conclusion under each switch: a line a switch and conclusion, with `sign` ▲, ▼, ○ or "".

    seen: lines of `by_image` with a column `switch`; top1: accuracy by model. Intervals are over classes drawn anew,
    the same for all models, with the models' accuracy as it is; ▲ and ▼: the interval is above, below zero. A switch
    that applies to some models only is left out ("", nan) of what needs the others.
    """
    families = seen.drop_duplicates("model").set_index("model")["family"]
    lines = []
    for switch, part in seen.groupby("switch", sort=False):
        found = {}
        for name, (quantity, family) in CORRELATIONS.items():
            wanted = families.index[families == family] if family else families.index
            found[name] = _correlation(part, quantity, wanted, top1, seed)
        for name, (greater, less) in DIFFERENCES.items():
            sides = {"model": list(greater)}, {"model": list(less)}
            found[name] = statistics.difference(part, "auc", *sides, seed=seed)
        above = part.groupby("image")["above_chance"].mean()
        found[ABOVE] = statistics.estimate(above, statistics.whole(part, above.index), seed)
        lines += [(switch, name, *estimate[:3]) for name, estimate in found.items()]
    table = pd.DataFrame(lines, columns=["switch", "conclusion", "value", "value_low", "value_high"])
    signs = [table["value"].isna(), table["value_low"] > 0, table["value_high"] < 0]
    return table.assign(sign=np.select(signs, ["", "▲", "▼"], "○"))


def _correlation(part: pd.DataFrame, quantity: str, models: pd.Index, top1: pd.Series, seed: int) -> Estimate:
    """Pearson's correlation with accuracy over `models`, all of which have to be there."""
    wide = part.pivot_table(quantity, "model", "image", sort=False).reindex(models)
    if len(models) < 3 or wide.isna().all(axis=1).any():
        return Estimate(np.nan)
    accuracy, units = top1[models].to_numpy(float), statistics.whole(part, wide.columns)
    means = statistics.resampled_means(wide.to_numpy(), units, seed)
    value = statistics.coefficient(wide.mean(axis=1).to_numpy(), accuracy)
    return statistics.of_draws(float(value), statistics.coefficient(means, accuracy), len(models))


def beside(found: pd.DataFrame) -> pd.DataFrame:
    """Lines of `conclusions` as a table to look at: a line a switch, a column a conclusion, "value sign" in each."""
    there = found[found["sign"] != ""]
    text = there["value"].map("{:+.2f} ".format) + there["sign"]
    wide = there.assign(text=text).pivot(index="switch", columns="conclusion", values="text")
    return wide.reindex(index=found["switch"].unique(), columns=found["conclusion"].unique())


def survival(found: pd.DataFrame) -> pd.DataFrame:
    """Under how many switches each conclusion stands, and whether under all: a line a conclusion of `conclusions`."""
    found = found[found["sign"] != ""].assign(positive=found["value"] > 0)
    by = found.assign(above=found["sign"] == "▲", below=found["sign"] == "▼").groupby("conclusion", sort=False)
    names = {"switches": ("sign", "size"), "positive": ("positive", "sum"), "interval above zero": ("above", "sum")}
    names |= {"interval below zero": ("below", "sum"), "lowest": ("value", "min"), "highest": ("value", "max")}
    table = by.agg(**names)
    same = [table["interval above zero"] == table["switches"], (table["lowest"] > 0) | (table["highest"] < 0)]
    return table.assign(verdict=np.select(same, ["survives", "sign survives"], "depends on the switch"))
