"""What follows from observations: a score as a sign of a right label, and which neuron a page looks at."""

import warnings
from typing import Any

import numpy as np
import pandas as pd

from lib.dissection import evaluation
from lib.errors import UserError
from lib.seeds import rng
from lib.statistics import Estimate, of_draws


def auc(table: pd.DataFrame, by: str | list[str]) -> pd.Series:
    """Area under the ROC curve of `score` as a sign of a label that is right (more than 0), by groups of lines."""
    lines: dict[Any, float] = {}
    for name, group in table.groupby(by, sort=False):
        lines[name] = float(evaluation.auc(group["score"].to_numpy(), group["right"].to_numpy() > 0))
    return pd.Series(lines, name="auc")


def score_tells(table: pd.DataFrame, by: str | list[str], seed: int = 0, resamples: int = 500) -> Estimate:
    """Mean of `auc` over groups, less a half, with its interval when the neurons are drawn again.

    A group whose labels are all right, or all wrong, has no AUC and is left out. n: neurons, group by group.
    """
    values, draws, stream = [], [], rng(seed, "neurons")
    for _, group in table.groupby(by, sort=False):
        score, right = group["score"].to_numpy(), group["right"].to_numpy() > 0
        drawn = stream.integers(len(group), size=(resamples, len(group)))
        values.append(evaluation.auc(score, right))
        draws.append(evaluation.auc(score[drawn], right[drawn]))
    if np.isnan(values).all():
        return Estimate(np.nan)
    with warnings.catch_warnings():  # a draw may have no AUC in any group
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean(np.array(draws)[~np.isnan(values)], axis=0)
    return of_draws(float(np.nanmean(values)) - 0.5, means - 0.5, len(table))


def pick(table: pd.DataFrame, unit: int = -1) -> int:
    """A neuron of one layer: `unit`, or for -1 the one with the highest score. table: a line a neuron.

    Raises UserError for one that is not there, and for a dead one.
    """
    layer, score = table["layer"].iloc[0], table[~table["dead"]].set_index("unit")["score"]
    if unit == -1 and len(score):
        return int(score.index[int(score.argmax())])
    if unit == -1:
        raise UserError(f"{layer} has no living neuron.")
    if unit not in table["unit"].to_numpy():
        first, last = table["unit"].min(), table["unit"].max()
        raise UserError(f"{layer} has no neuron {unit}; it has {len(table)}, from {first} to {last}.")
    if unit not in score.index:
        some = ", ".join(map(str, score.index[:8]))
        raise UserError(
            f"Neuron {unit} of {layer} is dead: it does the same on every image, so it has no label; alive are {some}."
        )
    return unit
