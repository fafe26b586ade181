"""Pictures of the bestiary: contact sheets with a line of text under each picture."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from lib.report.figures import style

PART_COLOURS = {
    "body": "#E69F00",
    "head": "#56B4E9",
    "ears": "#009E73",
    "eyes": "#F0E442",
    "mouth": "#D55E00",
    "neck": "#0072B2",
    "legs": "#CC79A7",
    "tail": "#999999",
    "back": "#8C564B",
}


def sheet(pictures, titles, columns=8, side=1.45, fontsize=8, wrap=24):
    """A contact sheet: pictures [n, H, W, 3] (arrays or PIL) with a title under each. Returns the axes."""
    style()
    rows = int(np.ceil(len(pictures) / columns))
    lines = max(len(textwrap.wrap(title, wrap)) for title in titles)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, rows * (side + 0.15 * lines)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title in zip(axes.flat, pictures, titles, strict=False):
        ax.imshow(np.asarray(picture))
        ax.set_title("\n".join(textwrap.wrap(title, wrap)), fontsize=fontsize, y=-0.03, pad=0, va="top")
    return axes


def portraits(bestiary, columns=8):
    """One picture of each species, siblings side by side."""
    first = [int(np.flatnonzero(bestiary.labels == k)[0]) for k in range(len(bestiary.classes))]
    return sheet([bestiary.image(i) for i in first], bestiary.classes, columns)


def masks(bestiary, indices):
    """Pictures above, and below them the maps of their parts with a legend."""
    style()
    figure, axes = plt.subplots(2, len(indices), figsize=(1.6 * len(indices), 3.9), squeeze=False)
    for (above, below), i in zip(axes.T, indices, strict=True):
        above.imshow(np.asarray(bestiary.image(i)))
        above.set_title(bestiary.classes[bestiary.labels[i]], fontsize=9)
        below.imshow(coloured(bestiary, i))
        above.axis("off")
        below.axis("off")
    handles = [Patch(facecolor=colour, edgecolor="0.4", label=part) for part, colour in PART_COLOURS.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", fontsize=8, handlelength=1)
    return axes


def coloured(bestiary, i):
    """The map of the parts of picture `i` in the legend's colours: float [H, W, 3], white background."""
    picture = np.ones((bestiary.size, bestiary.size, 3))
    for part, mask in bestiary.part_masks(i).items():
        picture[mask] = [int(PART_COLOURS[part][k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return picture


def shifts(worlds, species):
    """One species a column, one split a row: what changes and what stays. worlds: dict of name to Bestiary."""
    style()
    figure, axes = plt.subplots(
        len(worlds), len(species), figsize=(1.45 * len(species), 1.45 * len(worlds)), squeeze=False
    )
    for line, (name, world) in zip(axes, worlds.items(), strict=True):
        for ax, k in zip(line, species, strict=True):
            found = np.flatnonzero(world.labels == k)
            if len(found):
                ax.imshow(np.asarray(world.image(int(found[0]))))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=9)
    return axes


def base_rates(bestiary):
    """How many species each descriptor is true of, a bar each, grouped by trait."""
    from lib.bestiary.species import TRAITS

    style()
    share = {
        text: sum(text in texts for texts in bestiary.descriptors) for texts in bestiary.descriptors for text in texts
    }
    order = [text for values in TRAITS.values() for text in values.values() if text in share]
    trait_of = {text: k for k, values in enumerate(TRAITS.values()) for text in values.values()}
    figure, ax = plt.subplots(figsize=(9.5, 2.9))
    colours = [f"C{trait_of[text] % 6}" for text in order]
    ax.bar(range(len(order)), [share[text] for text in order], color=colours)
    ax.set_xticks(range(len(order)), order, rotation=90, fontsize=6.5)
    ax.set(ylabel="species", xlim=(-0.7, len(order) - 0.3))
    return ax


def learning(records):
    """Loss and zero-shot accuracy of each training against the pairs it has seen. records: dict of name to record."""
    style()
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    looks = ["-", "--", "-.", ":"]
    for k, (name, record) in enumerate(records.items()):
        seen = [step["epoch"] * record["pairs"] / 1000 for step in record["history"]]
        look = {"color": f"C{k % 7}", "linestyle": looks[k // 7], "marker": ".", "label": name}
        axes[0].plot(seen, [step["loss"] for step in record["history"]], **look)
        axes[1].plot(seen, [100 * step["top1"] for step in record["history"]], **look)
    axes[0].set(xlabel="pairs seen (thousands)", ylabel="contrastive loss")
    axes[1].set(xlabel="pairs seen (thousands)", ylabel="zero-shot top-1 on val (%)", ylim=(0, 100))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return axes
