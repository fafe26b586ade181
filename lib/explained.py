"""A picture explained in one call, without a notebook, and drawn: `from lib import explain`.

The page `notebooks/explain.ipynb` goes through the steps and draws with the same three functions.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import models
from lib.data import picture
from lib.errors import UserError
from lib.mutual import examples
from lib.mutual.options import DEFAULTS, Options
from lib.show import figures, pictures

ALT = {
    "parts": "The picture, its coloured parts, and a copy for each part with a red ellipse, descriptors below.",
    "overlap": "Two Venn diagrams of descriptor lists, one for each class; what is shared stands in the middle.",
    "curves": "Two falling step curves, one for each class.",
}
ROWS = 22  # of small print in a circle


@dataclass(repr=False)
class Explained(examples.View):
    """A `View` that says what it is and shows itself in Jupyter. about: what it rests on. banner: of random weights."""

    about: str
    banner: str | None

    def __repr__(self) -> str:
        named = {"the picture": self.named, **{f"part {p + 1}": of for p, of in self.parts.items()}}
        lines = [self.banner or "", self.about, *(f"{what}: {'; '.join(of)}" for what, of in named.items())]
        for role, side in (("predicted", self.predicted), ("rival", self.rival)):
            share = "; ".join(side.shared) or "nothing"
            lines.append(f"{role} {side.name} ({side.probability:.0%}), AUC {side.auc:.2f}, shares {share}")
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        drawn = {"parts": draw_parts(self), "overlap": draw_overlap(self), "curves": [draw_curves(self)]}
        shown = [f'<img alt="{escape(ALT[name])}" src="{_png(axes)}">' for name, axes in drawn.items()]
        warning = f"<p><strong>{escape(self.banner)}</strong></p>" if self.banner else ""
        return f"<div>{warning}<p>{escape(self.about)}</p>{''.join(f'<p>{image}</p>' for image in shown)}</div>"

    def save(self, path: str | Path) -> None:
        """Write what Jupyter would show as a page of HTML, whole in one file."""
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>One picture, explained</title>'
        Path(path).expanduser().write_text(head + self._repr_html_() + "</html>", encoding="utf-8")


def explain(
    image: str | Path,
    classes: str | Sequence[str],
    model: str = "ViT-B-16",
    descriptors: str | Path | Sequence[str] = "",
    rival: str = "",
    weights: str = "published",
    options: Options = DEFAULTS,
) -> Explained:
    """What a CLIP sees in a picture, and what it shares with the class that it takes it for and with a rival.

    image: path of a picture. classes: two names or more, in a list or with commas. model: as in data/models.csv, or
    "ARCH/tag". descriptors: a list, or a JSON or text file of them; "" for those of ImageNet's classes, fetched once.
    rival: the class that it is held against, by default the second most likely. weights: "small" or "random" to
    rehearse. Raises UserError for bad input, and for weights or descriptors that cannot be had.
    """
    group = picture.load(image, classes, descriptors)
    clip = models.load(model, picture.NAME, weights=weights)
    if not isinstance(clip, models.Clip):
        raise UserError(f"{model} learned from labels alone and reads no text; take a CLIP model for this.")
    view = examples.view(clip, group, 0, options, rival)
    about = f"{Path(image).name}, explained by {clip.title} with {len(group.bank)} descriptors."
    return Explained(**vars(view), about=f"{about} {examples.described(clip, group)}", banner=clip.banner)


# --- the figures of an explanation


def draw_parts(view: examples.View) -> list[Axes]:
    """The picture, its parts, and each part in its red ellipse over its descriptors; bold: shared with the class."""
    predicted = view.predicted
    label = "" if view.label is None else f"\nlabel: {view.label}"
    titles = [f"predicted: {predicted.name} ({predicted.probability:.0%}){label}", "parts"]
    titles += [f"part {part + 1}" for part in view.circled]
    below = [{text: text in predicted.shared for text in of} for of in view.parts.values()]
    shown = [view.picture, pictures.tinted(view.picture, view.label_map), *view.circled.values()]
    axes = pictures.grid(shown, titles, columns=4, side=2.1, below=[{}, {}, *below])
    for ax, part in zip(axes[2:], view.circled, strict=True):
        ax.title.set_color(pictures.COLOURS[part % len(pictures.COLOURS)])
    return axes


def draw_overlap(view: examples.View) -> list[Axes]:
    """The picture's descriptors and those of the predicted class, and of the rival: what they share in the middle."""
    axes = figures.panels(2, 2, (4.2, 3.6))
    for ax, side in zip(axes, (view.predicted, view.rival), strict=True):
        left = [text for text in view.named if text not in side.shared]
        right = [text for text in side.descriptors if text not in side.shared]
        for x, of in ((-1.0, left), (0.0, side.shared), (1.0, right)):
            ax.text(x, 0, _listed(of), ha="center", va="center", fontsize=6)
        for x, colour in ((-0.62, "C0"), (0.62, "C3")):
            ax.add_patch(plt.Circle((x, 0), 1, color=colour, alpha=0.18))
        title = f"image ({len(view.named)}), {side.name} ({len(side.descriptors)})"
        ax.set(xlim=(-1.72, 1.72), ylim=(-1.1, 1.1), aspect="equal")
        ax.set_title(f"{title}: {len(side.shared)} shared", fontsize=9)
        ax.axis("off")
    return axes


def draw_curves(view: examples.View) -> Axes:
    """Information with the predicted class and with the rival, as the picture's descriptors are taken away."""
    curves = []
    for side in (view.predicted, view.rival):
        name = f"{side.name} ({side.probability:.0%}), AUC {side.auc:.2f}"
        curve = pd.DataFrame({"MI (nats)": side.curve, "class": name})
        curves.append(curve.rename_axis("descriptor taken away"))
    ax = figures.lines(pd.concat(curves), "descriptor taken away", "MI (nats)", "class")[0]
    ticks = ["–", *map(_short, view.named)]
    ax.set_xticks(range(len(ticks)), ticks, rotation=60, ha="right", fontsize=7)
    ax.set_ylim(0)
    return ax


def _listed(texts: Sequence[str]) -> str:
    """Texts one below the other, as many as there is room for in a circle: of a large bank there are fifty."""
    rows: list[str] = []
    for k, text in enumerate(texts):
        wrapped = textwrap.wrap(_short(text), 19)
        if len(rows) + len(wrapped) > ROWS:
            return "\n".join([*rows, f"and {len(texts) - k} more"])
        rows += wrapped
    return "\n".join(rows)


def _short(text: str) -> str:
    """A text of some words; the long ones of a large bank are cut."""
    return textwrap.shorten(text, 34, placeholder=" …")


def _png(axes: Sequence[Axes]) -> str:
    """A figure as the address of an image that holds it; the figure is closed."""
    figure, file = axes[0].figure, io.BytesIO()
    assert isinstance(figure, Figure)  # and no part of one
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)  # else Jupyter shows it a second time
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
