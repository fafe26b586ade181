"""What the papers published: the numbers in data/published/*.csv and the claims in data/claims.toml."""

import tomllib

import numpy as np
import pandas as pd

from lib import paths
from lib.errors import UserError, nearest

DIRECTIONS = ("positive", "negative")


def load(name, index="model"):
    """A table of data/published as a DataFrame indexed by the paper's own model names.

    Raises UserError for an unknown table.
    """
    folder = paths.DATA / "published"
    known = sorted(p.stem for p in folder.glob("*.csv"))
    if name not in known:
        hint = nearest(name, known) or f" There are {', '.join(known)}."
        raise UserError(f"There is no published table '{name}'.{hint}")
    frame = pd.read_csv(folder / f"{name}.csv")
    return frame.set_index(index) if index else frame


def averaged(name="mutual_knowledge_table3"):
    """The published Table 3 with `auc` and `mi`, its PCA and K-means columns averaged, as in Figure 3."""
    table = load(name)
    average = {m: table[[f"{m}_pca", f"{m}_kmeans"]].mean(axis=1) for m in ("auc", "mi")}
    return table.assign(**average)


def join(rows, table):
    """Published rows put in the order of `rows` (a DataFrame with a `title` column), indexed like them.

    A model that the paper does not have gives a row of nan.
    """
    return table.reindex(rows["title"]).set_axis(rows.index, axis=0)


def claims(exhibit=None):
    """The papers' claims, of all exhibits or of one: the tables of data/claims.toml, a list of dicts."""
    found = tomllib.loads((paths.DATA / "claims.toml").read_text(encoding="utf-8"))["claim"]
    return [c for c in found if exhibit in (None, c["exhibit"])]


def verdict(low, high, direction="positive"):
    """One of "holds", "fails" and "inconclusive": on which side of zero the statistic's interval lies.

    A claim of direction "positive" holds when the whole interval is above zero and fails when it is below.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction is {direction!r}, but it must be one of {DIRECTIONS}.")
    if not (np.isfinite(low) and np.isfinite(high)):
        return "inconclusive"
    if direction == "negative":
        low, high = -high, -low
    return "holds" if low > 0 else "fails" if high < 0 else "inconclusive"
