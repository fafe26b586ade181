"""What the pages on CLIP-Dissect show: labels pooled over targets, published values beside them, single neurons."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from lib.report import published, record, statistics
from lib.report.figures import CYCLE, LINES, style
from lib.report.tables import Table, not_run, number, plain

NAMES = {
    "cos": "cos",
    "cos_cubed": "cos cubed",
    "rank_reorder": "rank reorder",
    "wpmi": "WPMI",
    "soft_wpmi": "SoftWPMI",
}
PUBLISHED_NAMES = {"cos_similarity": "cos", "rank_reorder": "rank reorder", "wpmi": "WPMI", "soft_wpmi": "SoftWPMI"}
PUBLISHED_PROBES = {
    "cifar100_train": "CIFAR-100",
    "broden": "Broden",
    "imagenet_val": "ImageNet val",
    "imagenet_broden": "ImageNet + Broden",
}
SIMILARITY = "soft_wpmi"
USUAL, UNLIKE = ("val", "web"), ("habitat", "sketch")  # probes like the target's training images, and others


# --- gathering


records, arrays, if_possible = record.of_run, record.arrays_of_run, record.if_possible


def pooled(found, name):
    """A metric of all targets' neurons together: float64 [neurons], empty where none has it. found: `arrays`."""
    parts = [a[name] for a in found.values() if name in a]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def cell(values, spec=".1f", seed=0):
    """A mean over neurons with its 95 % bootstrap interval, as text; a dash for nothing."""
    if not len(values) or not np.isfinite(values).any():
        return "–"
    mean, low, high, _ = statistics.interval(values, seed)
    return f"{number(mean, spec)} [{number(low, spec)}, {number(high, spec)}]"


def grid(found, pattern, probes, similarities, spec=".1f", seed=0):
    """Lines of a table, one a similarity: a cell a probe. pattern: name of a metric with {probe} and {name}."""
    lines = []
    for name in similarities:
        cells = {p: cell(pooled(found, pattern.format(probe=p, name=name)), spec, seed) for p in probes}
        lines.append({"similarity": NAMES[name]} | cells)
    return lines


# --- Tables 1 and 3


def by_probe(run, rows, found, probes, concept_sets, name, caption, seed=0):
    """Table 1's shape: SoftWPMI by probe and concept set, over the neurons of all targets."""
    lines = []
    for probe in probes:
        for concepts in concept_sets:
            at, floor = f"{probe}/{concepts}/{SIMILARITY}", rows.get(f"floor/{concepts}")
            judge = rows.get(f"judge_floor/{concepts}")
            line = {"probe": probe, "concepts": concepts}
            line["right name (%)"] = cell(pooled(found, f"top1/{at}"), seed=seed)
            line["true trait (%)"] = cell(pooled(found, f"true/{at}"), seed=seed)
            line["CLIP cos"] = cell(pooled(found, f"clip_cos/{at}"), ".3f", seed)
            line["random"] = number(None if floor is None else floor.mean(), ".3f")
            line["judge cos"] = cell(pooled(found, f"judge_cos/{at}"), ".3f", seed)
            line["random, judge"] = number(None if judge is None else judge.mean(), ".3f")
            lines.append(line)
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def by_similarity(run, found, probes, similarities, name, caption, seed=0):
    """Table 3's shape: three measures by similarity and probe, over the neurons of all targets."""
    measures = {
        "right name (%)": ("top1/{probe}/species/{name}", ".1f"),
        "true trait (%)": ("true/{probe}/descriptors/{name}", ".1f"),
        "CLIP cos, descriptors": ("clip_cos/{probe}/descriptors/{name}", ".3f"),
    }
    lines = []
    for measure, (pattern, spec) in measures.items():
        lines += [{"measure": measure} | line for line in grid(found, pattern, probes, similarities, spec, seed)]
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def theirs(table):
    """Rows of one published table, values as numbers where they are: DataFrame."""
    frame = published.load("clip_dissect", index=None)
    return frame[frame["table"] == table].reset_index(drop=True)


def published_by_probe(name, caption):
    """Table 1 as it can be had: re-executions by others, and reprints."""
    frame = theirs("Table1")
    frame = frame[~frame["metric"].str.contains("unmasked")]
    metrics = {"clip_cos": "CLIP cos", "mpnet_cos": "mpnet cos", "top1_acc_pct": "right name (%)"}
    lines = [
        {
            "method": row.method,
            "probe": row.d_probe,
            "concepts": row.concept_set,
            "measure": metrics[row.metric],
            "value": str(row.value),
            "source": "re-execution by others" if "rerun" in row.source else "reprint",
        }
        for row in frame.itertuples()
    ]
    return plain(pd.DataFrame(lines), name, caption)


def published_by_similarity(name, caption):
    """Table 3 from the output of the official notebook."""
    frame = theirs("Table3")
    frame = frame[frame["source"].str.startswith("official") & frame["method"].isin(PUBLISHED_NAMES)]
    lines = []
    for metric, heading in {
        "top1_acc_pct": "right name (%)",
        "mpnet_cos": "mpnet cos, 20k words",
        "clip_cos": "CLIP cos, 20k words",
    }.items():
        part = frame[frame["metric"] == metric].pivot(index="method", columns="d_probe", values="value")
        for method, label in PUBLISHED_NAMES.items():
            cells = {shown: str(part.loc[method, probe]) for probe, shown in PUBLISHED_PROBES.items()}
            lines.append({"measure": heading, "similarity": label} | cells)
    return plain(pd.DataFrame(lines), name, caption)


def trust(run, rows, found, similarities, name, caption, probe="web", seed=0):
    """What else can be measured of labels: rank, AUC of the score, held-out images, stability."""
    lines = []
    for similarity in similarities:
        at = f"{probe}/species/{similarity}"
        auc = rows.get(f"auc/{at}")
        lines.append(
            {
                "similarity": NAMES[similarity],
                "mean rank": cell(pooled(found, f"rank/{at}"), ".2f", seed),
                "AUC of the score": "–" if auc is None else f"{auc.min():.2f} to {auc.max():.2f}",
                "correlation, held out": cell(pooled(found, f"correlation/{at}"), ".2f", seed),
                "AUPRC, held out": cell(pooled(found, f"auprc/{at}"), ".2f", seed),
                "stable, names (%)": cell(pooled(found, f"stability/{at}"), seed=seed),
                "stable, descriptors (%)": cell(
                    pooled(found, f"stability/{probe}/descriptors/{similarity}"), seed=seed
                ),
            }
        )
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def probe_size(found, similarities, seed=0):
    """Right names against the number of probing images a class, with bootstrap bands over neurons."""
    style()
    _, ax = plt.subplots(figsize=(6.4, 3.8))
    sizes = sorted({int(k.split("/")[1]) for a in found.values() for k in a if k.startswith("top1/")})
    for i, name in enumerate(similarities):
        points = [statistics.interval(pooled(found, f"top1/{m}/{name}"), seed)[:3] for m in sizes]
        mean, low, high = np.array(points).T
        ax.plot(sizes, mean, label=NAMES[name], color=CYCLE[i], linestyle=LINES[i], marker="o", markersize=4)
        ax.fill_between(sizes, low, high, color=CYCLE[i], alpha=0.12, linewidth=0)
    ax.set(xscale="log", xlabel="probing images a class", ylabel="right name (%)", ylim=(0, 100))
    ax.set_xticks(sizes, [str(m) for m in sizes])
    ax.minorticks_off()
    ax.legend(fontsize="small")
    return ax


# --- hidden layers


def depth(found):
    """How many layers the records of hidden layers have, at most."""
    return max((int(k.split("/")[1]) for a in found.values() for k in a if k.startswith("between/")), default=0)


def hidden_layers(run, found, name, caption, seed=0):
    """Labels of hidden neurons by SoftWPMI against Network Dissection's truth, a line a layer."""
    lines = []
    for k in range(1, depth(found) + 1):
        at = f"{k}/{SIMILARITY}"
        measures = {
            "best IoU": (f"iou_best/{k}", ".3f"),
            "same as by IoU (%)": (f"same/{at}", ".1f"),
            "shuffled": (f"same_chance/{at}", ".1f"),
            "same part (%)": (f"part/{at}", ".1f"),
            "shuffled, part": (f"part_chance/{at}", ".1f"),
            "stable (%)": (f"stability/{k}", ".1f"),
            "same with val (%)": (f"between/{k}", ".1f"),
        }
        line = {"layer": str(k), "neurons": str(len(pooled(found, f"between/{k}")))}
        lines.append(line | {h: cell(pooled(found, metric), spec, seed) for h, (metric, spec) in measures.items()})
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def hidden_similarities(found, similarities, seed=0):
    """Agreement with the IoU label by layer and similarity, shuffled labels beside; correlation on held-out images."""
    style()
    _, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    layers = np.arange(1, depth(found) + 1)
    for i, name in enumerate(similarities):
        for ax, metric in zip(axes, ("same", "correlation"), strict=True):
            points = [pooled(found, f"{metric}/{k}/{name}") for k in layers]
            points = [statistics.interval(x, seed)[:3] if len(x) else (np.nan,) * 3 for x in points]
            mean, low, high = np.array(points).T
            place = layers + 0.07 * (i - 2)
            look = {"color": CYCLE[i], "linestyle": LINES[i], "marker": "o", "markersize": 4}
            ax.errorbar(place, mean, yerr=[mean - low, high - mean], label=NAMES[name], elinewidth=1, **look)
    chance = [np.nanmean([pooled(found, f"same_chance/{k}/{n}").mean() for n in similarities]) for k in layers]
    axes[0].plot(layers, chance, color="0.5", linestyle=":", label="shuffled labels")
    axes[0].set(xlabel="stage or block", ylabel="same label as by IoU (%)", ylim=(0, None), xticks=layers)
    axes[1].set(xlabel="stage or block", ylabel="correlation with held-out images", xticks=layers)
    axes[0].legend(fontsize="x-small")
    return axes


def between_probes(run, found, name, caption, seed=0):
    """How often two probes give a neuron the same label: published (by layer of ResNet-50), and here by stage."""
    frame = theirs("probe sensitivity")
    names = frame["method"].str.extract(r"(conv1|layer\d)")[0]
    ours = [cell(pooled(found, f"between/{k}"), ".1f", seed) for k in range(1, depth(found) + 1)]
    count = max(len(frame), len(ours) + 1)
    pad = ["–", *ours] + ["–"] * (count - len(ours) - 1)  # conv1 has no counterpart here
    lines = {"layer": names, "ResNet-50, Broden with and without ImageNet, published (%)": frame["value"].astype(str)}
    return plain(pd.DataFrame({**lines, "web and val, ours (%)": pad[: len(frame)]}), name, run.caption(caption))


# --- Table 2


def netdissect_table(run, found, name, caption, seed=0):
    """CLIP-Dissect and Network Dissection on the same neurons, published and ours."""
    frame = theirs("Table2")
    measures = {  # ours -> heading, the published metric, formats
        "top1": ("right name (%)", "top1_acc_pct", ".1f", ".2f"),
        "top5": ("among five (%)", None, ".1f", ""),
        "clip_cos": ("CLIP cos", "clip_cos", ".3f", ".4f"),
        "judge_cos": ("second cos", "mpnet_cos", ".3f", ".4f"),
    }
    methods = {"CLIP-Dissect": ("clip_dissect", "CLIP-Dissect (soft_wpmi)")}
    methods |= {"Network Dissection": ("netdissect", "Network Dissection")}
    lines = []
    for label, (way, method) in methods.items():
        line, printed = {"method": label}, frame[frame["method"] == method].set_index("metric")["value"]
        for what, (heading, metric, spec, published_spec) in measures.items():
            if metric:
                line[f"{heading}, published"] = number(float(printed[metric]), published_spec)
            line[f"{heading}, ours"] = cell(pooled(found, f"{what}/{way}"), spec, seed)
        lines.append(line)
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def scorings(places, reason, classes, name, caption):
    """Network Dissection's Table 2 by both scorings. places: of `released.places`, or None and the reason why."""
    lines = []
    if places is None:
        return not_run(reason, name, caption)
    for scoring in ("released", "mended"):
        hits = int(places[scoring].sum())
        line = {"scoring": scoring, "right": str(hits), "classes": str(classes)}
        lines.append(line | {"accuracy (%)": number(100 * hits / classes)})
    return plain(pd.DataFrame(lines), name, caption)


def lost(places, broden):
    """How many classes with a hyphen have a label in Broden, for the prose: int, or a dash. broden: its labels."""
    if places is None or broden is None:
        return "–"
    known = set(broden)
    return sum("-" in name and name.replace("_", " ") in known for name in places["name"])


def gained(places, reason, name, caption):
    """The classes that only the mended scoring counts as right."""
    if places is None:
        return not_run(reason, name, caption)
    names = places[places["mended"] & ~places["released"]]["name"].tolist()
    half = (len(names) + 1) // 2
    columns = {"class": names[:half], "class, continued": names[half:] + [""] * (2 * half - len(names))}
    return Table(pd.DataFrame(columns), name, caption)


def published_layers(found, reason, name, caption):
    """What the published label files hold by layer. found: dict of target to DataFrame of `released.by_layer`."""
    if found is None:
        return not_run(reason, name, caption)
    frame = pd.concat([part.assign(target=target) for target, part in found.items()])
    columns = {"target": "target", "layer": "layer", "neurons": "neurons", "labels": "different labels"}
    columns |= {"interpretable": "score above 0.16 (%)", "quantised": "score a multiple of 2^-15 (%)"}
    return plain(frame[list(columns)].rename(columns=columns), name, caption)


# --- missing concepts


def missing_table(run, found, similarities, name, caption, seed=0):
    """Labels with the class's images and without, its name and without, a line a similarity."""
    lines = []
    for similarity in similarities:
        measures = {
            "right name (%)": ("present", ".1f"),
            "no image of the class": ("absent", ".1f"),
            "shared traits, no such word": ("kin", ".2f"),
            "the sibling (%)": ("sibling", ".1f"),
        }
        cells = {h: cell(pooled(found, f"{metric}/{similarity}"), spec, seed) for h, (metric, spec) in measures.items()}
        lines.append({"similarity": NAMES[similarity]} | cells)
    chance = {"similarity": "a random class", "right name (%)": "–", "no image of the class": "–"}
    chance |= {"shared traits, no such word": cell(pooled(found, "kin_chance"), ".2f", seed), "the sibling (%)": "–"}
    return plain(pd.DataFrame([*lines, chance]), name, run.caption(caption))


def scores_without(found, similarity=SIMILARITY):
    """Best scores of neurons when the right word is among the concepts and when it is not: two histograms."""
    style()
    _, ax = plt.subplots(figsize=(6.4, 3.4))
    given = {"the right word is there": "score_word", "it is missing": "score_no_word"}
    values = {label: pooled(found, f"{what}/{similarity}") for label, what in given.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), 30)
    for i, (label, scores) in enumerate(values.items()):
        look = {"color": CYCLE[i], "alpha": 0.55, "hatch": "//" if i else None, "edgecolor": "white"}
        ax.hist(scores, bins=bins, label=label, **look)
    ax.set(xlabel=f"best score by {NAMES[similarity]}", ylabel="neurons")
    ax.legend()
    return ax


def word_sets(run, rows, found, name, caption, seed=0):
    """SoftWPMI with ever larger concept sets, a line a set."""
    lines = []
    for concepts in ("words", "words+descriptors", "words+descriptors+species"):
        lines.append(
            {
                "concepts": concepts.replace("+", ", "),
                "CLIP cos": cell(pooled(found, f"clip_cos/{concepts}"), ".3f", seed),
                "random": number(rows[f"floor/{concepts}"].mean(), ".3f"),
                "judge cos": cell(pooled(found, f"judge_cos/{concepts}"), ".3f", seed),
                "random, judge": number(rows[f"judge_floor/{concepts}"].mean(), ".3f"),
                "score": cell(pooled(found, f"best/{concepts}"), ".2f", seed),
            }
        )
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def said_instead(run, found, classes, descriptors, name, caption, most=8, similarity=SIMILARITY):
    """Some neurons of the first target with what they are called when their word is missing."""
    first = next(iter(found.values()))
    lines = []
    for k, other in list(enumerate(first[f"other/{similarity}"].tolist()))[:most]:
        shared = [text for text in descriptors[k] if other >= 0 and text in descriptors[other]]
        lines.append({"class": classes[k], "said instead": classes[other], "traits in common": ", ".join(shared)})
    return Table(pd.DataFrame(lines), name, run.caption(caption))


# --- describing classes


WAYS = {"clip_dissect": "CLIP-Dissect", "netdissect": "Network Dissection", "random": "labels of other units"}


def descriptions(run, found, name, caption, seed=0):
    """Classes said by descriptions, a line a way, over the images of all targets."""
    frame, lines = theirs("A.6"), []
    for way, label in WAYS.items():
        line = {"labels": label}
        for what, heading, metric in (
            ("same_true", "the image's class (%)", "gt"),
            ("same_predicted", "the predicted class (%)", "pred"),
        ):
            value = _published_description(frame, label, metric)
            line[f"{heading}, published"] = value
            line[f"{heading}, ours"] = cell(pooled(found, f"{what}/{way}"), ".1f", seed)
        line["trait of the predicted class (%)"] = cell(pooled(found, f"holds/{way}"), ".1f", seed)
        lines.append(line)
    return plain(pd.DataFrame(lines), name, run.caption(caption))


def _published_description(frame, label, metric):
    there = frame["method"].str.contains(label, regex=False) & frame["metric"].str.lower().str.contains(metric)
    return str(frame[there]["value"].iloc[0]) if there.any() else "–"


def described_images(data, shown, columns=4):
    """Images of the run with their predicted class, the description and the class said by it.

    shown: list of (index of the image, predicted, description, said).
    """
    style()
    rows = -(-len(shown) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.9 * rows), squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for ax, (i, predicted, words, said) in zip(axes.ravel(), shown, strict=False):
        ax.imshow(data.image(i))
        ax.set_title(f"{predicted}: {words}\nread as {said}", fontsize=8)
    return axes


def described(data, found, words, count=8, seed=0):
    """Some images of the first target for `described_images`: a list. words: the concepts."""
    first = next(iter(found.values()))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:count])
    label, said = first["label/clip_dissect"], first["said/clip_dissect"]
    return [(int(i), data.classes[first["predicted"][i]], words[label[i]], data.classes[said[i]]) for i in chosen]


# --- time


def stages_of_time(run, rows, name, caption):
    """Seconds of each step for all neurons of a target's layers, a line a target."""
    headings = {
        "neurons": "neurons",
        "read": "read images",
        "clip": "CLIP",
        "target": "activations",
        "ours": "labels, ours",
        "released": "labels, released way",
        "netdissect": "Network Dissection",
        "equal": "same labels (%)",
    }
    there = {k: h for k, h in headings.items() if k in rows}
    frame = rows[["title", *there]].rename(columns={"title": "target", **there})
    formats = {"neurons": ".0f", "same labels (%)": ".1f"}
    return plain(frame.reset_index(drop=True), name, run.caption(caption), formats)


def ratios(rows, name, caption):
    """The similarity functions on random embeddings: seconds both ways, their ratio, labels alike."""
    line, lines = rows.iloc[0], []
    for similarity in NAMES:
        if f"ratio/{similarity}" in rows:
            lines.append(
                {
                    "similarity": NAMES[similarity],
                    "released way (s)": number(line[f"released/{similarity}"]),
                    "ours (s)": number(line[f"ours/{similarity}"]),
                    "ratio": number(line[f"ratio/{similarity}"], ".1f"),
                    "same labels (%)": number(line[f"equal/{similarity}"], ".1f"),
                }
            )
    return plain(pd.DataFrame(lines), name, caption)


# --- one neuron


def top_images(data, places, values, columns=5):
    """The images that activate a neuron most. data: the probe; places: their indices; values: activations."""
    style()
    rows = -(-len(places) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(1.9 * columns, 2.1 * rows), squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for ax, i, value in zip(axes.ravel(), places, values, strict=False):
        ax.imshow(data.image(int(i)))
        ax.set_title(f"{value:.2f}", fontsize=9)
    return axes


def neuron_labels(run, entry, name, caption):
    """The labels of one neuron by each similarity. entry: its record."""
    words, metrics = entry["notes"]["words"], entry["metrics"]
    lines = []
    for similarity, best in words.items():
        shown = {"score": ("best", ".2f"), "stable (%)": ("stability", ".0f")}
        shown |= {"correlation, held out": ("correlation", ".2f"), "AUPRC, held out": ("auprc", ".2f")}
        line = {"similarity": NAMES[similarity], "label": best[0], "next": "; ".join(best[1:])}
        lines.append(line | {h: of_record(metrics.get(f"{k}/{similarity}"), spec) for h, (k, spec) in shown.items()})
    return Table(pd.DataFrame(lines), name, run.caption(caption))


def of_record(metric, spec=".2f"):
    """A metric of a record with its interval, as text; a dash where there is none."""
    if metric is None or metric["value"] is None:
        return "–"
    text = number(metric["value"], spec)
    return text if metric["low"] is None else f"{text} [{number(metric['low'], spec)}, {number(metric['high'], spec)}]"


def layer_overview(run, entry, name, caption, most=12):
    """The neurons of a layer with the highest scores, to choose one from. entry: the record of one neuron."""
    found, words = record.arrays(entry), entry["notes"]["layer_words"]
    order = np.argsort(-np.nan_to_num(found["score"], nan=-np.inf), kind="stable")[:most]
    lines = [
        {
            "unit": str(k),
            "label": words[k],
            "score": number(found["score"][k]),
            "stable (%)": number(found["stability"][k] if "stability" in found else None, ".0f"),
        }
        for k in order.tolist()
    ]
    return Table(pd.DataFrame(lines), name, run.caption(caption))


def score_and_stability(entry):
    """A point a neuron: its best SoftWPMI score, and how stable its label is; the chosen one is marked."""
    style()
    found, unit = record.arrays(entry), entry["notes"]["unit"]
    _, ax = plt.subplots(figsize=(6, 3.6))
    ax.scatter(found["score"], found["stability"], s=14, color=CYCLE[0], alpha=0.7, label="neurons of the layer")
    ax.scatter(
        [found["score"][unit]], [found["stability"][unit]], marker="D", s=60, color=CYCLE[3], label=f"unit {unit}"
    )
    ax.set(xlabel="best score by SoftWPMI", ylabel="same label when resampled (%)", ylim=(0, 104))
    ax.legend(fontsize="small", loc="lower right")
    return ax


# --- claims


def difference(values, others, seed=0):
    """Mean of a paired difference over neurons (or images) with its interval: (value, low, high, n)."""
    return statistics.interval(np.asarray(values) - np.asarray(others), seed)


def over_probes(found, pattern, name, probes):
    """A metric of every neuron, averaged over probes: float64 [neurons]."""
    parts = [pooled(found, pattern.format(probe=p, name=name)) for p in probes]
    return np.mean([p for p in parts if len(p)], axis=0) if any(len(p) for p in parts) else np.full(1, np.nan)


def dissection_claims(found, hidden, probes, seed=0):
    """Statistics of the claims on Tables 1 and 3: dict of claim to (value, low, high, n)."""
    right = "top1/{probe}/species/{name}"
    soft = over_probes(found, right, SIMILARITY, probes)
    claims = {
        f"cd-soft-above-{label}": difference(soft, over_probes(found, right, other, probes), seed)
        for label, other in (("cos", "cos"), ("rank", "rank_reorder"), ("wpmi", "wpmi"))
    }
    usual, unlike = (
        over_probes(found, right, SIMILARITY, [p for p in probes if p in group]) for group in (USUAL, UNLIKE)
    )
    claims["cd-probe-matters"] = difference(usual, unlike, seed)
    claims["cd-score-tells"] = score_tells(found, probes, seed)
    same, chance = (pooled_layers(hidden, f"{what}/{{k}}/{SIMILARITY}") for what in ("same", "same_chance"))
    claims["cd-hidden-truth"] = difference(same, chance, seed)
    return claims


def pooled_layers(found, pattern):
    """A metric of the neurons of all layers: float64 [neurons]; nan where none has it."""
    parts = [pooled(found, pattern.format(k=k)) for k in range(1, depth(found) + 1)]
    return np.concatenate(parts) if any(len(p) for p in parts) else np.full(1, np.nan)


def score_tells(found, probes, seed=0, resamples=500):
    """AUC of SoftWPMI's score as a sign of the right name, less a half: mean over targets and probes, with interval."""
    groups = []
    for a in found.values():
        for p in probes:
            at = f"{p}/species/{SIMILARITY}"
            if f"top1/{at}" in a:
                groups.append((a[f"score/{at}"], a[f"top1/{at}"] > 0))
    if not groups:
        return np.nan, np.nan, np.nan, 0
    rng = np.random.default_rng(seed)
    draws = []
    for score, right in groups:
        drawn = rng.integers(len(score), size=(resamples, len(score)))
        draws.append(_auc(score[drawn], right[drawn]))
    with warnings.catch_warnings():  # a target without a right label has no AUC in any draw
        warnings.simplefilter("ignore", RuntimeWarning)
        value, draws = np.nanmean([_auc(*group) for group in groups]), np.nanmean(draws, axis=0)
    low, high = np.nanquantile(draws, [0.025, 0.975]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return float(value) - 0.5, float(low) - 0.5, float(high) - 0.5, sum(len(score) for score, _ in groups)


def _auc(score, right):
    n, m = right.sum(-1), (~right).sum(-1)
    u = (stats.rankdata(score, axis=-1) * right).sum(-1) - n * (n + 1) / 2
    return np.where(n * m > 0, u / np.maximum(n * m, 1), np.nan)


def places_claims(found, seed=0):
    """The statistic of Table 2's claim: CLIP-Dissect's share of right names less Network Dissection's."""
    pair = (pooled(found, f"top1/{way}") for way in ("clip_dissect", "netdissect"))
    return {"cd-above-netdissect": difference(*pair, seed)}


def missing_claims(found, of_sets, classes, seed=0):
    """Statistics of the claims on missing concepts; chance is one in the number of classes."""
    absent = pooled(found, f"absent/{SIMILARITY}")
    large, small = (pooled(of_sets, f"judge_cos/{s}") for s in ("words+descriptors+species", "words"))
    return {
        "cd-missing-images": difference(absent, np.full(len(absent), 100.0 / classes), seed),
        "cd-larger-set": difference(large, small, seed),
        "cd-next-best": difference(pooled(found, f"kin/{SIMILARITY}"), pooled(found, "kin_chance"), seed),
    }


def describe_claims(found, seed=0):
    """Statistics of the claims on descriptions, over the images of all targets."""
    ways = {way: pooled(found, f"same_predicted/{way}") for way in WAYS}
    return {
        "cd-describes-class": difference(ways["clip_dissect"], ways["random"], seed),
        "cd-describes-better": difference(ways["clip_dissect"], ways["netdissect"], seed),
    }


# --- numbers for the prose


def with_interval(values, others, seed=0, spec=".1f"):
    """A paired difference with its interval, as text; a dash where one of the two is not there."""
    if not len(values) or np.shape(values) != np.shape(others):
        return "–"
    value, low, high, _ = difference(values, others, seed)
    return f"{number(value, spec)} [{number(low, spec)}, {number(high, spec)}]"


def dissection_prose(run, rows, found, hidden, seed=0):
    """Names and values for the page on Tables 1 and 3: dict of scalar."""
    accuracy = rows["accuracy"].dropna()
    entry = next(iter(records(run, "dissection").values()))
    at = f"web/species/{SIMILARITY}"
    cubed = [over_probes(found, "top1/{probe}/species/{name}", n, (*USUAL, *UNLIKE)) for n in (SIMILARITY, "cos_cubed")]
    traits = [pooled(found, f"true/web/descriptors/{n}") for n in (SIMILARITY, "cos")]
    return {
        "dissection_cubed": with_interval(*cubed, seed),
        "dissection_traits": with_interval(*traits, seed),
        "dissection_neurons": sum(len(a[f"label/{at}"]) for a in found.values() if f"label/{at}" in a),
        "dissection_accuracy": f"{accuracy.min():.0f} to {accuracy.max():.0f}",
        "dissection_concepts": ", ".join(map(str, entry["notes"]["concepts"].values())),
        "dissection_dead": int(rows[f"dead/{at}"].sum()) if f"dead/{at}" in rows else "–",
        "dissection_stable": number(np.nanmean(pooled_layers(hidden, "stability/{k}")), ".0f"),
    }


def timing_prose(rows, random):
    """Names and values for the page on time: dict of scalar."""
    frame = theirs("abstract").set_index("metric")["value"]
    ours = rows[["read", "clip", "target", "ours"]].sum(axis=1).mean()
    netdissect = rows["netdissect"].mean() if "netdissect" in rows else np.nan
    return {
        "timing_published_minutes": str(frame["time_all_neurons_5_layers_resnet50_minutes"]),
        "timing_published_factor": str(frame["speedup_factor_lower_bound"]),
        "timing_ours": number(ours, ".1f"),
        "timing_netdissect": number(netdissect, ".1f"),
        "timing_factor": number(netdissect / ours, ".1f"),
    }


def missing_prose(rows, found):
    """Names and values for the page on missing concepts: dict of scalar."""
    frame = theirs("Table3")
    right = frame[(frame["method"] == SIMILARITY) & (frame["metric"] == "top1_acc_pct")]
    right = right[right["source"].str.startswith("official")].set_index("d_probe")["value"]
    auc = rows[f"auc/{SIMILARITY}"]
    return {
        "missing_published": str(right["cifar100_train"]),
        "missing_published_val": str(right["imagenet_val"]),
        "missing_auc": f"{auc.min():.2f} to {auc.max():.2f}",
        "missing_absent": number(pooled(found, f"absent/{SIMILARITY}").mean(), ".0f"),
        "missing_chance": number(100 / len(next(iter(found.values()))["fold"]), ".1f"),
    }


def describe_prose(rows, found, words, classes):
    """Names and values for the page on descriptions. words: the concepts; classes: descriptors of each class."""
    frame = theirs("A.6")
    milan = frame[frame["method"].str.startswith("MILAN")].set_index("metric")["value"]
    having = {text: sum(text in texts for texts in classes) for text in words}
    read = [100.0 / max(1, having[words[k]]) for a in found.values() for k in a["label/clip_dissect"].tolist()]
    return {
        "describe_words": len(words),
        "describe_ceiling": number(np.mean(read), ".0f"),
        "describe_milan_true": str(milan["same_as_gt_pct"]),
        "describe_milan_predicted": str(milan["same_as_pred_pct"]),
    }
