"""Which number tells, without the truth at hand, how much of an explanation is true? From observations of models.

Every function takes one line a model and image: the scores of its descriptors (`lib.mutual.ground_truth`) and the
counts that could be had without the truth.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from lib import seeds, statistics

RESAMPLES = 400  # of classes, where ranks have to be made anew each time
COUNTS = {  # what may track the truth -> its name in tables
    "auc": "AUC",
    "mi": "MI",
    "matches": "matches K",
    "above_chance": "K above chance",
    "hit": "any match",
    "last_hit": "rank of the last match",
}
TRUTHS = {"precision": "precision", "recall": "recall", "f1": "F1"}
NAMES = {"top1": "top-1", **COUNTS, **TRUTHS}


def within_models(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's correlation of each count with each truth over the images of a model, averaged over the models.

    table: one line a model and image, with `COUNTS` and `TRUTHS`. A column a (count, truth), a line a resample of the
    classes, alike for all columns; line 0 has the images as they are. A constant count tracks nothing: 0.
    """
    total, names = np.zeros((len(COUNTS), len(TRUTHS), RESAMPLES + 1)), [*COUNTS, *TRUTHS]
    models = [part.dropna(subset=names) for _, part in table.groupby("model", sort=False)]
    for part in models:
        values = part[names].to_numpy(float).T
        for k, drawn in enumerate(_resamples(part, seed)):
            ranks = stats.rankdata(values[:, drawn], axis=-1)
            x, y = ranks[: len(COUNTS), None], ranks[None, len(COUNTS) :]
            total[..., k] += np.nan_to_num(statistics.coefficient(x, y))
    columns = pd.MultiIndex.from_product([list(COUNTS), list(TRUTHS)], names=["count", "truth"])
    return pd.DataFrame((total / len(models)).reshape(len(columns), -1).T, columns=columns)


def _resamples(part: pd.DataFrame, seed: int) -> Iterator[np.ndarray]:
    """The lines as they are, then those of classes drawn with replacement (of lines, where no class is known)."""
    yield np.arange(len(part))
    units = statistics.numbered(part)
    lines = [np.flatnonzero(units == k) for k in range(units.max() + 1)] if units is not None else np.arange(len(part))
    rng = seeds.rng(seed, "classes of a model", len(lines))
    for _ in range(RESAMPLES):
        yield np.hstack([lines[k] for k in rng.integers(len(lines), size=len(lines))])


def _drawn_whole(table: pd.DataFrame) -> tuple[pd.Index, np.ndarray | None, int]:
    """The images, the number of each one's class (None where none is known), and how many units are drawn."""
    images = pd.Index(table["image"].unique())
    units = statistics.whole(table, images)
    return images, units, len(images if units is None else np.unique(units))


def tracking(table: pd.DataFrame, within: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How each count, and accuracy, goes with each truth (Spearman), a line a pair: over models and within models.

    table: as of `within_models`, with `top1`; within: what that gives. Columns over_models (interval: other classes),
    other_models (the same value, interval: other models), within (other classes), each with _low and _high.
    """
    (_, _, n), found = _drawn_whole(table), {}
    for pair in product(("top1", *COUNTS), TRUTHS):
        means = table.groupby("model", sort=False)[list(pair)].mean()
        found[*pair, "over_models"] = statistics.correlation_over_images(table, *pair, "spearman", seed=seed)
        found[*pair, "other_models"] = statistics.correlation(means[pair[0]], means[pair[1]], "spearman", seed)
        if pair in within:
            found[*pair, "within"] = statistics.of_draws(within[pair][0], within[pair][1:].to_numpy(), n)
    return statistics.arranged(found, ["count", "truth"])


def right_and_wrong(table: pd.DataFrame, values: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Means of rightly and wrongly classified images, averaged over the models, a line a value.

    table: one line a model and image, with `top1` (0 or 100). Columns right, wrong and difference, each with
    _low and _high over classes drawn again.
    """
    found: dict[tuple, statistics.Estimate] = {}
    images, units, n = _drawn_whole(table)
    for value in values:
        sides = [table[table["top1"] == top1].pivot_table(value, "model", "image") for top1 in (100, 0)]
        sides = [side.reindex(columns=images) for side in sides]
        means = [side.mean(axis=1).mean() for side in sides]
        draws = [statistics.resampled_means(side.to_numpy(), units, seed).mean(1) for side in sides]
        pairs = {"right": (means[0], draws[0]), "wrong": (means[1], draws[1])}
        pairs["difference"] = (means[0] - means[1], draws[0] - draws[1])
        found |= {(value, side): statistics.of_draws(*pair, n) for side, pair in pairs.items()}
    return statistics.arranged(found, ["quantity"])
