"""Pictures in a grid: images with a line of text, masks and label maps in colour over them."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lib.show.figures import panels


def grid(
    pictures: Sequence, titles: Sequence[str] = (), columns: int = 8, side: float = 1.45, fontsize: float = 8
) -> list[Axes]:
    """Pictures (PIL images or arrays [H, W, 3]) in rows of `columns`, each `side` inches, a title over each."""
    wrapped = ["\n".join(textwrap.wrap(str(t), int(16 * side))) for t in titles] or [""] * len(pictures)
    lines = max((t.count("\n") + 1 for t in wrapped), default=0)
    axes = panels(len(pictures), columns, (side, side + 0.017 * fontsize * lines))
    for ax, picture, title in zip(axes, pictures, wrapped, strict=True):
        ax.imshow(np.asarray(picture))
        ax.set_title(title, fontsize=fontsize)
        ax.axis("off")
    return axes


def coloured(label_map: np.ndarray) -> np.ndarray:
    """A map of parts int [h, w] as colours float [h, w, 3]; -1 (no part) is white."""
    colours = plt.get_cmap("Set2")(np.arange(8))[:, :3]
    label_map = np.asarray(label_map)
    return np.where((label_map < 0)[..., None], 1.0, colours[np.clip(label_map, 0, None) % 8])


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
