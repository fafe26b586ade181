"""Figures: matplotlib and seaborn in one style, a family by colour *and* marker (palette: Okabe & Ito, 2008).

Each function draws and returns the axes; end the cell with `;` so that it has one output. A white ground is
kept in dark mode, where the book puts the image on a light card.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from lib.report import statistics

FAMILIES = {"ViT": ("#0072B2", "o"), "ResNet": ("#D55E00", "s"), "ConvNeXt": ("#009E73", "^")}
OTHER = ("#CC79A7", "D")
CYCLE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000"]
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1))]


def style():
    """Set the book's style; every drawing function calls it."""
    sns.set_theme(context="notebook", style="ticks", palette=CYCLE)
    plt.rcParams |= {
        "figure.dpi": 110,
        "savefig.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def panels(count, columns, size):
    """`count` panels in rows of `columns`, each of `size` inches, no wider together than a page shows: list of axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    _, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return list(axes.flat[:count])


def mi_curves(curves, rows, ylabel="MI (nats)", seed=0):
    """Mean MI curve of each model with its bootstrap band over images, one panel a family.

    curves: dict of model -> [images, points], padded with zeros, in the order of removal. rows: DataFrame of
    `run.rows` (title and family of each model).
    """
    style()
    families = list(dict.fromkeys(rows.loc[list(curves), "family"]))
    size = (3.4 * len(families), 3.4)
    _, axes = plt.subplots(1, len(families), figsize=size, sharey=True, squeeze=False)
    for ax, family in zip(axes[0], families, strict=True):
        members = [m for m in curves if rows.loc[m, "family"] == family]
        for i, model in enumerate(members):
            mean, low, high = statistics.band(curves[model], seed=seed)
            steps = np.arange(len(mean))
            look = {"color": CYCLE[i % len(CYCLE)], "linestyle": LINES[i % len(LINES)]}
            ax.plot(steps, mean, label=rows.loc[model, "title"], **look)
            ax.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)
        ax.set(title=family, xlabel="descriptors removed", xlim=(0, None), ylim=(0, None))
        ax.legend(fontsize="small")
    axes[0, 0].set_ylabel(ylabel)
    return axes[0]


def auc_accuracy(rows, published, x="auc", y="top1", ours="this run", xlabel="AUC", ylabel="top-1 (%)"):
    """Accuracy against AUC in two panels, the published points and ours, a regression line per family.

    rows: DataFrame of `run.rows` with x and y (and their _low, _high). published: DataFrame of
    report.published.load with family, x and y. ours: title of the second panel, best with the scale. The
    panels have their own axes: the scales differ, and what can be compared is the shape.
    """
    style()
    _, axes = plt.subplots(1, 2, figsize=(10, 4.4))
    measured = rows[rows[x].notna() & rows[y].notna()]
    for ax, points, title in zip(axes, (published, measured), ("published", ours), strict=True):
        names = points["title"] if "title" in points else points.index
        families = points.groupby("family", sort=False)
        for family, group in families:
            colour, marker = FAMILIES.get(family, OTHER)
            bars = {f"{k}err": _errors(group, column) for k, column in (("x", x), ("y", y))}
            ax.errorbar(group[x], group[y], fmt=marker, color=colour, label=family, elinewidth=1, **bars)
            _line(ax, group[x], group[y], colour)
        _name_points(ax, names, points[x], points[y])
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
        ax.margins(0.12)
    axes[0].legend()
    return axes


def _name_points(ax, names, x, y):
    """Names beside points, in turn to the right and to the left from the lowest to the highest."""
    for k, (py, px, name) in enumerate(sorted(zip(y, x, names, strict=True))):
        side = {"xytext": (4, 3), "ha": "left"} if k % 2 else {"xytext": (-4, 3), "ha": "right"}
        ax.annotate(name, (px, py), fontsize=6.5, textcoords="offset points", **side)


def _errors(group, column):
    low, high = (group.get(f"{column}_{k}") for k in ("low", "high"))
    if low is None or low.isna().any():
        return None
    return np.clip([group[column] - low, high - group[column]], 0, None)


def _line(ax, x, y, colour):
    if len(x) < 3:  # a line through two points is no regression
        return
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([min(x), max(x)])
    ax.plot(ends, slope * ends + intercept, color=colour, linewidth=1, alpha=0.6)


def above_chance(rows, arrays, seed=0):
    """MI and AUC (K-means) minus those of a wrong class, against accuracy, with bootstrap intervals over images.

    rows: DataFrame of `run.rows`; arrays: dict of model to the arrays of its Table 3 record.
    """
    style()
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.9))
    for ax, key, name in zip(axes, ("mi", "auc"), ("MI", "AUC"), strict=True):
        means = {}
        for model, found in arrays.items():
            curves = found["curves_kmeans"]
            own = curves[:, 0] if key == "mi" else curves.mean(1)
            mean, low, high, _ = statistics.interval(own - found[f"{key}_wrong_class_kmeans"], seed)
            means[model] = mean
            colour, marker = FAMILIES.get(rows.loc[model, "family"], OTHER)
            ax.errorbar(
                rows.loc[model, "top1"],
                mean,
                yerr=[[mean - low], [high - mean]],
                fmt=marker,
                color=colour,
                elinewidth=1,
            )
        shown = rows.loc[list(means)]
        _name_points(ax, shown["title"], shown["top1"], list(means.values()))
        ax.axhline(0, color="0.4", linewidth=1, linestyle="--")
        ax.set(xlabel="top-1 (%)", ylabel=f"{name} above a wrong class (nats)")
        ax.margins(0.12)
    return axes


def shift_accuracy(rows, splits, x="top1"):
    """Accuracy on each split against accuracy on val, one panel a split, with intervals. rows: `run.rows`."""
    style()
    axes = panels(len(splits), 3, (2.8, 2.7))
    for ax, split in zip(axes, splits, strict=True):
        for family, group in rows.groupby("family", sort=False):
            colour, marker = FAMILIES.get(family, OTHER)
            bars = {"xerr": _errors(group, x), "yerr": _errors(group, split)}
            ax.errorbar(group[x], group[split], fmt=marker, color=colour, label=family, elinewidth=0.8, **bars)
        ax.axline((50, 50), slope=1, color="0.5", linewidth=1, linestyle="--")
        ax.set(title=split, xlim=(0, 100), ylim=(0, 100), xlabel="val (%)", ylabel="shift (%)")
    axes[0].legend(fontsize="x-small")
    return axes
