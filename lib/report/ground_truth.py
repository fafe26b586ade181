"""What the pages on truth show: parts and descriptors held against what is really there, and what tracks it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from lib.bestiary.species import PARTS
from lib.report import statistics
from lib.report.figures import CYCLE, FAMILIES, OTHER, _errors, _name_points, panels, style
from lib.report.gallery import PART_COLOURS
from lib.report.tables import plain

SOURCES = {
    "kmeans": "parts, transport",
    "nearest": "parts, nearest",
    "whole": "whole image, nearest",
    "language": "predicted class, nearest",
}
COUNTS = {
    "auc": "AUC",
    "mi": "MI",
    "matches": "matches K",
    "above_chance": "K above chance",
    "hit": "any match",
    "last_hit": "rank of the last match",
}
TRUTHS = {"precision": "precision", "recall": "recall", "f1": "F1"}
RESAMPLES = 400


# --- does a number track the truth?


def over_models(rows, arrays, suffix="kmeans", seed=0):
    """Spearman's correlation of each count, and of accuracy, with each truth score over the models.

    Returns a DataFrame: count, truth, value, and the intervals over images and over models.
    """
    lines, models = [], list(arrays)
    for count in ("top1", *COUNTS):
        x = np.array([arrays[m][count] for m in models])
        for truth in TRUTHS:
            y = np.array([arrays[m][f"{truth}_{suffix}"] for m in models])
            means = np.nanmean(x, axis=1), np.nanmean(y, axis=1)
            line = {"count": count, "truth": truth, "n": len(models)}
            line["value"] = float(statistics.coefficient(*means, "spearman")) if len(models) > 2 else np.nan
            line["images"] = statistics.over_images(x, y, "spearman", seed)
            line["models"] = statistics.over_models(*means, "spearman", seed)
            lines.append(line)
    return pd.DataFrame(lines)


def within_models(arrays, suffix="kmeans", seed=0):
    """Spearman's correlation over the images of a model, averaged over the models: value and draws.

    Returns dict of (count, truth) to (value, draws [resamples]); the draws resample the images, alike for all counts,
    so that counts can be compared draw by draw.
    """
    counts, truths = list(COUNTS), list(TRUTHS)
    sums, plain_sums = 0.0, 0.0
    for found in arrays.values():
        values = np.array([found[c] for c in counts] + [found[f"{t}_{suffix}"] for t in truths], float)
        values = values[:, np.isfinite(values).all(0)]
        draws = np.random.default_rng(seed).integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
        ranks = stats.rankdata(values[:, np.vstack([np.arange(values.shape[1]), draws])], axis=-1)
        each = statistics.coefficient(ranks[: len(counts), None], ranks[None, len(counts) :])
        each = np.nan_to_num(each)  # a constant count, e.g. a match in every image, tracks nothing
        plain_sums, sums = plain_sums + each[..., 0], sums + each[..., 1:]
    models = len(arrays)
    return {
        (c, t): (float(plain_sums[i, j] / models), sums[i, j] / models)
        for i, c in enumerate(counts)
        for j, t in enumerate(truths)
    }


def quantiles(draws):
    """95 % percentile interval: (low, high)."""
    return tuple(float(q) for q in np.quantile(draws, [0.025, 0.975]))


def better(within, a, b, truth="f1", images=0):
    """How much better count a tracks the truth than count b, within models: (difference, low, high, images)."""
    (x, first), (y, second) = within[a, truth], within[b, truth]
    return x - y, *quantiles(first - second), images


def tracking_table(found, within, name, caption):
    """A numbered table: each count's correlation with the truth, over models and within models."""
    lines = []
    for row in found.itertuples():
        key = (row.count, row.truth)
        line = {"count": COUNTS.get(row.count, "top-1"), "truth": TRUTHS[row.truth]}
        line["over models [other images]"] = _interval(row.value, *row.images)
        line["[other models]"] = _interval(None, *row.models)
        line["within models [other images]"] = (
            _interval(within[key][0], *quantiles(within[key][1])) if key in within else "–"
        )
        lines.append(line)
    return plain(pd.DataFrame(lines), name, caption)


def _interval(value, low, high):
    bounds = "–" if not np.isfinite(low) else f"[{low:.2f}, {high:.2f}]"
    return bounds if value is None else "–" if not np.isfinite(value) else f"{value:.2f} {bounds}"


def right_and_wrong(arrays, names, seed=0):
    """Means of per-image values of rightly and wrongly classified images, averaged over the models.

    names: dict of array's name to heading. Returns a DataFrame with right, wrong and their difference, each with
    _low and _high over images.
    """
    lines = []
    for name, title in names.items():
        right, wrong = [], []
        for found in arrays.values():
            hit, values = found["predicted"] == found["labels"], found[name]
            right.append(np.where(hit, values, np.nan))
            wrong.append(np.where(hit, np.nan, values))
        draws = [statistics.resampled_means(side, seed).mean(1) for side in (right, wrong)]
        means = [np.mean([np.nanmean(v) if np.isfinite(v).any() else np.nan for v in side]) for side in (right, wrong)]
        line = {"quantity": title}
        for key, value, drawn in (
            ("right", means[0], draws[0]),
            ("wrong", means[1], draws[1]),
            ("difference", means[0] - means[1], draws[0] - draws[1]),
        ):
            drawn = drawn[np.isfinite(drawn)]
            low, high = quantiles(drawn) if len(drawn) else (np.nan, np.nan)
            line |= {key: value, f"{key}_low": low, f"{key}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


def paired(arrays, a, b, seed=0):
    """Mean over models of array a minus array b, image by image, with its interval over images."""
    values = np.ma.masked_invalid([found[a] - found[b] for found in arrays.values()])
    return statistics.interval(values.mean(axis=0).filled(np.nan), seed)


# --- figures


def sources(rows):
    """Precision and recall of the descriptors by where they come from: a mark a model, a bar for their mean.

    rows: DataFrame of `run.rows(ground_truth.row)`. Dashes: the bank's base rate, and the same lists against images of
    other classes.
    """
    style()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9))
    for ax, truth in zip(axes, ("precision", "recall"), strict=True):
        for k, source in enumerate(SOURCES):
            values = rows[f"{truth}_{source}"].dropna()
            ax.bar(k, values.mean(), color=CYCLE[k], alpha=0.35, width=0.7)
            for family, group in rows.groupby("family", sort=False):
                place = np.linspace(-0.2, 0.2, len(rows))[[list(rows.index).index(m) for m in group.index]]
                marker = FAMILIES.get(family, OTHER)[1]
                ax.plot(k + place, group[f"{truth}_{source}"], marker, color=CYCLE[k], markersize=4)
            wrong = rows[f"{truth}_wrong_{source}"].mean()
            ax.plot(
                [k - 0.35, k + 0.35],
                [wrong, wrong],
                "--",
                color="0.2",
                linewidth=1.2,
                label=None if k else "another class's images",
            )
        if truth == "precision":
            ax.axhline(
                rows["base"].mean(), color="0.5", linestyle=":", linewidth=1.2, label="share of the bank that holds"
            )
        ax.set_xticks(range(len(SOURCES)), [t.replace(", ", ",\n") for t in SOURCES.values()], fontsize=8)
        ax.set(ylabel=f"{truth} (%)", ylim=(0, 100))
    axes[0].legend(fontsize=8, loc="upper left")
    return axes


def against_accuracy(rows, columns, x="top1", xlabel="top-1 (%)"):
    """Truth scores against accuracy (or another column), one panel each, with intervals over images.

    rows: DataFrame of `run.rows`; columns: dict of metric to heading.
    """
    style()
    axes = panels(len(columns), 2, (4.4, 3.6))
    for ax, (column, heading) in zip(axes, columns.items(), strict=True):
        for family, group in rows.groupby("family", sort=False):
            colour, marker = FAMILIES.get(family, OTHER)
            bars = {"xerr": _errors(group, x), "yerr": _errors(group, column)}
            ax.errorbar(group[x], group[column], fmt=marker, color=colour, label=family, elinewidth=0.8, **bars)
        _name_points(ax, rows["title"], rows[x], rows[column])
        ax.set(xlabel=xlabel, ylabel=heading)
        ax.margins(0.15)
    axes[0].legend(fontsize="small")
    return axes


def empty(text):
    """A card in a figure's place, where there is nothing to draw."""
    style()
    figure, ax = plt.subplots(figsize=(6.2, 1.2))
    ax.text(0.5, 0.5, text, ha="center", va="center")
    ax.axis("off")
    return ax


def step_bars(rows, metrics, nulls, titles):
    """Bars of scores with found and true parts under each matching. metrics: dict of heading to list of metrics.

    nulls: dict of metric to the metric of its chance level; titles: names of the bars in a group.
    """
    if not len(rows):
        return empty("Not run: none of this page's models for the true parts is among the run's.")
    style()
    figure, axes = plt.subplots(1, len(metrics), figsize=(3.1 * len(metrics), 3.6), squeeze=False)
    width = 0.8 / len(rows)
    for ax, (heading, names) in zip(axes[0], metrics.items(), strict=True):
        for k, (_, row) in enumerate(rows.iterrows()):
            place = np.arange(len(names)) + width * (k - (len(rows) - 1) / 2)
            values = row[names].to_numpy(float)
            errors = np.clip(
                [values - row[[f"{m}_low" for m in names]], row[[f"{m}_high" for m in names]] - values], 0, None
            )
            ax.bar(
                place,
                values,
                width * 0.9,
                yerr=errors.astype(float),
                color=CYCLE[k],
                label=row["title"],
                error_kw={"elinewidth": 1},
            )
            for at, metric in zip(place, names, strict=True):
                if metric in nulls:
                    ax.plot([at - width / 2, at + width / 2], [row[nulls[metric]]] * 2, color="black", linewidth=1.6)
        ax.set_xticks(range(len(names)), titles[: len(names)], fontsize=8, rotation=30)
        ax.set(title=heading, ylim=(0, None))
    axes[0, 0].set_ylabel("%")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(rows), fontsize="small"
    )
    return axes[0]


def found_and_true(data, indices, maps, scores):
    """Pictures, their true parts, and the parts found: a column an image.

    maps: dict of name to label maps int [n, h, w]; scores: float [n], shown in the titles (IoU of the parts, %).
    """
    style()
    kinds = ["picture", "true parts", *maps]
    figure, axes = plt.subplots(
        len(kinds), len(indices), figsize=(1.5 * len(indices), 1.55 * len(kinds)), squeeze=False
    )
    for column, i in zip(axes.T, indices, strict=True):
        column[0].imshow(np.asarray(data.image(i)))
        column[0].set_title(f"{data.classes[data.labels[i]]}\nIoU {scores[i]:.0f} %", fontsize=8)
        column[1].imshow(_true(data, i))
        for ax, found in zip(column[2:], maps.values(), strict=True):
            ax.imshow(tinted(np.asarray(data.image(i)), found[i]))
        for ax in column:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for ax, kind in zip(axes[:, 0], kinds, strict=True):
        ax.set_ylabel(kind, fontsize=9)
    return axes


def coloured(label_map):
    """A map of found parts in colour, white outside: float [h, w, 3]."""
    colours = plt.get_cmap("Set2")(np.arange(8))[:, :3]
    label_map = np.asarray(label_map).astype(int)
    return np.where(label_map[..., None] < 0, 1.0, colours[label_map % 8])


def tinted(picture, label_map):
    """A pale picture with found parts in colour over it: float [H, W, 3]."""
    rows, columns = (np.arange(s) * g // s for s, g in zip(picture.shape[:2], label_map.shape, strict=True))
    grown = np.asarray(label_map)[rows[:, None], columns]
    pale = 0.35 * picture / 255 + 0.65
    return np.where(grown[..., None] < 0, pale, 0.35 * picture / 255 + 0.65 * coloured(grown))


def _true(data, i):
    masks = data.part_masks(i)
    picture = np.ones((*next(iter(masks.values())).shape, 3))
    for part in PARTS[1:]:
        if part in masks:
            picture[masks[part]] = [int(PART_COLOURS[part][k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return picture


def chosen(scores, each=2):
    """Images of the lowest, middle and highest scores, `each` of a kind, lowest first: list of int. nan is left out."""
    order = np.argsort(scores, kind="stable")
    order = order[np.isfinite(np.asarray(scores)[order])]
    middle = len(order) // 2
    picked = [*order[:each], *order[middle : middle + each], *order[-each:]]
    return list(dict.fromkeys(int(i) for i in picked))


def summary(rows, over, within, prefix):
    """Numbers for the prose, as strings: means over models in %, correlations with two decimals."""
    means = {
        "precision": "precision_kmeans",
        "wrong": "precision_wrong_kmeans",
        "nearest": "precision_nearest",
        "whole": "precision_whole",
        "placed": "placed_kmeans",
        "placed_null": "placed_null_kmeans",
        "base": "base",
    }
    found = {f"{prefix}_{name}": f"{rows[metric].mean():.0f}" for name, metric in means.items()}
    lines = over.set_index(["count", "truth"])
    correlations = {
        "precision_accuracy": ("top1", "precision"),
        "recall_accuracy": ("top1", "recall"),
        "over_auc": ("auc", "precision"),
        "over_above": ("above_chance", "precision"),
    }
    for name, key in correlations.items():
        found[f"{prefix}_{name}"] = _interval(lines.loc[key, "value"], *lines.loc[key, "models"])
    names = {"auc": "auc", "mi": "mi", "matches": "matches", "above": "above_chance"}
    return found | {f"{prefix}_within_{name}": f"{within[count, 'f1'][0]:.2f}" for name, count in names.items()}
