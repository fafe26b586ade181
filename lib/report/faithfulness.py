"""What the pages on Tables 1 and 5 show, made from rows and the arrays of their records."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from lib.report import published, statistics
from lib.report.figures import CYCLE, style

EXPLANATIONS = {
    "mm_cbm": "MM-CBM",
    "mm_protosim": "MM-ProtoSim",
    "feature_maps": "Feature Maps",
    "pca": "Ours (PCA)",
    "kmeans": "Ours (K-means)",
    "true_parts": "True parts",
}
FIVE = tuple(name for name in EXPLANATIONS if name != "true_parts")  # the published ones
CLASSIFIERS = {
    "zero_shot": "Zero-shot CLIP",
    "standard": "Standard (MLP on vision features)",
    "standard_embedding": "MLP on the image embedding",
    "lf_cbm": "LF-CBM",
    "mm_cbm": "MM-CBM",
    "mm_protosim": "MM-ProtoSim",
    "mm_cbm_random": "MM-CBM, random queries",
    "mm_protosim_random": "MM-ProtoSim, random queries",
}
MEASURES = {
    "deletion": "Deletion ↓",
    "insertion": "Insertion ↑",
    "acc_drop": "AccDrop ↓",
    "acc_inc": "AccInc ↑",
}
TABLE1_CLAIMS = {
    "mk-table1-deletion": "deletion_ours_above",
    "mk-table1-insertion": "insertion_trained_above",
    "mk-table1-accdrop": "acc_drop_ours_above",
    "mk-table1-accinc": "acc_inc_ours_above",
}
TABLE5_CLAIMS = {
    "mk-table5-mm-cbm-standard": "mm_cbm_above_standard",
    "mk-table5-mm-protosim-standard": "mm_protosim_above_standard",
    "mk-table5-mm-protosim-mm-cbm": "mm_protosim_above_mm_cbm",
    "mk-table5-mm-cbm-lf-cbm": "mm_cbm_above_lf_cbm",
}


def table1():
    """The published Table 1, indexed by explanation, its columns named like our metrics."""
    names = {"deletion_down": "deletion", "insertion_up": "insertion", "acc_drop_down": "acc_drop"}
    return published.load("mutual_knowledge_table1", index="explanation").rename(
        columns=names | {"acc_inc_up": "acc_inc"}
    )


def table5():
    """The published Table 5 of the appendix, indexed by classifier: top1 and top5 in per cent."""
    rows = published.load("mutual_knowledge_appendix", index="table").loc["A5 baselines"].set_index("row")["value"]
    numbers = rows.str.split("|", expand=True).set_axis(["top1", "top5"], axis=1)
    return numbers.apply(pd.to_numeric, errors="coerce")


def lines(rows, names, metrics, pattern="{metric}_{name}"):
    """A line for each explanation or classifier, and for each model where several ran: DataFrame.

    rows: DataFrame of `run.rows`; names: dict of name to title; metrics: what each line holds, found in the row as
    `pattern` says. Columns: title (what is joined with published values), `method` (what is shown), each metric with
    its interval.
    """
    found, several = [], (rows["reason"] == "").sum() > 1
    for _, row in rows[rows["reason"] == ""].iterrows():
        for name, title in names.items():
            line = {"title": title, "method": f"{row['title']}: {title}" if several else title}
            for metric in metrics:
                for end in ("", "_low", "_high"):
                    line[metric + end] = row.get(pattern.format(metric=metric, name=name) + end, np.nan)
            if not all(pd.isna(line[metric]) for metric in metrics):
                found.append(line)
    return pd.DataFrame(found)


def controlled(rows, measures=("deletion", "acc_drop")):
    """Each explanation beside random regions of its areas: (DataFrame, columns for `tables.table`)."""
    kinds = {"": "", "_random": ", random", "_gain": ", gain"}
    pieces = [
        lines(rows, EXPLANATIONS, [m], "{metric}_{name}" + end).add_suffix(end) for m in measures for end in kinds
    ]
    named = {f"{m}{end}": f"{MEASURES[m]}{text}" for m in measures for end, text in kinds.items()}
    table = lines(rows, EXPLANATIONS, ["area", "shown"])
    for piece, (measure, end) in zip(pieces, [(m, e) for m in measures for e in kinds], strict=True):
        for bound in ("", "_low", "_high"):
            table[f"{measure}{end}{bound}"] = piece[f"{measure}{bound}{end}"].to_numpy()
    return table, named


def normalised(rows, arrays, seed=0):
    """Deletion and insertion on a scale where the blurred image is 0 and the intact one 1, and accuracy likewise.

    arrays: dict of model to the arrays of its record. The ratio is that of means over images, which are drawn again
    together for its interval. Columns: method, and each of `MEASURES` with its interval.
    """
    found, several = [], len(arrays) > 1
    for model, kept in arrays.items():
        for name, title in EXPLANATIONS.items():
            if f"deletion_{name}" not in kept:
                continue
            for kind, text in ((name, title), (f"{name}_random", f"{title}, random")):
                line = {"method": f"{rows.loc[model, 'title']}: {text}" if several else text}
                pairs = zip(
                    MEASURES, ("deletion_", "insertion_", "deletion_correct_", "insertion_correct_"), strict=True
                )
                for measure, prefix in pairs:
                    ends = kept["ends_correct" if "correct" in prefix else "ends"]
                    keys = (measure, f"{measure}_low", f"{measure}_high")
                    line |= dict(zip(keys, ratio(kept[prefix + kind][:, 1:].mean(1), ends, seed), strict=True))
                found.append(line)
    return pd.DataFrame(found)


def ratio(after, ends, seed=0):
    """(mean after - mean blurred) / (mean intact - mean blurred) and its bootstrap interval: (value, low, high).

    after [n]; ends [n, 2], intact and blurred. nan where intact and blurred have the same mean.
    """
    stacked = np.stack([after, ends[:, 0], ends[:, 1]]).astype(float)
    means = np.concatenate([stacked.mean(1)[None], statistics.resampled_means(stacked, seed)])
    span = means[:, 1] - means[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(span != 0, (means[:, 0] - means[:, 2]) / span, np.nan)
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def claims(rows, wanted, model=None):
    """The statistics of claims, for `run.verdicts`: dict of id to (value, low, high, n). wanted: dict of id to metric.

    model: whose row, by default the first that ran.
    """
    row = rows.loc[model] if model else rows[rows["reason"] == ""].iloc[0]
    return {claim: tuple(row[metric + end] for end in ("", "_low", "_high", "_n")) for claim, metric in wanted.items()}


def definitions(rows):
    """How the ranking of the five explanations hangs on the definitions, for the first model that ran: DataFrame.

    A line for each variant: of each measure, Spearman's correlation of our five values with the published five, and in
    brackets which explanation comes out best.
    """
    row = rows[rows["reason"] == ""].iloc[0]
    variants = dict.fromkeys(
        key.partition("@")[2] for key in rows if "@" in key and not key.endswith(("_low", "_high", "_n"))
    )
    found = []
    for variant in variants:
        line = {"definition": variant}
        for measure, heading in MEASURES.items():
            ours = {name: row[f"{measure}_{name}@{variant}"] for name in FIVE}
            best = (min if "↓" in heading else max)(FIVE, key=ours.get)
            title = EXPLANATIONS[best].removeprefix("Ours ").strip("()")
            line[heading] = f"{agreement(row, measure, variant):+.2f} ({title})"
        found.append(line)
    return pd.DataFrame(found)


def agreement(row, measure, variant):
    """Spearman's correlation of our five values of a measure, under a variant, with the published five."""
    ours = [row[f"{measure}_{name}@{variant}"] for name in FIVE]
    return float(stats.spearmanr(ours, table1().loc[[EXPLANATIONS[name] for name in FIVE], measure])[0])


def facts(row, notes, varied):
    """What the prose of the page on Table 1 says in numbers, for `tables.glue`. varied: the row of `definitions`."""
    starts = {"whole": "default", "parts": "insertion from blurred parts"}
    agreed = {
        f"table1_{measure}_{name}": agreement(varied, measure, variant)
        for measure in ("insertion", "acc_inc")
        for name, variant in starts.items()
    }
    area = {f"table1_area_{name}": float(row[f"area_{name}"]) for name in EXPLANATIONS if f"area_{name}" in row}
    sizes = {"table1_kernel": notes["kernel"], "table1_side": notes["image_size"]}
    return area | sizes | agreed | {"table1_intact": float(row["top1"]), "table1_blurred": float(row["blurred_top1"])}


def trained_facts(row, notes):
    """What the prose of the page on Table 5 says in numbers, for `tables.glue`."""
    labeler = {"table5_labeler_all": row["labeler_top_all"], "table5_labeler_ten": row["labeler_top_10"]}
    return {k: float(v) for k, v in labeler.items()} | {"table5_steps": notes["steps"], "table5_bank": notes["bank"]}


def usage(records):
    """What the baselines of each model were trained on, from the notes of its record: DataFrame."""
    found = []
    for record in records.values():
        notes = record["notes"]
        line = {"model": record["title"], "features": f"{notes['feature']}, layer {notes['layer']}"}
        line |= {"images": notes["train"], "steps": notes["steps"], "batch": notes["batch"], "q": notes["inner"]}
        line |= {"rate": f"{notes['rates'][0]:g} to {notes['rates'][1]:g}", "descriptors": notes["bank"]}
        line |= {"kept by LF-CBM": notes["lf_cbm_concepts"], "its weights a class": notes["lf_cbm_weights_a_class"]}
        found.append(line)
    return pd.DataFrame(found)


# --- figures


def curves(kept, what=("score", "accuracy")):
    """Class score and accuracy against the share of the image that is blurred or revealed: axes [2, 2].

    kept: the arrays of one model's record. Dashed lines: random regions of the same areas.
    """
    style()
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 7), sharex="col")
    names = [name for name in EXPLANATIONS if f"deletion_{name}" in kept]
    for k, name in enumerate(names):
        share = 100 * kept[f"covered_{name}"].mean(0)
        for column, direction in enumerate(("deletion", "insertion")):
            for line, part in enumerate(("", "correct_")):
                for kind, look in ((name, "-"), (f"{name}_random", ":")):
                    mean = kept[f"{direction}_{part}{kind}"].mean(0) * (100 if part else 1)
                    label = EXPLANATIONS[name] if look == "-" else None
                    colour = CYCLE[k % len(CYCLE)]
                    axes[line, column].plot(share, mean, look, marker="o", markersize=3, color=colour, label=label)
    for ax, title in zip(axes[0], ("deletion", "insertion"), strict=True):
        ax.set_title(title)
    for ax, label in zip(axes[:, 0], ("class score (2.5 x cosine)", "accuracy (%)"), strict=True):
        ax.set_ylabel(label)
    axes[1, 0].set_xlabel("share of the image blurred (%)")
    axes[1, 1].set_xlabel("share of the image revealed (%)")
    axes[0, 0].legend(fontsize="x-small")
    return axes


def regions(data, kept, images=4):
    """The regions of each explanation in the first images, dark where blurred first: axes [images, columns]."""
    style()
    names = [name for name in EXPLANATIONS if f"regions_{name}" in kept]
    images = min(images, len(data))
    size = (1.5 * (len(names) + 1), 1.55 * images)
    figure, axes = plt.subplots(images, len(names) + 1, figsize=size, squeeze=False)
    for i, line in enumerate(axes):
        picture = np.asarray(data.image(i))
        for k, ax in enumerate(line):
            ax.imshow(picture if k == 0 else picture.mean(2), cmap="gray")
            ax.set_axis_off()
            if i == 0:
                ax.set_title(EXPLANATIONS[names[k - 1]] if k else "image", fontsize="small")
            if k:
                rank = first_covered(kept[f"regions_{names[k - 1]}"][i])
                extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
                ax.imshow(rank, cmap="plasma", alpha=0.6, vmin=0, vmax=5, extent=extent, interpolation="nearest")
    return axes


def first_covered(regions):
    """The step at which each cell is covered, from 0; masked where it never is. regions bool [L, h, w] in order."""
    return np.ma.masked_array(regions.argmax(0), ~regions.any(0))


def accuracies(rows, metric="top1"):
    """Top-1 of each classifier with its interval, one line a classifier, one colour a model: axes."""
    style()
    _, ax = plt.subplots(figsize=(7, 3.4))
    ran = rows[rows["reason"] == ""]
    for k, (_, row) in enumerate(ran.iterrows()):
        value, low, high = (
            np.array([row[f"{metric}_{name}{end}"] for name in CLASSIFIERS]) for end in ("", "_low", "_high")
        )
        place = np.arange(len(CLASSIFIERS))[::-1] - 0.2 * (k - (len(ran) - 1) / 2)
        colour = CYCLE[k % len(CYCLE)]
        ax.errorbar(value, place, xerr=[value - low, high - value], fmt="o", color=colour, label=row["title"])
    ax.set(yticks=np.arange(len(CLASSIFIERS))[::-1], yticklabels=CLASSIFIERS.values(), xlabel="top-1 (%)")
    ax.legend(fontsize="small")
    return ax
