"""What the page on sensitivity shows: each conclusion under each switch, and which survive all of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.report import published, statistics
from lib.report.figures import style
from lib.report.mutual import published_table3
from lib.report.tables import plain

SIGNS = {"holds": "▲", "fails": "▼", "inconclusive": "○"}
CORRELATIONS = {
    "AUC ~ accuracy, all": ("auc", None),
    "AUC ~ accuracy, ViT": ("auc", "ViT"),
    "AUC ~ accuracy, ResNet": ("auc", "ResNet"),
    "MI ~ accuracy, all": ("mi", None),
}
DIFFERENCES = {
    "mk-vit-above-resnet": "ViT > ResNet",
    "mk-larger-model": "larger model",
    "mk-more-patches": "more patches",
    "mk-better-data": "better data",
}
ABOVE = "K above chance"


def conclusions(rows, arrays, switches, key, seed=0):
    """The statistic of each conclusion under each switch: DataFrame of switch, conclusion, value, low, high, verdict.

    rows: DataFrame of `run.rows(sensitivity.row)`; arrays: dict of model to the arrays of its record; switches: list of
    names; key: function from a name to its part of a metric's name. Intervals are over images drawn anew, the same for
    all models, with the models' accuracy as it is. A switch that applies to some models only is left out of what needs
    the others.
    """
    lines = []
    for switch in switches:
        images = {q: _arrays(arrays, f"{q}_{key(switch)}") for q in ("mi", "auc", "above_chance")}
        found = {name: _correlation(images[q], rows, family, seed) for name, (q, family) in CORRELATIONS.items()}
        claims = {c["id"]: c for c in published.claims() if c["id"] in DIFFERENCES}
        for name, title in DIFFERENCES.items():
            found[title] = _difference(images["auc"], claims[name], seed)
        found[ABOVE] = _mean(images["above_chance"], seed)
        for name, (value, low, high) in found.items():
            verdict = published.verdict(low, high) if np.isfinite(value) else ""
            lines.append(
                {"switch": switch, "conclusion": name, "value": value, "low": low, "high": high, "verdict": verdict}
            )
    return pd.DataFrame(lines)


def _arrays(arrays, metric):
    return {model: found[metric] for model, found in arrays.items() if metric in found}


def _correlation(images, rows, family, seed):
    models = [m for m in images if family in (None, rows.loc[m, "family"])]
    everyone = [m for m in rows.index if family in (None, rows.loc[m, "family"])]
    if len(models) < 3 or len(models) < len(everyone):
        return np.nan, np.nan, np.nan
    x, top1 = np.array([images[m] for m in models]), rows.loc[models, "top1"].to_numpy(float)
    draws = statistics.coefficient(statistics.resampled_means(x, seed), top1)
    return float(statistics.coefficient(x.mean(1), top1)), *_quantiles(draws)


def _difference(images, claim, seed):
    if not {*claim["greater"], *claim["less"]} <= images.keys():
        return np.nan, np.nan, np.nan
    greater, less = (np.mean([images[m] for m in claim[side]], axis=0) for side in ("greater", "less"))
    return statistics.interval(greater - less, seed)[:3]


def _mean(images, seed):
    return statistics.interval(np.mean(list(images.values()), axis=0), seed)[:3] if images else (np.nan,) * 3


def _quantiles(draws):
    draws = draws[np.isfinite(draws)]
    return tuple(float(q) for q in np.quantile(draws, [0.025, 0.975])) if len(draws) else (np.nan, np.nan)


def conclusion_table(found, name, caption):
    """A numbered table: a row a switch, a column a conclusion, its statistic and on which side of zero it lies."""
    lines = []
    for switch, group in found.groupby("switch", sort=False):
        cells = {r.conclusion: f"{r.value:+.2f} {SIGNS[r.verdict]}" if r.verdict else "–" for r in group.itertuples()}
        lines.append({"switch": switch, **cells})
    return plain(pd.DataFrame(lines), name, caption)


def survival(found):
    """Under how many switches each conclusion stands: DataFrame, the verdict being whether it survives all of them."""
    lines = []
    for name, group in found[found["verdict"] != ""].groupby("conclusion", sort=False):
        counts = group["verdict"].value_counts()
        holds, fails = int(counts.get("holds", 0)), int(counts.get("fails", 0))
        same = (group["value"] > 0).all() or (group["value"] < 0).all()
        text = "survives" if holds == len(group) else "sign survives" if same else "depends on the switch"
        line = {"conclusion": name, "switches": len(group), "positive": int((group["value"] > 0).sum())}
        line |= {"interval above zero": holds, "interval below zero": fails}
        lines.append(line | {"lowest": group["value"].min(), "highest": group["value"].max(), "verdict": text})
    return pd.DataFrame(lines)


def levels(rows, switches, key):
    """MI, AUC, matches and matches above chance under each switch, averaged over the models that have a value."""
    lines = []
    for switch in switches:
        names = {q: f"{q}_{key(switch)}" for q in ("mi", "auc", "matches", "above_chance")}
        there = [n for n in names.values() if n in rows]
        if not there:
            continue
        line = {"switch": switch, "models": int(rows[names["mi"]].notna().sum())}
        headings = ("MI", "AUC", "K", "K above chance")
        lines.append(line | {h: rows[n].mean() for h, n in zip(headings, names.values(), strict=True)})
    return pd.DataFrame(lines)


def strips(found, conclusions=("AUC ~ accuracy, all", ABOVE)):
    """Each conclusion under each switch with its interval over images, one panel a conclusion."""
    style()
    switches = list(dict.fromkeys(found["switch"]))
    figure, axes = plt.subplots(
        1, len(conclusions), figsize=(9.5, 0.27 * len(switches) + 1), sharey=True, squeeze=False
    )
    for ax, name in zip(axes[0], conclusions, strict=True):
        chosen = found[(found["conclusion"] == name) & np.isfinite(found["value"])]
        place = [switches.index(s) for s in chosen["switch"]]
        errors = np.clip([chosen["value"] - chosen["low"], chosen["high"] - chosen["value"]], 0, None)
        ax.errorbar(chosen["value"], place, xerr=errors, fmt="o", markersize=4, elinewidth=1)
        ax.axvline(0, color="0.4", linewidth=1, linestyle="--")
        ax.set(title=name)
    axes[0, 0].set_yticks(range(len(switches)), switches, fontsize=8)
    axes[0, 0].invert_yaxis()
    return axes[0]


def published_datasets(seed=0):
    """Pearson and Spearman of published AUC with published accuracy over the ViTs of each dataset: DataFrame."""
    lines = []
    for dataset, title in (("imagenet", "ImageNet"), ("places365", "Places365"), ("food101", "Food-101")):
        table = published_table3(dataset)
        table = table[table["family"] == "ViT"]
        line = {"dataset": title, "ViTs": len(table)}
        for method in ("pearson", "spearman"):
            value = float(statistics.coefficient(table["auc"], table["top1"], method))
            low, high = statistics.over_models(table["auc"], table["top1"], method, seed)
            line[method.capitalize()] = f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")
            line[f"p, {method}"] = f"{statistics.permutation_p(table['auc'], table['top1'], method, seed):.3f}"
        lines.append(line)
    return pd.DataFrame(lines)


def summary(survived, found, images, prefix):
    """Numbers and a sentence for the prose of the page, as strings."""
    name = "AUC ~ accuracy, all"
    line = survived.set_index("conclusion")
    stands = list(line.index[line["verdict"] == "survives"])
    text = (
        f"What survives every switch that reads the parts anew: {', '.join(stands)}."
        if stands
        else "No conclusion survives."
    )
    above, chosen = found[found["conclusion"] == ABOVE]["value"], found[found["conclusion"] == name]
    spread = published.load("mutual_knowledge_appendix", index="table").loc["Checklist", "value"]
    same = (
        max(line.loc[name, "positive"], line.loc[name, "switches"] - line.loc[name, "positive"])
        if name in line.index
        else 0
    )
    values = {
        "survive": text,
        "switches": str(line.loc[name, "switches"]) if name in line.index else "0",
        "same_sign": str(same),
        "turned": "; ".join(chosen["switch"][chosen["verdict"] == "fails"]) or "none",
        "above_low": f"{above.min():.2f}",
        "above_high": f"{above.max():.2f}",
        "published_spread": str(spread),
        "images": f"{images} images",
    }
    return {f"{prefix}_{k}": v for k, v in values.items()}


def seed_shift(rows, key):
    """How far another seed of K-means moves MI, averaged over the models."""
    return float((rows[f"mi_{key('K-means, another seed')}"] - rows[f"mi_{key('base, subset')}"]).mean())
