"""Figures: matplotlib and seaborn in one style, a family by colour *and* marker (palette: Okabe & Ito, 2008).

Each function draws and returns the axes; end the cell with `;` so that it has one output. A white ground is
kept in dark mode, where the book puts the image on a light card.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns


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
