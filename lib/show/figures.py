"""A few figures for any table of estimates, in one style: families by colour *and* marker (Okabe & Ito, 2008).

Each takes a tidy table whose columns v, v_low, v_high are what `lib.statistics.interval` gives, draws, and returns the
axes; end the cell with `;` so that it has one output. The ground stays white in dark mode.
"""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

LOOKS = {"ViT": ("#0072B2", "o"), "ResNet": ("#D55E00", "s"), "ConvNeXt": ("#009E73", "^"), "other": ("#CC79A7", "D")}
FAMILIES = {family: colour for family, (colour, _) in LOOKS.items()}
CYCLE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1))]


def style() -> None:
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


def panels(count: int, columns: int, size: tuple[float, float], share: bool = False) -> list[Axes]:
    """`count` panels in rows of `columns`, each of `size` inches; share: the same axes for all."""
    style()
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figsize = (size[0] * columns, size[1] * rows)
    _, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False, sharex=share, sharey=share)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return list(axes.flat[:count])


def points(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, reference: float | None = None, xlabel: str = ""
) -> Axes:
    """An estimate a line: a point with its interval; y names the lines, hue (a column) their colour and marker.

    reference: where a dashed line stands, such as chance.
    """
    frame = frame.reset_index()
    names = list(dict.fromkeys(frame[y]))
    ax = panels(1, 1, (7.2, 0.9 + 0.27 * len(names) * (1 if hue is None else 1.2)))[0]
    groups = [None] if hue is None else list(dict.fromkeys(frame[hue]))
    for k, group in enumerate(groups):
        part = frame if group is None else frame[frame[hue] == group]
        at = np.array([names.index(n) for n in part[y]]) + 0.16 * (k - (len(groups) - 1) / 2)
        colour, marker = look(group, k)
        ax.errorbar(part[x], at, xerr=errors(part, x), fmt=marker, color=colour, elinewidth=1, label=group)
    if reference is not None:
        ax.axvline(reference, color="0.4", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel or x)
    if hue is not None:
        ax.legend(fontsize="small")
    return ax


def lines(
    frame: pd.DataFrame, x: str, y: str, hue: str, col: str | None = None, xlabel: str = "", ylabel: str = ""
) -> list[Axes]:
    """A curve for each value of `hue`, with its band where y_low and y_high are given; a panel for each of `col`."""
    frame = frame.reset_index()
    parts = {"": frame} if col is None else {str(c): part for c, part in frame.groupby(col, sort=False)}
    axes = panels(len(parts), 3, (3.4 if len(parts) > 1 else 6.4, 3.4), share=True)
    for ax, (title, part) in zip(axes, parts.items(), strict=True):
        for k, (name, curve) in enumerate(part.groupby(hue, sort=False)):
            colour = CYCLE[k % len(CYCLE)]
            ax.plot(curve[x], curve[y], color=colour, linestyle=_dashes(k), label=name)
            if f"{y}_low" in curve:
                ax.fill_between(curve[x], curve[f"{y}_low"], curve[f"{y}_high"], color=colour, alpha=0.15, linewidth=0)
        ax.set(title=title, xlabel=xlabel or x)
    _one_legend(axes)
    axes[0].set_ylabel(ylabel or y)
    return axes


def curves(frame: pd.DataFrame, x: str, y: str, unit: str, hue: str, col: str | None = None) -> list[Axes]:
    """A thin curve for each `unit` (a model, say) in the colour of its `hue`; a panel for each of `col`."""
    parts = {"": frame} if col is None else {str(c): part for c, part in frame.groupby(col, sort=False)}
    axes, groups = panels(max(1, len(parts)), 3, (4.4, 3.6), share=True), list(dict.fromkeys(frame[hue]))
    for ax, (title, part) in zip(axes, parts.items(), strict=False):
        ax.set(title=title, xlabel=x)
        for k, group in enumerate(groups):
            colour, dashes = CYCLE[k % len(CYCLE)], _dashes(k)
            ax.plot([], [], label=group, color=colour, linestyle=dashes)
            for _, curve in part[part[hue] == group].groupby(unit, sort=False):
                ax.plot(curve[x], curve[y], linewidth=1, alpha=0.7, color=colour, linestyle=dashes)
    _one_legend(axes)
    axes[0].set_ylabel(y)
    return axes


def _dashes(k: int) -> Any:
    """The k-th style of a line: where colours begin again it is another one."""
    return LINES[(k + 3 * (k // len(CYCLE))) % len(LINES)]


def _one_legend(axes: list[Axes]) -> None:
    """A legend in the only panel, or one for all below them."""
    keys = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if len(axes) == 1 and keys:
        axes[0].legend(fontsize="small")
    elif keys:
        columns = min(4, len(keys))
        axes[0].figure.legend(keys.values(), keys, loc="outside lower center", ncols=columns, fontsize="small")


def bars(frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ylabel: str = "", ax: Axes | None = None) -> Axes:
    """A bar an estimate with its interval; x names the groups of bars, hue the bars within one.

    Give `ax` (one of `panels`) to put several beside each other.
    """
    frame = frame.reset_index()
    names = list(dict.fromkeys(frame[x]))
    groups = [None] if hue is None else list(dict.fromkeys(frame[hue]))
    ax = ax or panels(1, 1, (max(4.5, 0.5 + 0.42 * len(names) * max(1, 0.6 * len(groups))), 3.4))[0]
    width = 0.8 / len(groups)
    for k, group in enumerate(groups):
        part = frame if group is None else frame[frame[hue] == group]
        at = np.array([names.index(n) for n in part[x]]) + width * (k - (len(groups) - 1) / 2)
        ax.bar(at, part[y], width, yerr=errors(part, y), color=CYCLE[k % len(CYCLE)], label=group, ecolor="0.3")
    ax.set_xticks(
        range(len(names)), names, rotation=0 if len(names) < 7 else 40, ha="center" if len(names) < 7 else "right"
    )
    ax.set_ylabel(ylabel or y)
    if hue is not None:
        ax.legend(fontsize="small")
    return ax


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str = "family",
    label: str | None = "title",
    fit: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Points with intervals in both directions, named by `label`; fit: a least-squares line for each of `hue`.

    Give `ax` (one of `panels`) to put several beside each other, or take `scatters`.
    """
    frame = frame.reset_index()
    frame = frame[frame[x].notna() & frame[y].notna()]
    ax = ax or panels(1, 1, (6.4, 4.4))[0]
    for k, (name, group) in enumerate(frame.groupby(hue, sort=False)):
        colour, marker = look(name, k)
        across, along = errors(group, x), errors(group, y)
        ax.errorbar(group[x], group[y], along, across, fmt=marker, color=colour, label=name, elinewidth=0.8)
        if fit and len(group) >= 3:  # a line through two points is no regression
            slope, intercept = np.polyfit(group[x], group[y], 1)
            ends = np.array([group[x].min(), group[x].max()])
            ax.plot(ends, slope * ends + intercept, color=colour, linewidth=1, alpha=0.6)
    if label is not None:
        name_points(ax, frame[label], frame[x], frame[y])
    ax.set(xlabel=x, ylabel=y)
    ax.margins(0.12)
    if len(frame):  # where nothing is known there is nothing to name
        ax.legend(fontsize="small")
    return ax


def scatters(frame: pd.DataFrame, x: str, y: str, col: str, xlabel: str = "", ylabel: str = "") -> list[Axes]:
    """A `scatter` for each value of `col`, in two columns."""
    frame = frame.reset_index()
    groups = list(frame.groupby(col, sort=False))
    axes = panels(len(groups), 2, (4.4, 3.6))
    for ax, (name, part) in zip(axes, groups, strict=True):
        scatter(part, x, y, ax=ax)
        ax.set(title=name, xlabel=xlabel or x, ylabel=ylabel or y)
    return axes


def name_points(ax: Axes, names: Iterable[str], x: Iterable[float], y: Iterable[float]) -> None:
    """Names beside points, in turn to the right and to the left from the lowest to the highest."""
    for k, (py, px, name) in enumerate(sorted(zip(y, x, names, strict=True))):
        shift, side = ((4, 3), "left") if k % 2 else ((-4, 3), "right")
        ax.annotate(name, (px, py), fontsize=6.5, textcoords="offset points", xytext=shift, ha=side)


def marks(frame: pd.DataFrame, x: str, y: str, hue: str, size: str, end: str, xlabel: str = "") -> Axes:
    """Marks along a line for each of `y`: places `x` (whole numbers, written beside them), areas by `size`.

    hue: column of their colours; end: column that says how long the line is. A line whose x is missing has no mark.
    """
    names, seen = list(dict.fromkeys(frame[y])), dict.fromkeys(frame[hue])
    ax = panels(1, 1, (9.0, 1.2 + 0.34 * len(names)))[0]
    ax.hlines(range(len(names)), 0, frame.drop_duplicates(y)[end], "0.9", zorder=0)
    for colour, group in zip(CYCLE, seen, strict=False):
        part = frame[frame[hue] == group].dropna(subset=[x])
        ax.scatter(part[x], part[y].map(names.index), 8 * part[size], colour, label=group, alpha=0.7)
    for name, part in frame.dropna(subset=[x]).groupby(y):
        places = np.sort(part[x].to_numpy(float))
        gaps = np.diff(places, prepend=-np.inf, append=np.inf)
        for place, before, after in zip(places, gaps, gaps[1:], strict=False):  # written away from the nearer neighbour
            side = "left" if before <= after else "right"
            at, shift = (place, names.index(name)), (2 if side == "left" else -2, 5)
            ax.annotate(f"{place:.0f}", at, shift, textcoords="offset points", fontsize=7, ha=side)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel=xlabel or x, ylim=(len(names) - 0.4, -0.7))
    if names:
        ax.legend(loc="lower right", fontsize="small")
    return ax


def look(group: object, k: int = 0) -> tuple[str, str]:
    """Colour and marker of a family, or of the k-th of other groups."""
    return LOOKS.get(str(group), (CYCLE[k % len(CYCLE)], MARKERS[k % len(MARKERS)]))


def errors(frame: pd.DataFrame, column: str) -> np.ndarray | None:
    """Distances from a column to its _low and _high, [2, n], as matplotlib wants them; None without bounds."""
    if f"{column}_low" not in frame or frame[f"{column}_low"].isna().all():
        return None
    distances = [frame[column] - frame[f"{column}_low"], frame[f"{column}_high"] - frame[column]]
    return np.clip(np.nan_to_num(np.array(distances, float)), 0, None)
