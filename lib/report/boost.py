"""What the page on Table 2 shows: gains of the variants, what each reads, and the sweep over their size."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.report import statistics
from lib.report.figures import CYCLE, style
from lib.report.ground_truth import empty
from lib.report.tables import plain

# variant -> what it is, and which labels it reads
VARIANTS = {
    "published": ("images of the two nearest classes, by label", "of the evaluated images"),
    "tuned": ("the same, less the classes that it harms there", "of the evaluated images, twice"),
    "tuned_half": ("the same, less those that it harms in the other half", "of the other half of them, too"),
    "half": ("the other half of the images, by label", "of the other half of them"),
    "own": ("the class's own images, by label", "of the evaluated images"),
    "train": ("training images, by label", "of training images"),
    "label_free": ("training images, by prediction", "none"),
    "random_classes": ("images of two random classes, by label", "of the evaluated images"),
    "random": ("descriptors drawn from the bank", "none"),
}


def mean_over_models(arrays, metric, seed=0):
    """A metric's mean over models, image by image, with its interval over images: (value, low, high, n)."""
    there = [found[metric] for found in arrays.values() if metric in found]
    return statistics.interval(np.mean(there, axis=0), seed) if there else (np.nan, np.nan, np.nan, 0)


def gains(arrays, seed=0):
    """One line a variant: its gain in top-1 over the bank's own descriptors, averaged over the models."""
    lines = []
    for name, (source, labels) in VARIANTS.items():
        value, low, high, _ = mean_over_models(arrays, f"gain_{name}", seed)
        each = [float(np.mean(found[f"gain_{name}"])) for found in arrays.values() if f"gain_{name}" in found]
        up = f"{sum(g > 0 for g in each)} of {len(each)}"
        line = {"descriptors from": source, "labels read": labels, "gain": value, "low": low, "high": high}
        lines.append(line | {"models that gain": up})
    return pd.DataFrame(lines, index=list(VARIANTS))


def gain_table(found, name, caption):
    """A numbered table of `gains`."""
    shown = found.assign(
        gain=[f"{g:+.2f} [{a:+.2f}, {b:+.2f}]" for g, a, b in found[["gain", "low", "high"]].to_numpy()]
    )
    shown.loc[found["gain"].isna(), "gain"] = "–"
    return plain(shown.drop(columns=["low", "high"]), name, caption)


def difference(arrays, a, b, seed=0):
    """Mean over models of metric a minus metric b, image by image: (value, low, high, n)."""
    there = [found[a] - found[b] for found in arrays.values() if a in found and b in found]
    return statistics.interval(np.mean(there, axis=0), seed) if there else (np.nan, np.nan, np.nan, 0)


def sweep(rows, kept):
    """Gain against how many descriptors a class hands on: a line a variant, a panel a model.

    rows: DataFrame of `run.rows(boost.sweep)`; kept: the numbers, 0 for all.
    """
    if not len(rows):
        return empty("Not run: none of the sweep's models is among the run's.")
    style()
    names = {
        "published": "evaluated images, by label",
        "label_free": "training images, no label",
        "random_classes": "random classes",
    }
    figure, axes = plt.subplots(1, len(rows), figsize=(4.2 * len(rows), 3.4), sharey=True, squeeze=False)
    ticks = [str(k) if k else "all" for k in kept]
    for ax, (_, row) in zip(axes[0], rows.iterrows(), strict=True):
        for k, (variant, label) in enumerate(names.items()):
            metrics = [f"gain_{variant}_{n}" for n in kept]
            if not set(metrics) <= set(rows):
                continue
            values = row[metrics].to_numpy(float)
            errors = [values - row[[f"{m}_low" for m in metrics]], row[[f"{m}_high" for m in metrics]] - values]
            place = np.arange(len(kept)) + 0.12 * (k - 1)
            ax.errorbar(
                place, values, np.clip(np.array(errors, float), 0, None), marker="osd"[k], color=CYCLE[k], label=label
            )
        ax.axhline(0, color="0.4", linewidth=1, linestyle="--")
        ax.set(
            title=row["title"], xlabel="descriptors that a class hands on", xticks=range(len(kept)), xticklabels=ticks
        )
    axes[0, 0].set_ylabel("gain in top-1 (points)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return axes[0]
