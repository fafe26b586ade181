"""Effective robustness at the papers' scale from public tables, without an image: ImageNet testbed and open_clip.

The baseline models are those that Taori et al. (2020) trained in the standard way on ImageNet alone; which of the
testbed's models these are is listed in data/published/imagenet_testbed_standard.csv. The accuracies of the paper's
zero-shot models are open_clip's own (data/published/outlier_features_support.csv).
"""

import numpy as np
import pandas as pd

from lib.data import download
from lib.outliers import robustness
from lib.paths import DATA

# our name of a split -> its column in the testbed
COLUMNS = {
    "top1": "val",
    "V2": "imagenetv2-matched-frequency-format-val",
    "R": "imagenet-r",
    "Sketch": "imagenet-sketch",
    "ObjectNet": "objectnet-1.0-beta",
    "A": "imagenet-a",
}
SHIFTS = tuple(COLUMNS)[1:]
LOWEST = 55.0  # unshifted accuracy (%) of a baseline model: far below the models in question the line is another


def baselines():
    """Accuracies of the testbed's standard models in per cent: DataFrame, index model, columns as COLUMNS.

    Raises UserError where the testbed's table cannot be had.
    """
    table = pd.read_csv(download("imagenet_testbed_top1")).set_index("model")
    standard = pd.read_csv(DATA / "published" / "imagenet_testbed_standard.csv")["model"]
    chosen = table.loc[standard, list(COLUMNS.values())].set_axis(list(COLUMNS), axis=1)
    return chosen[chosen["top1"] >= LOWEST]


def public_accuracies():
    """Accuracies of the paper's zero-shot models, as open_clip publishes them, in per cent: like `baselines`."""
    table = pd.read_csv(DATA / "published" / "outlier_features_support.csv")
    table = table[table["table"] == "zs_acc"]
    names = {"acc_ImageNet": "top1"} | {f"acc_{shift}": shift for shift in SHIFTS}
    table = table[table["metric"].isin(names)].assign(metric=lambda t: t["metric"].map(names))
    wide = table.assign(value=table["value"].astype(float)).pivot(
        index=["model", "pretraining"], columns="metric", values="value"
    )
    return wide.loc[table[["model", "pretraining"]].drop_duplicates().apply(tuple, axis=1), list(COLUMNS)]


def effective(accuracies, standard, axis="logit", resamples=1000, seed=0):
    """Effective robustness under each shift and on average, with the interval when the baseline models are drawn again.

    accuracies, standard: DataFrames with the columns of COLUMNS. Returns (DataFrame with <shift>, <shift>_low,
    <shift>_high and the same for "mean", dict of shift to Line).
    """
    drawn = np.random.default_rng([seed, 111]).integers(len(standard), size=(resamples, len(standard)))
    x, top1 = standard["top1"].to_numpy(), accuracies["top1"].to_numpy()
    values, draws, lines = {}, {}, {}
    for shift in SHIFTS:
        y = standard[shift].to_numpy()
        there = np.isfinite(y)  # the testbed lacks some models under some shifts
        lines[shift] = robustness.fit(x[there], y[there], axis, list(standard.index[there]))
        again = robustness.fit(x[drawn], np.where(there, y, 0)[drawn], axis)
        again.slope, again.intercept = again.slope[:, None], again.intercept[:, None]
        values[shift] = robustness.effective(top1, accuracies[shift].to_numpy(), lines[shift])
        draws[shift] = robustness.effective(top1, accuracies[shift].to_numpy(), again)
    values["mean"] = np.mean([values[s] for s in SHIFTS], axis=0)
    draws["mean"] = np.mean([draws[s] for s in SHIFTS], axis=0)
    table = accuracies[["top1"]].copy()
    for shift in (*SHIFTS, "mean"):
        table[shift] = values[shift]
        table[f"{shift}_low"], table[f"{shift}_high"] = np.quantile(draws[shift], [0.025, 0.975], axis=0)
    return table, lines
