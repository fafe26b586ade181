"""Pictures in a grid: images with a line of text, masks and label maps in colour over them."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Patch

from lib.show.figures import panels

# one for each part of an animal (Okabe & Ito, 2008, then grey and brown), and for each part that is found
COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#0072B2", "#CC79A7", "#999999", "#8C564B"]


def grid(
    pictures: Sequence,
    titles: Sequence[str] = (),
    columns: int = 8,
    side: float = 1.45,
    fontsize: float = 8,
    below: Sequence[Mapping[str, bool]] = (),
) -> list[Axes]:
    """Pictures (PIL images or arrays [H, W, 3]) in rows of `columns`, each `side` inches, a title over each.

    below: for each picture the lines that stand below it -> whether a line is bold. No pictures, no figure.
    """
    if not len(pictures):
        return []
    width = int(16 * side)
    wrapped = ["\n".join(textwrap.fill(line, width) for line in str(t).split("\n")) for t in titles]
    wrapped = wrapped or [""] * len(pictures)
    under = [[(row, bold) for text, bold in of.items() for row in textwrap.wrap(text, width)] for of in below]
    under = under or [[]] * len(pictures)
    lines = max(t.count("\n") + 1 for t in wrapped) + max(map(len, under))
    axes = panels(len(pictures), columns, (side, side + 0.018 * fontsize * lines))
    for ax, picture, title, texts in zip(axes, pictures, wrapped, under, strict=True):
        ax.imshow(np.asarray(picture))
        ax.set_title(title, fontsize=fontsize)
        ax.axis("off")
        for k, (text, bold) in enumerate(texts):
            offset, weight = (0, -3 - 1.25 * fontsize * k), "bold" if bold else "normal"
            ax.annotate(
                text,
                (0.5, 0),
                xytext=offset,
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=fontsize,
                weight=weight,
            )
    return axes


def coloured(label_map: np.ndarray) -> np.ndarray:
    """A map of parts int [h, w] as colours float [h, w, 3]; -1 (no part) is white."""
    label_map = np.asarray(label_map)
    colours = to_rgba_array(COLOURS)[:, :3]
    return np.where((label_map < 0)[..., None], 1.0, colours[np.clip(label_map, 0, None) % len(COLOURS)])


def tinted(picture: object, label_map: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """A picture with its parts in colour over it: float [H, W, 3]; label_map int [h, w] of any resolution."""
    pixels = np.asarray(picture, dtype=float) / 255
    rows = np.arange(pixels.shape[0]) * label_map.shape[0] // pixels.shape[0]
    columns = np.arange(pixels.shape[1]) * label_map.shape[1] // pixels.shape[1]
    full = np.asarray(label_map)[rows][:, columns]
    return np.where((full >= 0)[..., None], (1 - strength) * pixels + strength * coloured(full), pixels)


def legend(ax: Axes, colours: Mapping[str, str]) -> None:
    """A legend of names and colours below a figure's panels."""
    handles = [Patch(facecolor=c, edgecolor="0.4", label=name) for name, c in colours.items()]
    figure = ax.figure
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", fontsize=8, handlelength=1)
