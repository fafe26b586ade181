"""What the pages on the appendix show: localisation, foreground accuracy, entropy of the descriptors, banks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.report import published, record
from lib.report.figures import CYCLE, style
from lib.report.ground_truth import empty
from lib.report.tables import cell, number, plain, table

CORLOC = {
    "corloc_tokens_graph": "Tokens (GDC)",
    "corloc_tokens_pca": "Tokens (PCA)",
    "corloc_keys_graph": "Keys (GDC)",
    "corloc_keys_pca": "Keys (PCA)",
    "corloc_ensemble_graph": "Ensemble (GDC)",
    "corloc_ensemble_pca": "Ensemble (PCA)",
}
ACCURACY = {"top1_base": "Base", "top1_nearest": "NN interp", "top1_component": "+FCC", "top1_crf": "+CRF"}
MATCHINGS = {
    "top": "nearest of the bank",
    "nearest": "nearest candidates",
    "centred": "candidates, centred",
    "transport": "candidates, transport",
}


def appendix(name, metrics):
    """A table of the published appendix, one line a model: DataFrame indexed by title, columns named like ours.

    name: the first column of the file; metrics: dict of ours to the paper's name of a row or a column.
    """
    frame = published.load("mutual_knowledge_appendix", index=None)
    frame = frame[frame["table"] == name]
    names = {theirs: ours for ours, theirs in metrics.items()}
    model, what = ("column", "row") if name.startswith("A1") else ("row", "column")
    wide = frame.pivot(index=model, columns=what, values="value").astype(float).rename(columns=names)
    return wide.rename(index={"ViT-L/14@336": "ViT-L/14@336px"})


def localisation_table(rows, records, name, caption):
    """CorLoc, a line a facet and a column a model, published values beside ours where there are any.

    The last lines are the foreground as Table 3 reads it and two boxes that look at nothing. Where there are no true
    boxes, the reason.
    """
    known = CORLOC | {
        "corloc_chosen": "as in Table 3",
        "corloc_whole": "whole picture",
        "corloc_centre": "central half",
    }
    known = {k: v for k, v in known.items() if k in rows}
    if not known:
        reasons = {r["notes"].get("reason", "") for r in records.values()}
        return plain(pd.DataFrame({"not run": sorted(reasons)}), name, caption)
    theirs, cells = appendix("A1 CorLoc", CORLOC), {"features": list(known.values())}
    for _, row in rows.iterrows():
        if row["title"] in theirs.index:
            published_values = theirs.loc[row["title"]].reindex(list(known))
            cells[f"{row['title']}, published"] = [number(x, ".1f") for x in published_values]
        cells[row["title"]] = [cell(row, metric, ".1f") for metric in known]
    return plain(pd.DataFrame(cells), name, caption)


def accuracy_table(rows, name, caption):
    """Accuracy with the rest blurred, published and ours."""
    known = {k: v for k, v in ACCURACY.items() if k in rows}
    return table(
        rows,
        known,
        name,
        caption,
        published=appendix("A3 foreground acc", ACCURACY),
        formats=dict.fromkeys(known, ".1f"),
    )


def entropy_table(rows, name, caption):
    """Entropy of the descriptors without and with the transport, the published values in the first line."""
    frame = published.load("mutual_knowledge_appendix", index=None)
    values = frame[frame["table"] == "A2 OT entropy"].set_index(["row", "column"])["value"].astype(float)
    first = {"title": "published"}
    for method, title in (("pca", "PCA"), ("kmeans", "K-means")):
        first |= {
            f"entropy_top_{method}": values["without OT", title],
            f"entropy_transport_{method}": values["with OT", title],
        }
    columns = {
        f"entropy_{m}_{p}": f"{t}, {w} transport"
        for p, t in (("pca", "PCA"), ("kmeans", "K-means"))
        for m, w in (("top", "without"), ("transport", "with"))
    }
    return table(pd.concat([pd.DataFrame([first]), rows.drop(columns="reason")]), columns, name, caption)


def spread_and_truth(rows, parts="kmeans"):
    """Entropy against precision of each matching method, a mark a model: what spreading the descriptors costs."""
    style()
    figure, ax = plt.subplots(figsize=(6.2, 4))
    for k, (method, label) in enumerate(MATCHINGS.items()):
        x, y = rows[f"entropy_{method}_{parts}"], rows[f"precision_{method}_{parts}"]
        ax.plot(x, y, "osD^"[k], color=CYCLE[k], label=label, markersize=6, alpha=0.8)
    ax.set(xlabel="entropy of the descriptors (nats)", ylabel="descriptors that hold (%)", ylim=(0, 100))
    ax.legend(fontsize="small")
    return ax


def bank_table(named, nameless, name, caption):
    """Classification by description with banks made worse on purpose, with the class name and without."""
    if not len(named):
        return plain(pd.DataFrame({"model": ["none of this run's models"]}), name, caption)
    lines = []
    titles = {"own": "as it is", "half": "half forgotten", "erring": "a quarter wrong", "shuffled": "of another class"}
    for model in named.index:
        for bank, title in titles.items():
            line = {"model": named.loc[model, "title"], "descriptors": title}
            for rows, heading in ((named, "with the name"), (nameless, "without")):
                low, high = (rows.loc[model, f"top1_{bank}_{k}"] for k in ("low", "high"))
                line[f"top-1, {heading}"] = f"{rows.loc[model, f'top1_{bank}']:.1f} [{low:.1f}, {high:.1f}]"
            line |= {"InterDiv": named.loc[model, f"inter_{bank}"], "IntraDiv": named.loc[model, f"intra_{bank}"]}
            lines.append(line)
    return plain(pd.DataFrame(lines), name, caption, formats={"InterDiv": ".3f", "IntraDiv": ".3f"})


def published_banks(name, caption):
    """The published Table A4: prompts and language models that wrote the descriptors, ViT-B/16."""
    frame = published.load("mutual_knowledge_appendix", index=None)
    lines = frame[frame["table"] == "A4 descriptors ViT-B/16"]
    values = (
        lines["value"]
        .str.split("|", expand=True)
        .astype(float)
        .set_axis(["top-1", "top-5", "InterDiv", "IntraDiv"], axis=1)
    )
    values.insert(0, "descriptors by", lines["row"])
    return plain(values, name, caption, formats={"InterDiv": ".3f", "IntraDiv": ".3f"})


def kept(rows):
    """Long form of foreground accuracy for one figure: what is kept, top-1 and its interval, share of the picture."""
    names = {
        "blurred": "nothing",
        "inverse": "the rest",
        "component": "foreground",
        "animal": "true animal",
        "base": "everything",
    }
    lines = []
    for _, row in rows.iterrows():
        for name, title in names.items():
            if f"top1_{name}" in rows and np.isfinite(row[f"top1_{name}"]):
                lines.append(
                    {
                        "model": row["title"],
                        "kept": title,
                        **{k or "top1": row[f"top1_{name}{k}"] for k in ("", "_low", "_high")},
                    }
                )
    return pd.DataFrame(lines)


def kept_bars(panels):
    """Top-1 by what is kept of the picture, a panel a way of removing the rest. panels: dict of title to `kept`."""
    if not all(map(len, panels.values())):
        return empty("Not run: none of the models for the accuracies is among the run's.")
    style()
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), sharey=True, squeeze=False)
    for ax, (title, frame) in zip(axes[0], panels.items(), strict=True):
        models, kinds = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["kept"]))
        width = 0.8 / len(models)
        for k, model in enumerate(models):
            of = frame[frame["model"] == model].set_index("kept").reindex(kinds)
            place = np.arange(len(kinds)) + width * (k - (len(models) - 1) / 2)
            errors = np.clip([of["top1"] - of["_low"], of["_high"] - of["top1"]], 0, None)
            ax.bar(
                place,
                of["top1"],
                width * 0.9,
                yerr=errors,
                color=CYCLE[k % len(CYCLE)],
                label=model,
                error_kw={"elinewidth": 0.8},
            )
        ax.set_xticks(range(len(kinds)), kinds, fontsize=8)
        ax.set(title=title, ylim=(0, 100))
    axes[0, 0].set_ylabel("top-1 (%)")
    axes[0, -1].legend(fontsize="x-small", loc="upper left")
    return axes[0]


def arrays_of(run, exhibit, model):
    """The arrays of a model's record of one of the run's exhibits; {} where it was not run."""
    return record.arrays_of_run(run, exhibit).get(model, {})


def not_known():
    """A card in a figure's place, where the truth is not known."""
    return empty("Not run: only the bestiary knows which descriptors hold.")
