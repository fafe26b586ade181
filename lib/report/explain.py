"""Pictures of one image's explanation: its parts, the overlap of the two lists as a Venn diagram, the MI curves."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Circle

from lib.report.figures import CYCLE, panels, style
from lib.report.ground_truth import coloured, tinted
from lib.report.tables import plain


def parts(view):
    """The picture, its parts in colour, and each part in its red ellipse with the descriptors named for it.

    In bold what the predicted class stands for, too.
    """
    style()
    axes = panels(2 + len(view.prompts), 4, (2.1, 3.0))
    axes[0].imshow(view.picture)
    overlay(axes[1], view)
    title = f"predicted: {view.predicted.name} ({view.predicted.probability:.0%})"
    axes[0].set_title(title if view.label is None else f"{title}\nlabel: {view.label}", fontsize=8)
    axes[1].set_title("parts", fontsize=8)
    for ax, (part, picture) in zip(axes[2:], view.prompts.items(), strict=True):
        ax.imshow(picture)
        ax.set_title(f"part {part + 1}", fontsize=8, color=0.7 * coloured(np.array([[part]]))[0, 0])
        for k, text in enumerate(view.parts[part]):
            weight = "bold" if text in view.predicted.shared else "normal"
            words = "\n".join(textwrap.wrap(text, 28))
            ax.text(
                0.5, -0.04 - 0.14 * k, words, transform=ax.transAxes, ha="center", va="top", fontsize=8, weight=weight
            )
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return axes


def overlay(ax, view):
    """Draw a picture with its parts in colour over it."""
    ax.imshow(tinted(view.picture, np.asarray(view.label_map)))


def venn(view):
    """Two Venn diagrams: the image's descriptors with those of the predicted class, and with those of the rival."""
    style()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for ax, side in zip(axes, (view.predicted, view.rival), strict=True):
        _circles(ax, view.named, side)
    return axes


def _circles(ax, named, side):
    shared = [t for t in named if t in side.shared]
    lists = [[t for t in named if t not in shared], shared, [t for t in side.descriptors if t not in shared]]
    for x, colour in ((-0.62, CYCLE[0]), (0.62, CYCLE[3])):
        ax.add_patch(Circle((x, 0), 1, facecolor=colour, alpha=0.18, edgecolor=colour))
    for x, texts in zip((-0.98, 0, 0.98), lists, strict=True):
        words = "\n".join(line for text in texts for line in textwrap.wrap(text, 19))
        ax.text(x, 0, words, ha="center", va="center", fontsize=6)
    ax.text(-0.62, 1.06, f"image ({len(named)})", ha="center", fontsize=9, color=CYCLE[0])
    ax.text(0.62, 1.06, f"{side.name} ({len(side.descriptors)})", ha="center", fontsize=9, color=CYCLE[3])
    ax.set(xlim=(-1.72, 1.72), ylim=(-1.1, 1.22), title=f"{side.name}: {len(shared)} shared", aspect="equal")
    ax.axis("off")


def curves(view):
    """MI while the image's descriptors are taken away, most relevant first, with the predicted class and the rival."""
    style()
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    for k, side in enumerate((view.predicted, view.rival)):
        steps = np.arange(len(side.curve))
        label = f"{side.name} ({side.probability:.0%}), AUC {side.auc:.2f}"
        ax.plot(steps, side.curve, marker="os"[k], color=CYCLE[3 * k], linestyle=("-", "--")[k], label=label)
    labels = ["–", *view.named]
    ax.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
    ax.set(ylabel="MI (nats)", xlabel="descriptor taken away", ylim=(0, None))
    ax.legend(fontsize="small")
    return ax


def part_table(view, name, caption):
    """A numbered table: each part's descriptors, whether the classes have them too, and whether they hold."""
    lines = []
    for part, texts in view.parts.items():
        for text in texts:
            line = {"part": str(part + 1), "descriptor": text}
            line |= {side.name: "yes" if text in side.shared else "no" for side in (view.predicted, view.rival)}
            lines.append(
                line | ({} if view.true is None else {"true of the image": "yes" if text in view.true else "no"})
            )
    empty = pd.DataFrame({"descriptor": ["none: the parts share no candidate"]})
    return plain(pd.DataFrame(lines) if lines else empty, name, caption)


def gallery(views, columns=2, most=9):
    """Chosen examples, a card each: picture, parts, and what the image names; bold if the class stands for it too.

    At most so many descriptors are written out.

    views: list of (kind, View).
    """
    style()
    rows = int(np.ceil(len(views) / columns))
    ratios = {"width_ratios": [1, 1, 1.75] * columns}
    _, axes = plt.subplots(rows, 3 * columns, figsize=(4.2 * columns, 1.65 * rows), squeeze=False, gridspec_kw=ratios)
    for ax in axes.flat:
        ax.axis("off")
    for k, (kind, view) in enumerate(views):
        left, right, words = axes[k // columns, 3 * (k % columns) : 3 * (k % columns) + 3]
        left.imshow(view.picture)
        overlay(right, view)
        wrong = "" if view.label in (None, view.predicted.name) else f" (it is {view.label})"
        left.set_title(f"{kind}\n{view.predicted.name}{wrong}", fontsize=7.5, loc="left")
        for line, text in enumerate(view.named[:most]):
            held = "" if view.true is None else " ✓" if text in view.true else " ✗"
            weight = "bold" if text in view.predicted.shared else "normal"
            words.text(0, 1 - line / (most + 1), text + held, va="top", fontsize=7, weight=weight)
        if len(view.named) > most:
            words.text(0, 1 - most / (most + 1), f"and {len(view.named) - most} more", va="top", fontsize=7)
    return axes


def dozen(views):
    """Means of a kind over chosen examples. views: list of (kind, View); returns a DataFrame."""
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in views):
        of = [view for k, view in views if k == kind]
        line = {"kind": kind, "images": str(len(of)), "named": np.mean([len(v.named) for v in of])}
        line["shared with the prediction"] = np.mean([len(v.predicted.shared) for v in of])
        line["shared with the runner-up"] = np.mean([len(v.rival.shared) for v in of])
        if all(v.true is not None for v in of):
            line["hold in the picture"] = np.mean([len(set(v.named) & set(v.true)) for v in of])
        lines.append(line)
    return pd.DataFrame(lines)
