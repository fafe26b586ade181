"""What the pages on the second paper show: comparisons within a backbone, curves, and correlations over models.

Differences between models come from paired bootstrap draws: every model saw the same images with the same weights,
so that the interval of a difference is narrower than those of its two numbers suggest.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.errors import UserError
from lib.report import published, record, statistics
from lib.report.figures import CYCLE, LINES, style
from lib.report.statistics import of_draws
from lib.report.tables import not_run, number, plain

GROUPS = {
    "contrastive": "zero-shot",
    "finetuned": "fine-tuned",
    "supervised": "supervised",
    "captions": "captions",
}
LOOKS = {"zero-shot": 0, "fine-tuned": 1, "supervised": 3, "captions": 2}
OPENAI = ("RN50", "RN101", "ViT-B-16", "ViT-B-32")  # the zero-shot models that have counterparts of their backbone
MARKERS = {"zero-shot": "o", "fine-tuned": "s", "supervised": "^", "captions": "D", "saved": "*"}


# --- gathering


def measured(run, of_model, of_file, files, exhibit=None, **parameters):
    """One row a model of the run, or one a set of saved embeddings: (rows, arrays, notes).

    of_model: function for `run.rows`. of_file: function of embeddings alone. files: dict of title to embeddings; when
    there are any, no model is loaded. rows: DataFrame as of `run.rows`, and its group, backbone and pretraining data;
    arrays, notes: dict of model to those of its row.
    """
    if not files:
        rows = described(run.rows(of_model, exhibit=exhibit, **parameters))
        return rows, *kept(run, exhibit or run.exhibit)
    results = {title: of_file(embeddings, seed=run.seed, **parameters) for title, embeddings in files.items()}
    rows = {}
    for title, result in results.items():
        metrics, _ = record.summary(result["metrics"], run.seed)
        rows[title] = record.row({"title": title, "family": "file", "metrics": metrics})
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    frame = frame.assign(group="saved", backbone="", data="")
    return frame, {t: r["arrays"] for t, r in results.items()}, {t: r["notes"] for t, r in results.items()}


records, arrays, if_possible = record.of_run, record.arrays_of_run, record.if_possible


def kept(run, exhibit):
    """Arrays and notes of an exhibit's records: (dict of model to arrays, dict of model to notes)."""
    return arrays(run, exhibit), {model: r["notes"] for model, r in records(run, exhibit).items()}


def described(rows):
    """Rows with what sets the models apart: columns group, backbone and data, in the order of the groups."""
    from lib.models import LIBRARIES, catalogue

    known = catalogue()
    stems = [str(name).partition(":")[0] for name in rows.index]
    look = {c: [known[c].get(stem, "") for stem in stems] for c in ("objective", "backbone", "data")}
    groups = [
        GROUPS.get(objective, "supervised" if stem.startswith(LIBRARIES) else "zero-shot")
        for objective, stem in zip(look["objective"], stems, strict=True)
    ]
    rows = rows.assign(group=groups, backbone=look["backbone"], data=look["data"])
    order = list(GROUPS.values())
    return rows.iloc[np.argsort([order.index(g) for g in groups], kind="stable")]


def ran(rows):
    """The rows that were run."""
    return rows[rows["reason"] == ""] if "reason" in rows else rows


def captions(run, files):
    """A function that ends a caption with the scale of the run, or with the files that the page is about."""
    if not files:
        return run.caption
    return lambda text: f"{text.rstrip('. ')}. Saved embeddings: {', '.join(files)}."


def saved_or(files, names):
    """`names`, or none of them where the page is about saved embeddings: what only models have is left out."""
    return [] if files else list(names)


def counterparts(rows):
    """The models of each backbone by group, dict of backbone to dict of group to model.

    The zero-shot one is that which the others started from, and whose name the backbone has.
    """
    found = {}
    for model, row in ran(rows).iterrows():
        if row["backbone"] in OPENAI and (row["group"] != "zero-shot" or model == row["backbone"]):
            found.setdefault(row["backbone"], {}).setdefault(row["group"], model)
    return found


# --- intervals of differences


def contrast(rows, values, draws, others, group="zero-shot"):
    """Mean over the backbones of a zero-shot model's value minus that of its counterparts: (value, low, high, pairs).

    values: dict of model to number; draws: dict of model to [draws]; others: groups. nan where there is no pair.
    """
    pairs = [
        (models[group], models[other])
        for models in counterparts(rows).values()
        for other in others
        if group in models and other in models and models[group] in values and models[other] in values
    ]
    if not pairs:
        return np.nan, np.nan, np.nan, 0
    value = np.mean([values[a] - values[b] for a, b in pairs])
    return of_draws(value, np.mean([draws[a] - draws[b] for a, b in pairs], axis=0), len(pairs))


def mean_of(models, values, draws):
    """Mean over some models of a value: (value, low, high, models), nan for none."""
    models = [m for m in models if m in values]
    if not models:
        return np.nan, np.nan, np.nan, 0
    value = np.mean([values[m] for m in models])
    return of_draws(value, np.mean([draws[m] for m in models], axis=0), len(models))


def pick(rows, found, name):
    """A metric of the models that ran, and its draws: (dict of model to number, dict of model to [draws])."""
    models = [m for m in ran(rows).index if m in found and f"draws_{name}" in found[m]]
    return {m: float(rows.loc[m, name]) for m in models}, {m: found[m][f"draws_{name}"] for m in models}


def pairs(rows, measures, spec=".2f"):
    """A zero-shot model minus its counterparts, a row a measure and backbone, and their mean: DataFrame of strings.

    measures: dict of name to (values, draws) of models.
    """
    others = list(GROUPS.values())[1:]
    lines = []
    for name, (values, draws) in measures.items():
        for backbone, models in counterparts(rows).items():
            line = {"of": name, "backbone": backbone}
            for other in others:
                a, b = models.get("zero-shot"), models.get(other)
                gap = (
                    of_draws(values[a] - values[b], draws[a] - draws[b], 0) if {a, b} <= set(values) else (np.nan,) * 3
                )
                line[f"minus {other}"] = text(gap, spec)
            lines.append(line)
        means = {f"minus {other}": text(contrast(rows, values, draws, [other]), spec) for other in others}
        lines.append({"of": name, "backbone": "mean", **means})
    return pd.DataFrame(lines)


def present(columns, rows):
    """Those of a table's columns that any row has."""
    return {name: heading for name, heading in columns.items() if name in rows}


def text(found, spec=".2f"):
    """ "value [low, high]", a dash for nan."""
    value, low, high = found[:3]
    if not np.isfinite(value):
        return "–"
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]" if np.isfinite(low) else f"{value:{spec}}"


def signs(rows, values, others):
    """In how many pairs of a backbone the zero-shot model has the larger value: (larger, pairs)."""
    pairs = [
        values[models["zero-shot"]] > values[models[other]]
        for models in counterparts(rows).values()
        for other in others
        if {"zero-shot", other} <= set(models) and {models["zero-shot"], models[other]} <= set(values)
    ]
    return int(sum(pairs)), len(pairs)


# --- kurtosis


def by_data(rows, values, draws):
    """Zero-shot models of one backbone by their pretraining data, OpenAI's minus the others: DataFrame of strings."""
    lines = []
    for backbone in OPENAI:
        for model in ran(rows).index:
            row = rows.loc[model]
            if (
                row["backbone"] == backbone != model
                and row["group"] == "zero-shot"
                and {backbone, model} <= set(values)
            ):
                gap = of_draws(values[backbone] - values[model], draws[backbone] - draws[model], 0)
                lines.append(
                    {
                        "backbone": backbone,
                        "other pretraining": row["title"],
                        "K, OpenAI's": number(values[backbone]),
                        "K, the other's": number(values[model]),
                        "difference": text(gap),
                    }
                )
    return pd.DataFrame(lines or [{"backbone": "none of this run's models"}])


def against(rows, values, draws, others):
    """Mean difference between OpenAI's model and those named in `others` (endings of names): (v, low, high, pairs)."""
    pairs = [(b, f"{b}-{o}") for b in OPENAI for o in others if b in values and f"{b}-{o}" in values]
    if not pairs:
        return np.nan, np.nan, np.nan, 0
    gaps = [draws[a] - draws[b] for a, b in pairs]
    return of_draws(np.mean([values[a] - values[b] for a, b in pairs]), np.mean(gaps, axis=0), len(pairs))


def public(load, function):
    """Results of a row on public embeddings: (dict of title to result, ""), or ({}, why there are none)."""
    try:
        return {title: function(rows) for title, rows in load().items()}, ""
    except UserError as error:
        return {}, str(error)


def real_table(results, reason, name, caption):
    """The table of kurtosis on public embeddings of real CLIP, or a card that says why it is missing."""
    if not results:
        return not_run(reason, name, caption)
    lines = []
    for title, result in results.items():
        m = result["metrics"]
        lines.append(
            {
                "embeddings of": title,
                "K": text(m["raw"], ".1f"),
                "K, centred": text(m["centred"], ".1f"),
                "K, rotated": text(m["rotated"]),
                "K without the top coordinate": text(m["without_top"], ".1f"),
                "top coordinate": str(result["notes"]["top"]),
                "its share of K (%)": text([100 * x for x in m["share"][:3]], ".1f"),
                "images": str(m["raw"][3]),
            }
        )
    return plain(pd.DataFrame(lines), name, caption)


def coordinates(rows, arrays, real=None):
    """How far each coordinate lies from the mean of its vector, averaged over images, from the largest down.

    One panel for real CLIP embeddings where there are any, and one for the models of this run by group.
    """
    style()
    panels = [("real CLIP (ViT-B/16)", real)] if real else []
    own = {m: arrays[m] for m in ran(rows).index if m in arrays}
    _, axes = plt.subplots(1, len(panels) + 1, figsize=(4.6 * (len(panels) + 1), 3.6), sharey=False, squeeze=False)
    for ax, (title, results) in zip(axes[0], panels, strict=False):
        for k, (name, result) in enumerate(results.items()):
            z = np.sort(result["arrays"]["z"])[::-1]
            ax.plot(np.arange(1, len(z) + 1), z, color=CYCLE[k], linestyle=LINES[k], label=name)
        ax.set(title=title)
    ax = axes[0, -1]
    for model, found in own.items():
        group = rows.loc[model, "group"]
        k, z = LOOKS.get(group, 4), np.sort(found["z"])[::-1]
        ax.plot(np.arange(1, len(z) + 1), z, color=CYCLE[k], linestyle=LINES[k], linewidth=1, alpha=0.7)
    for group in dict.fromkeys(rows["group"]):
        k = LOOKS.get(group, 4)
        ax.plot([], [], color=CYCLE[k], linestyle=LINES[k], label=group)
    ax.set(title="this run")
    for ax in axes[0]:
        ax.axhline(np.sqrt(2 / np.pi), color="0.4", linewidth=0.8, linestyle=":", label="Gaussian")
        ax.set(xscale="log", yscale="log", xlabel="coordinates, the largest first")
        ax.legend(fontsize="small")
    axes[0, 0].set_ylabel("mean |z| of a coordinate")
    return axes[0]


def untrained(rows, files):
    """Names of the untrained models of the backbones of a page, once each."""
    backbones = [b for b in dict.fromkeys(rows["backbone"]) if b]
    return saved_or(files, [f"{backbone}:random" for backbone in backbones])


def beside_untrained(rows, random, alike):
    """Rows with the kurtosis of their backbone before any training, and their likeness to its zero-shot model."""
    rows = rows.copy()
    for suffix in ("", "_low", "_high"):
        for model, row in rows.iterrows():
            name = f"{row['backbone']}:random"
            if name in random.index:
                rows.loc[model, f"untrained{suffix}"] = random.loc[name, f"raw{suffix}"]
            if model in alike.index and model != row["backbone"]:
                rows.loc[model, f"cka{suffix}"] = alike.loc[model].get(f"cka{suffix}", np.nan)
    return rows


def kurtosis_claims(rows, found):
    """The statistics of the claims on kurtosis: dict of claim to (value, low, high, n)."""
    values, draws = pick(rows, found, "raw")
    magnitude = pick(rows, found, "magnitude")
    zero_shot = ran(rows).index[ran(rows)["group"] == "zero-shot"]
    value, low, high, n = mean_of(zero_shot, *magnitude)
    return {
        "of-kurtosis-above-finetuned": contrast(rows, values, draws, ["fine-tuned"]),
        "of-kurtosis-above-supervised": contrast(rows, values, draws, ["supervised"]),
        "of-captions-without-outliers": contrast(rows, values, draws, ["captions"]),
        "of-orders-of-magnitude": (value - 1, low - 1, high - 1, n),
        "of-openai-extreme": against(rows, values, draws, ("yfcc", "cc12m")),
    }


def kurtosis_prose(rows, raw, centred, real):
    """What the kurtosis page says in words: dict of scalars."""
    others = list(GROUPS.values())[1:]
    (larger, of), (larger_centred, _) = (signs(rows, values, others) for values, _ in (raw, centred))
    known = {k: r["metrics"] for k, r in real.items()}

    def of_real(name, metric):
        return f"{known[name][metric][0]:.1f}" if name in known else "not run"

    return {
        "kurtosis_pairs": of,
        "kurtosis_larger": larger,
        "kurtosis_larger_centred": larger_centred,
        "kurtosis_with_outliers": int((ran(rows)["outliers"] > 0).sum()) if "outliers" in rows else 0,
        "kurtosis_largest": number(max(raw[0].values(), default=None)),
        "kurtosis_real_images": of_real("photographs", "raw"),
        "kurtosis_real_centred": of_real("photographs", "centred"),
        "kurtosis_real_without": of_real("photographs", "without_top"),
        "kurtosis_real_captions": of_real("captions", "raw"),
        "kurtosis_real_captions_without": of_real("captions", "without_top"),
    }


# --- privileged directions


def importances(rows, arrays):
    """Importance of each direction over the median one, from the largest down, raw and row-centred head."""
    style()
    _, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), sharey=True)
    for ax, suffix, title in zip(axes, ("", "_centred"), ("head as it is", "row-centred head"), strict=True):
        for model, found in arrays.items():
            x = np.sort(found[f"importance{suffix}"])[::-1]
            k = LOOKS.get(rows.loc[model, "group"], 4)
            look = {"color": CYCLE[k], "linestyle": LINES[k], "linewidth": 1, "alpha": 0.7}
            ax.plot(np.arange(1, len(x) + 1), x / np.median(x), **look)
        ax.set(title=title, xlabel="directions, the most important first", xscale="log", yscale="log")
    for group in dict.fromkeys(rows["group"]):
        k = LOOKS.get(group, 4)
        axes[1].plot([], [], color=CYCLE[k], linestyle=LINES[k], label=group)
    axes[1].legend(fontsize="small")
    axes[0].set_ylabel("importance / median importance")
    return axes


WAYS = {
    "importance": "importance (paper)",
    "singular": "singular value",
    "cosine": "mean |cos|",
    "importance_centred": "importance, row-centred head",
    "singular_centred": "singular value, row-centred",
    "pca": "PCA of the embeddings",
    "regression": "reduced-rank regression",
    "random": "random directions of the head",
    "subspace": "random subspace",
}


def pruning(rows, arrays, notes, what="hit"):
    """Accuracy (or agreement with the full head) against the share pruned, a panel a group, a line a way.

    Lines are means over the models of a group that have counterparts; the dotted line is the unpruned value.
    """
    style()
    chosen = {g: [m for b in counterparts(rows).values() for k, m in b.items() if k == g] for g in GROUPS.values()}
    chosen |= {"saved": [m for m in arrays if rows.loc[m, "group"] == "saved"]}
    panels = {g: [m for m in models if m in arrays and what in arrays[m]] for g, models in chosen.items()}
    panels = {g: models for g, models in panels.items() if models} or {"none": []}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    size = (3.6 * columns + 2.2, 3.0 * lines)
    _, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, (group, models) in zip(axes.flat, panels.items(), strict=False):
        for k, way in enumerate(notes[models[0]]["ways"] if models else []):
            curve = np.mean([arrays[m][what][k] for m in models], axis=0)
            share = 100 * np.array(notes[models[0]]["shares"])
            colour, line = CYCLE[k % len(CYCLE)], LINES[(k + 3 * (k // len(CYCLE))) % len(LINES)]
            ax.plot(share, curve, label=WAYS[way], color=colour, linestyle=line, linewidth=1.3)
            if not k:
                ax.axhline(curve[0], color="0.4", linewidth=0.8, linestyle=":")
        ax.axvline(80, color="0.8", linewidth=0.8)
        ax.set(title=f"{group} ({len(models)})", ylim=(0, 100))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax in axes[-1]:
        ax.set_xlabel("directions pruned (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("top-1 (%)" if what == "hit" else "agreement with the full head (%)")
    handles = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].figure.legend(*handles, loc="outside right upper", fontsize="x-small")
    return axes


def pruned_at(rows, arrays, notes, share, what="hit"):
    """Accuracy change when a share is pruned, a row a way and a column a group: DataFrame of strings.

    Means over the models of a group that have counterparts, in points of `what`, with their interval over images.
    """
    lines = []
    for group in GROUPS.values():
        models = [m for b in counterparts(rows).values() for g, m in b.items() if g == group and m in arrays]
        if models and {0.0, share} <= set(notes[models[0]]["shares"]):
            note = notes[models[0]]
            at, full = note["shares"].index(share), note["shares"].index(0.0)
            line = {"group": f"{group} ({len(models)})"}
            for k, way in enumerate(note["ways"]):
                whole = note["ways"].index("importance")
                change = [arrays[m][what][k, at] - arrays[m][what][whole, full] for m in models]
                drawn = [arrays[m][f"draws_{what}"] for m in models]
                drawn = np.mean([d[:, k, at] - d[:, whole, full] for d in drawn], axis=0)
                line[WAYS[way]] = text(of_draws(np.mean(change), drawn, len(models)), "+.1f")
            lines.append(line)
    return pd.DataFrame(lines or [{"group": "–"}]).T.pipe(_upright)


def _upright(frame):
    """A transposed table with its first row as headings and its index as the first column."""
    frame.columns = frame.iloc[0]
    frame = frame.iloc[1:].rename_axis("kept by").reset_index()
    frame.columns.name = None
    return frame if len(frame) else pd.DataFrame({"kept by": ["needs the models of a backbone, and 0 and 0.8 pruned"]})


def real_directions(result, reason, name, caption):
    """The table of directions of a head made of captions, on public embeddings; or a card that says why not."""
    if not result:
        return not_run(reason, name, caption)
    lines = []
    for suffix, title in (("", "as it is"), ("_centred", "row-centred")):
        m = result["metrics"]
        way = result["notes"]["ways"].index(f"importance{suffix}")
        shares = result["notes"]["shares"]
        line = {
            "head": title,
            "largest / median importance": text(m[f"ratio{suffix}"], ".1f"),
            "|cos| with the mean row": f"{m[f'mean_link{suffix}']:.3f}",
            "weight on the outlier": text((m["outlier_link"], np.nan, np.nan), ".1f") if not suffix else "–",
        }
        for share in (0.0, 0.5, 0.8):
            if share in shares:
                k = shares.index(share)
                values = (result["arrays"][key][way, k] for key in ("hit", "hit_low", "hit_high"))
                line[f"right caption, {100 * share:.0f} % pruned (%)"] = text(tuple(values), ".1f")
        lines.append(line)
    return plain(pd.DataFrame(lines), name, caption)


def directions_prose(rows, found):
    """What the page on directions says in words: dict of scalars."""
    zero_shot = ran(rows)[ran(rows)["group"] == "zero-shot"]
    raw, centred = (zero_shot[name].median() if len(zero_shot) else np.nan for name in ("ratio", "ratio_centred"))
    asked = {
        "directions_claim_centred": ("ratio_centred", ["fine-tuned", "supervised"]),
        "directions_supervised_centred": ("ratio_centred", ["supervised"]),
        "directions_finetuned_centred": ("ratio_centred", ["fine-tuned"]),
        "directions_finetuned": ("ratio", ["fine-tuned"]),
    }
    return {
        "directions_zero_shot": len(zero_shot),
        "directions_mean_rows": int((zero_shot["mean_link"] > 0.99).sum()) if len(zero_shot) else 0,
        "directions_shrink": number(raw / centred, ".1f"),
    } | {name: text(contrast(rows, *in_tens(rows, found, key), others)) for name, (key, others) in asked.items()}


def in_tens(rows, found, name):
    """A ratio of the models and its draws as powers of ten: (dict of model to number, dict of model to [draws])."""
    return tuple({m: np.log10(x) for m, x in values.items()} for values in pick(rows, found, name))


def directions_claims(rows, found, changes):
    """The statistics of the claims on directions: dict of claim to (value, low, high, n)."""
    values, draws = in_tens(rows, found, "ratio")
    zero_shot = [m for m in ran(rows).index[ran(rows)["group"] == "zero-shot"] if m in changes.index]
    claims = {"of-privileged-directions": contrast(rows, values, draws, ["fine-tuned", "supervised"])}
    for claim, column in (("of-pruning-accuracy", "hit_change"), ("of-pruning-robustness", "er_change")):
        drawn = changes.attrs.get(column, {})
        value, low, high, n = mean_of([m for m in zero_shot if m in drawn], changes.get(column, {}), drawn)
        claims[claim] = (value + 1, low + 1, high + 1, n)
    return claims


# --- concepts

REGIONS = {  # of the published figure: (zero-shot, fine-tuned, supervised) -> its metric
    (True, False, False): "n_concepts_zs_only",
    (True, True, False): "n_concepts_zs_and_ft_only",
    (False, True, False): "n_concepts_ft_only",
    (True, True, True): "n_concepts_all_three",
    (True, False, True): "n_concepts_zs_and_sup_only",
    (False, True, True): "n_concepts_ft_and_sup_only",
    (False, False, True): "n_concepts_sup_only",
}
TOTALS = {"zero-shot": "N_unique_zero-shot", "fine-tuned": "N_unique_finetuned", "supervised": "N_unique_supervised"}


def counted(arrays, threshold=0.9):
    """Unique concepts of each model, classes of the head left out: (dict of model to number, dict to draws)."""
    inside = {m: a["inside"].astype(bool) for m, a in arrays.items()}
    values = {m: float((a["best"][inside[m]] >= threshold - 1e-6).sum()) for m, a in arrays.items()}
    return values, {m: a["drawn"][:, inside[m]].sum(axis=1).astype(float) for m, a in arrays.items()}


def polysemanticity(arrays, seed=0, draws=300):
    """Concepts that a direction encodes, on average: (dict of model to number, dict to draws over its directions)."""
    values = {m: float(a["polysemanticity"].mean()) for m, a in arrays.items()}
    drawn = {
        m: statistics.resampled_means([a["polysemanticity"]], [seed, k], draws)[:, 0]
        for k, (m, a) in enumerate(arrays.items())
    }
    return values, drawn


def combined(first, second, weight=-1.0):
    """first + weight x second, of (values, draws) pairs: for differences of groups that are no plain pairs."""
    values = {m: first[0][m] + weight * second[0][m] for m in first[0]}
    return values, {m: first[1][m] + weight * second[1][m] for m in first[0]}


def venn(rows, arrays, overlap, threshold=0.9):
    """Regions and totals of the concepts of a backbone's three models, the published ones beside ours: DataFrame.

    overlap: `concepts.overlap`. Published: v1 Figure 4 (Broden, the real models): compare the pattern.
    """
    theirs = published.load("outlier_features", index=None)
    theirs = theirs[theirs["table"].str.startswith("v1_Fig4")].set_index(["model", "metric"])["value"]
    lines = []
    for backbone, models in counterparts(rows).items():
        trio = [models.get(group) for group in TOTALS]
        if not all(m in arrays for m in trio):
            continue
        chosen = [arrays[m]["inside"].astype(bool) for m in trio]
        sets = [arrays[m]["best"][c] >= threshold - 1e-6 for m, c in zip(trio, chosen, strict=True)]
        regions = overlap(*sets)
        line = {"backbone": backbone}
        for (group, metric), own in zip(TOTALS.items(), sets, strict=True):
            line[group] = f"{theirs[backbone, metric]} / {int(own.sum())}"
        for pattern, metric in REGIONS.items():
            name = metric.removeprefix("n_concepts_").replace("_", " ").replace(" and ", "+")
            line[name] = f"{theirs[backbone, metric]} / {regions[pattern]}"
        lines.append(line)
    return pd.DataFrame(lines or [{"backbone": "needs zero-shot, fine-tuned and supervised models of a backbone"}])


def kinds(rows, arrays, notes, threshold=0.9):
    """Encoded concepts of each kind, mean over the models of a group: DataFrame of strings."""
    every = list(dict.fromkeys(kind for m in arrays for kind in notes[m]["kinds"]))
    lines = []
    for kind in every:
        line = {"kind": kind}
        for group in dict.fromkeys(rows["group"]):
            models = [m for m in rows.index[rows["group"] == group] if m in arrays]
            of_kind = {m: np.array(notes[m]["kinds"]) == kind for m in models}
            hits = [100 * (arrays[m]["best"][of_kind[m]] >= threshold - 1e-6).mean() for m in models]
            drawn = [100 * arrays[m]["drawn"][:, of_kind[m]].mean(axis=1) for m in models]
            line["tested"] = str(int(of_kind[models[0]].sum())) if models else "–"
            line[f"{group} (%)"] = text(of_draws(np.mean(hits), np.mean(drawn, axis=0), 0), ".0f") if hits else "–"
        lines.append(line)
    return pd.DataFrame(lines)


def sweep(rows, arrays, thresholds=None):
    """Unique concepts against the threshold of AP, a line a group (mean), dotted for random directions."""
    style()
    thresholds = np.linspace(0.6, 1, 81) if thresholds is None else thresholds
    _, axes = plt.subplots(1, 2, figsize=(9.4, 3.6))
    for group in dict.fromkeys(rows["group"]):
        models = [m for m in rows.index[rows["group"] == group] if m in arrays]
        curves, chance = [], []
        for m in models:
            inside = arrays[m]["inside"].astype(bool)
            curves.append((arrays[m]["best"][inside] >= thresholds[:, None]).sum(axis=1))
            chance.append((arrays[m]["best_chance"][:, None] >= thresholds[:, None]).sum(axis=2).mean(axis=0))
        k = LOOKS.get(group, 4)
        if models:
            own, random = np.mean(curves, axis=0), np.mean(chance, axis=0)
            axes[0].plot(thresholds, own, color=CYCLE[k], linestyle=LINES[k], label=group)
            axes[1].plot(thresholds, own - random, color=CYCLE[k], linestyle=LINES[k], label=group)
    for ax, label in zip(axes, ("concepts encoded", "concepts beyond random directions"), strict=True):
        ax.axvline(0.9, color="0.8", linewidth=0.8)
        ax.set(xlabel="threshold of average precision", ylabel=label)
    axes[1].axhline(0, color="0.4", linewidth=0.8, linestyle=":")
    axes[0].legend(fontsize="small")
    return axes


def left_out(notes):
    """The concepts that could not be judged, with their numbers of images with and without: str."""
    dropped = {name: tuple(counts) for note in notes.values() for name, counts in note["dropped"].items()}
    return "; ".join(f"{name} ({yes} with, {no} without)" for name, (yes, no) in dropped.items()) or "none"


def first_direction(rows, notes):
    """The concepts that the direction with the largest singular value finds best: DataFrame of strings."""
    lines = []
    for model in ran(rows).index:
        found = [f"{name} ({sign}{precision:.2f})" for name, precision, sign in notes[model]["first"]]
        lines.append({"model": rows.loc[model, "title"], "best concepts (sign, AP)": "; ".join(found)})
    return pd.DataFrame(lines)


def concepts_claims(rows, unique, poly):
    """The statistics of the claims on concepts: dict of claim to (value, low, high, n)."""
    values, draws = unique
    return {
        "of-concepts-above-finetuned": contrast(rows, values, draws, ["fine-tuned"]),
        "of-concepts-above-supervised": contrast(rows, values, draws, ["supervised"]),
        "of-supervised-above-finetuned": contrast(rows, values, draws, ["fine-tuned"], group="supervised"),
        "of-polysemantic": contrast(rows, *poly, ["fine-tuned", "supervised"]),
        "of-concepts-from-language": contrast(rows, values, draws, ["supervised"], group="captions"),
    }


def concepts_prose(rows, unique):
    """What the page on concepts says in words: dict of scalars."""
    there = ran(rows)
    return {"concepts_models": len(there), "concepts_below_chance": int((there["chance"] >= there["unique"]).sum())}
