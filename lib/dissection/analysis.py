"""What follows from observations: a score as a sign of a right label, and which neuron a page looks at."""

import numpy as np
import pandas as pd

from lib.dissection import evaluation
from lib.errors import UserError
from lib.seeds import rng
from lib.statistics import Estimate, of_draws


def auc(table: pd.DataFrame, by: list[str], right: str = "right", score: str = "score") -> pd.Series:
    """Area under the ROC curve of a score as a sign of a right label (more than 0), for each group of lines."""
    groups = table.groupby(by, sort=False)
    return groups.apply(lambda g: float(evaluation.auc(g[score], g[right] > 0)), include_groups=False).rename("auc")


def score_tells(
    table: pd.DataFrame, by: list[str], right: str = "right", seed: int = 0, resamples: int = 500
) -> Estimate:
    """Mean over groups of the AUC of the score as a sign of a right label, less a half; neurons are drawn again.

    A group whose labels are all right, or all wrong, has no AUC and is left out. n: neurons, group by group.
    """
    values, draws, stream = [], [], rng(seed, "neurons")
    for _, group in table.groupby(by, sort=False):
        score, known = group["score"].to_numpy(), (group[right] > 0).to_numpy()
        drawn = stream.integers(len(group), size=(resamples, len(group)))
        values.append(evaluation.auc(score, known))
        draws.append(evaluation.auc(score[drawn], known[drawn]))
    if np.isnan(values).all():
        return Estimate(np.nan)
    there = ~np.isnan(values)
    mean = np.nanmean(np.array(draws)[there], axis=0) if there.any() else np.empty(0)
    return of_draws(float(np.nanmean(values)) - 0.5, mean - 0.5, len(table))


def pick(table: pd.DataFrame, unit: int = -1) -> int:
    """A neuron of one layer: `unit`, or for -1 the one with the highest score. table: a line a neuron.

    Raises UserError for one that is not there, and for a dead one.
    """
    layer, alive = table["layer"].iloc[0], table[~table["dead"]]
    if unit == -1 and len(alive):
        return int(alive.loc[alive["score"].idxmax(), "unit"])
    if unit not in table["unit"].to_numpy():
        known = f"it has {len(table)}, from {table['unit'].min()} to {table['unit'].max()}"
        raise UserError(f"{layer} has no living neuron." if unit == -1 else f"{layer} has no neuron {unit}; {known}.")
    if unit not in alive["unit"].to_numpy():
        some = ", ".join(map(str, alive["unit"][:8]))
        raise UserError(
            f"Neuron {unit} of {layer} is dead: it does the same on every image, so it has no label; alive are {some}."
        )
    return unit
