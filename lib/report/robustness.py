"""Accuracies under shift, the line of the baseline models, and what goes with effective robustness over models."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.bestiary import SHIFTS
from lib.errors import UserError
from lib.report import outliers, statistics
from lib.report.figures import CYCLE, panels, style
from lib.report.outliers import LOOKS, MARKERS, ran, text
from lib.report.statistics import of_draws
from lib.report.tables import not_run, number, plain

DRAWS = 1000


class Accuracies:
    """Accuracies of models on each split, with draws: of the models of a run and of its baselines.

    arrays: dict of model to {split: [images]}, hits in per cent; the first split is the unshifted one. Draws of a
    split are the same images for all models; splits are drawn independently.
    """

    def __init__(self, arrays, seed=0, draws=DRAWS):
        self.models = list(arrays)
        shifts = sorted(set(next(iter(arrays.values()))) - {"top1"}, key=lambda s: (*SHIFTS, s).index(s))
        self.splits = ["top1", *shifts]
        hits = {s: np.stack([arrays[m][s] for m in self.models]) for s in self.splits}
        self.n = {s: x.shape[1] for s, x in hits.items()}
        means = {s: x.mean(axis=1, dtype=np.float64) for s, x in hits.items()}
        drawn = {s: statistics.resampled_means(x, [seed, k], draws).T for k, (s, x) in enumerate(hits.items())}
        self.value = {s: dict(zip(self.models, x, strict=True)) for s, x in means.items()}
        self.draws = {s: dict(zip(self.models, x, strict=True)) for s, x in drawn.items()}

    @property
    def shifts(self):
        return self.splits[1:]

    def of(self, models, split):
        """Accuracies of some models, and their draws: ([models], [draws, models])."""
        values = np.array([self.value[split][m] for m in models])
        return values, np.stack([self.draws[split][m] for m in models], axis=1)


@dataclass
class Baseline:
    """What a line is fitted on, for one shift: names of models, their accuracies without (x) and with it (y), [models],
    and draws of both, [draws, models], or None where the images are not known."""

    names: list
    x: np.ndarray
    y: np.ndarray
    x_draws: np.ndarray | None = None
    y_draws: np.ndarray | None = None

    def lines(self, fit, axis):
        """The line, and the lines of the draws (the same line where there are no draws)."""
        line = fit(self.x, self.y, axis, self.names)
        return line, line if self.x_draws is None else fit(self.x_draws, self.y_draws, axis)


def own_baselines(accuracies, names):
    """The Baseline of each shift, and of their mean ("mean"), from models of the run: dict of shift to Baseline."""
    x = accuracies.of(names, "top1")
    found = {shift: Baseline(names, x[0], *_turn(accuracies.of(names, shift), x[1])) for shift in accuracies.shifts}
    return found | {"mean": averaged(found)}


def averaged(baselines, leave_out=()):
    """The Baseline of the mean accuracy over the shifts, of models that have them all."""
    kept = [b for shift, b in baselines.items() if shift not in (*leave_out, "mean")]
    names = [n for n in kept[0].names if all(n in b.names for b in kept)]
    at = [[list(b.names).index(n) for n in names] for b in kept]
    y = np.mean([b.y[i] for b, i in zip(kept, at, strict=True)], axis=0)
    if kept[0].x_draws is None:
        return Baseline(names, kept[0].x[at[0]], y)
    y_draws = np.mean([b.y_draws[:, i] for b, i in zip(kept, at, strict=True)], axis=0)
    return Baseline(names, kept[0].x[at[0]], y, kept[0].x_draws[:, at[0]], y_draws)


def testbed_baselines(standard, shifts):
    """The Baseline of each shift from the testbed's table: dict of shift to Baseline, without draws.

    standard: DataFrame of `testbed.baselines`. shifts: dict of our name (a folder's) to the testbed's.
    """
    found = {}
    for name, column in shifts.items():
        there = standard[standard[column].notna()]
        found[name] = Baseline(list(there.index), there["top1"].to_numpy(), there[column].to_numpy())
    return found | {"mean": averaged(found)}


def _turn(pair, x_draws):
    """(y, y_draws) and x_draws in the order of Baseline's fields: y, x_draws, y_draws."""
    return pair[0], x_draws, pair[1]


def effective(accuracies, baselines, robustness, axis="logit", line="of shifts", leave_out=()):
    """Effective robustness of every model: (dict of shift and "mean" to dict of model to (value, draws), lines).

    baselines: dict of shift to Baseline. robustness: the module of the method. line: "of shifts" averages the shifts'
    values, "of mean" fits a line to the mean accuracy. Where the baselines have draws, the images are drawn again for
    the model and for them alike, and the line is fitted anew in each draw. leave_out: shifts that the mean leaves out.
    """
    kept = [s for s in accuracies.shifts if s not in leave_out]
    wanted = {shift: ([shift], baselines[shift]) for shift in accuracies.shifts}
    if line == "of mean":
        wanted["mean"] = (kept, averaged(baselines, leave_out))
    found, lines = {}, {}
    for name, (shifts, baseline) in wanted.items():
        lines[name], drawn = baseline.lines(robustness.fit, axis)
        found[name] = {}
        for m in accuracies.models:
            y = np.mean([accuracies.value[s][m] for s in shifts])
            draws = np.mean([accuracies.draws[s][m] for s in shifts], axis=0)
            value = float(robustness.effective(accuracies.value["top1"][m], y, lines[name]))
            found[name][m] = (value, robustness.effective(accuracies.draws["top1"][m], draws, drawn))
    if line == "of shifts":
        parts = {m: [found[s][m] for s in kept] for m in accuracies.models}
        found["mean"] = {m: tuple(np.mean(x, axis=0) for x in zip(*p, strict=True)) for m, p in parts.items()}
    return found, lines


def robustness_rows(rows, accuracies, found):
    """Rows with the effective robustness under each shift and its mean, each with its interval."""
    rows = rows.copy()
    for shift, models in found.items():
        for model in rows.index.intersection(list(models)):
            value, draws = models[model]
            value, low, high, n = of_draws(value, draws, accuracies.n["top1"])
            for suffix, x in (("", value), ("_low", low), ("_high", high), ("_n", n)):
                rows.loc[model, f"er_{shift}{suffix}"] = x
    return rows


def line_table(accuracies, baselines, robustness, axis, name, caption):
    """The baseline lines in numbers: slope, intercept, fit and what was left out; intervals where images are known."""
    lines = []
    for shift in accuracies.shifts:
        line, drawn = baselines[shift].lines(robustness.fit, axis)
        cells = {"slope": "slope", "intercept": "intercept", "R²": "r2"}
        known = [] if drawn is line else drawn  # of the testbed the images are not known
        values = {title: (getattr(line, key), getattr(known, key, [])) for title, key in cells.items()}
        lines.append(
            {"shift": shift}
            | {title: text(of_draws(value, draws, 0)) for title, (value, draws) in values.items()}
            | {"baseline models": str(line.n), "left out (0 or 100 %)": ", ".join(line.dropped) or "none"}
        )
    return plain(pd.DataFrame(lines), name, caption)


def against_baseline(accuracies, baselines, rows, lines):
    """Accuracy under each shift against accuracy without it, with the baseline line; a panel a shift."""
    style()
    shifts = [s for s in accuracies.shifts if s in lines]
    axes = panels(len(shifts), 3, (3.0, 2.9))
    grid = np.linspace(2, 98, 97)
    for ax, shift in zip(axes, shifts, strict=True):
        ax.plot(grid, lines[shift](grid), color="0.4", linewidth=1, label="baseline line")
        ax.scatter(baselines[shift].x, baselines[shift].y, s=14, facecolor="none", edgecolor="0.4", label="baselines")
        for group in dict.fromkeys(rows["group"]):
            models = [m for m in rows.index[rows["group"] == group] if m in accuracies.models]
            x, _ = accuracies.of(models, "top1") if models else (np.array([]), None)
            y, _ = accuracies.of(models, shift) if models else (np.array([]), None)
            ax.scatter(x, y, s=16, color=CYCLE[LOOKS.get(group, 4)], marker=MARKERS[group], label=group)
        ax.set(title=shift, xlabel="unshifted (%)", ylabel="shifted (%)", xlim=(0, 100), ylim=(0, 100))
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    return axes


def correlations(x, y, models):
    """Pearson's and Spearman's coefficients over models, and their intervals.

    x, y: dict of model to (value, draws). Returns DataFrame: method, n, value, images (interval when the images are
    drawn again), models (when the models are), p (permutation).
    """
    models = [m for m in models if m in x and m in y and np.isfinite(x[m][0]) and np.isfinite(y[m][0])]
    lines = []
    for method in ("pearson", "spearman") if len(models) >= 3 else ():
        a, b = (np.array([values[m][0] for m in models]) for values in (x, y))
        draws = [np.stack([values[m][1] for m in models], axis=1) for values in (x, y)]
        length = min(len(d) for d in draws)
        images = statistics.coefficient(draws[0][:length], draws[1][:length], method)
        value = float(statistics.coefficient(a, b, method))
        line = {"method": method, "n": len(models), "value": value, "images": of_draws(value, images, len(models))}
        low, high = statistics.over_models(a, b, method)
        lines.append({**line, "models": (value, low, high, len(models)), "p": statistics.permutation_p(a, b, method)})
    return pd.DataFrame(lines)


def partial(x, y, z, models):
    """Spearman's correlation of x and y with z taken out, over models: float; nan below 4 models.

    Ranks of x and y minus what a line in the ranks of z predicts.
    """
    from scipy import stats

    models = [m for m in models if all(m in v and np.isfinite(v[m][0]) for v in (x, y, z))]
    if len(models) < 4:
        return np.nan
    a, b, c = (stats.rankdata([v[m][0] for m in models]) for v in (x, y, z))
    rest = [r - np.polyval(np.polyfit(c, r, 1), c) for r in (a, b)]
    return float(statistics.coefficient(*rest))


# --- what the pages ask of it

TESTBED = {
    "imagenet-v2": "V2",
    "imagenet-r": "R",
    "imagenet-sketch": "Sketch",
    "objectnet": "ObjectNet",
    "imagenet-a": "A",
}
CHANGES = {
    "top1": "top-1",
    "hit_pruned": "top-1, pruned",
    "hit_change": "change",
    "er_mean": "ER",
    "er_change": "change of ER",
}
SUMMARY = {
    "top1": "top-1",
    "er_mean": "mean ER",
    "raw": "K",
    "centred": "K, centred",
    "unique": "concepts",
    "chance": "random directions",
}


def baseline_names(dataset):
    """The models that the line is fitted on at the miniature: supervised ones of all sizes and amounts of data."""
    from lib.models import catalogue

    if dataset != "bestiary":
        return []
    rows = catalogue("comparison baselines")
    return list(rows.index[rows["objective"] == "supervised"])


def baselines(accuracies, dataset, testbed):
    """The Baseline of each shift: from models of the run at the miniature, from the testbed elsewhere.

    Raises UserError for a shift that the testbed does not have, or a testbed that cannot be had.
    """
    if dataset == "bestiary":
        return own_baselines(accuracies, [m for m in baseline_names(dataset) if m in accuracies.models])
    strange = [shift for shift in accuracies.shifts if shift not in TESTBED]
    if strange:
        raise UserError(
            f"The testbed has no baseline for {', '.join(strange)}; name the shifts' folders {', '.join(TESTBED)}."
        )
    return testbed_baselines(testbed.baselines(), {shift: TESTBED[shift] for shift in accuracies.shifts})


def fixed_lines(arrays, names, robustness, seed=0, axis="logit"):
    """The lines of baseline models from their records' arrays: dict of shift to Line; {} without baselines."""
    names = [n for n in names if n in arrays]
    if len(names) < 3:
        return {}
    accuracies = Accuracies({n: arrays[n] for n in names}, seed, draws=2)
    found = own_baselines(accuracies, names)
    return {shift: robustness.fit(found[shift].x, found[shift].y, axis, names) for shift in accuracies.shifts}


def pruned_change(rows, arrays, notes, lines, robustness, share=0.8):
    """Rows with top-1 and mean effective robustness before and after pruning a share by importance.

    The lines are held fixed. Draws of the changes are in `.attrs` under the columns' names: dict of model to draws.
    """
    rows, drawn = rows.copy(), {"hit_change": {}, "er_change": {}}
    for model in ran(rows).index:
        found, note = arrays.get(model, {}), notes.get(model, {})
        if "hit" not in found or share not in note["shares"] or 0.0 not in note["shares"]:
            continue
        at = [note["shares"].index(0.0), note["shares"].index(share)]
        way, moved = note["ways"].index("importance"), note["shift_ways"].index("importance")
        top1, top1_draws = found["hit"][way, at], found["draws_hit"][:, way][:, at]
        _put(rows, model, "hit_pruned", top1[1], top1_draws[:, 1])
        drawn["hit_change"][model] = top1_draws[:, 1] - top1_draws[:, 0]
        _put(rows, model, "hit_change", top1[1] - top1[0], drawn["hit_change"][model])
        shifts = [s for s in lines if f"{s}_hit" in found]
        if not shifts:
            continue
        er = np.mean([robustness.effective(top1, found[f"{s}_hit"][moved, at], lines[s]) for s in shifts], axis=0)
        er_draws = [robustness.effective(top1_draws, found[f"{s}_draws"][:, at], lines[s]) for s in shifts]
        er_draws = np.mean(er_draws, axis=0)
        drawn["er_change"][model] = er_draws[:, 1] - er_draws[:, 0]
        _put(rows, model, "er_mean", er[0], er_draws[:, 0])
        _put(rows, model, "er_change", er[1] - er[0], drawn["er_change"][model])
    for column in ("hit_pruned", "hit_change", "er_mean", "er_change", "top1"):
        rows[column] = rows[column] if column in rows else np.nan
    rows.attrs |= drawn
    return rows


def _put(rows, model, column, value, draws):
    value, low, high, _ = of_draws(value, draws, 0)
    rows.loc[model, [column, f"{column}_low", f"{column}_high"]] = value, low, high


def public_head(load, of_head, shares):
    """The row of `of_head` on public photographs with their captions as the head: (result, ""), or ({}, why not)."""
    try:
        found = load()
    except UserError as error:
        return {}, str(error)
    photographs, captions = (np.asarray(rows[:], dtype=np.float64) for rows in found.values())
    return of_head(photographs, captions, np.zeros(len(captions)), np.arange(len(photographs)), shares), ""


def choices(rows, accuracies, found, robustness):
    """Mean effective robustness on other axes, without the adversarial shift, and by one line: DataFrame of strings."""
    without = [s for s in accuracies.shifts if s in ("adversarial", "imagenet-a")]
    ways = {
        "logit": {},
        "probit": {"axis": "probit"},
        "linear": {"axis": "linear"},
        "without the adversarial shift": {"leave_out": without},
        "one line to the mean": {"line": "of mean"},
    }
    means = {name: effective(accuracies, found, robustness, **how)[0]["mean"] for name, how in ways.items()}
    shown = [m for m in ran(rows).index if m in accuracies.models]
    lines = [
        {"model": rows.loc[m, "title"], **{way: text(of_draws(*means[way][m], 0), ".1f") for way in ways}}
        for m in shown
    ]
    return pd.DataFrame(lines)


def public_table(testbed, name, caption):
    """Effective robustness of the paper's zero-shot models from public accuracies; or a card that says why not."""
    try:
        table, _ = testbed.effective(testbed.public_accuracies(), testbed.baselines())
    except UserError:
        reason = "the testbed's table could not be fetched; see `your_own` for COMPANION_DOWNLOADS"
        return not_run(reason, name, caption)
    columns = [c for c in table if not c.endswith(("_low", "_high"))]
    lines = [
        {"model": model.removesuffix("-quickgelu"), "pretraining": data, "ImageNet": number(row["top1"], ".1f")}
        | {c: text((row[c], row[f"{c}_low"], row[f"{c}_high"]), ".1f") for c in columns[1:]}
        for (model, data), row in table.iterrows()
    ]
    return plain(pd.DataFrame(lines), name, caption)


# --- what goes with it


def measures(run, accuracies, found):
    """What could go with mean effective robustness ("er"): dict of name to dict of model to (value, draws)."""
    arrays = {exhibit: outliers.arrays(run, exhibit) for exhibit in ("kurtosis", "privileged_directions", "concepts")}
    of_rows = {e: {m: r["metrics"] for m, r in outliers.records(run, e).items()} for e in arrays}

    def drawn(exhibit, metric):
        key = f"draws_{metric}"
        return {m: (of_rows[exhibit][m][metric]["value"], a[key]) for m, a in arrays[exhibit].items()}

    values, draws = outliers.counted(arrays["concepts"])
    return {
        "er": found["mean"],
        "accuracy": {m: (accuracies.value["top1"][m], accuracies.draws["top1"][m]) for m in accuracies.models},
        "kurtosis": drawn("kurtosis", "raw"),
        "kurtosis, centred": drawn("kurtosis", "centred"),
        "importance, largest / median": drawn("privileged_directions", "ratio"),
        "importance, row-centred head": drawn("privileged_directions", "ratio_centred"),
        "concepts": {m: (values[m], draws[m]) for m in values},
    }


def goes_with(found, rows):
    """Correlations of each measure with mean effective robustness, over all models and the zero-shot ones."""
    shown = ran(rows)
    groups = {"all": list(shown.index), "zero-shot": list(shown.index[shown["group"] == "zero-shot"])}
    lines = []
    for name, values in found.items():
        for group, models in groups.items() if name != "er" else ():
            for row in correlations(values, found["er"], models).itertuples():
                given = name != "accuracy" and row.method == "spearman"
                lines.append(
                    {
                        "with": name,
                        "models": f"{group} ({row.n})",
                        "coefficient": row.method.capitalize(),
                        "ours [other images]": text(row.images),
                        "[other models]": text(row.models).partition(" ")[2] or "–",
                        "p": f"{row.p:.3f}",
                        "given accuracy": number(partial(values, found["er"], found["accuracy"], models))
                        if given
                        else "–",
                    }
                )
    return pd.DataFrame(lines or [{"with": "needs three models"}])


def within(found, rows):
    """Spearman's correlation of each measure with mean effective robustness within each backbone: DataFrame."""
    lines = []
    shown = ran(rows)
    for backbone, group in shown.groupby("backbone", sort=False):
        line = {"backbone": backbone, "models": str(len(group))}
        for name, values in found.items():
            table = correlations(values, found["er"], list(group.index)) if name != "er" else ()
            if len(table):
                spearman = table[table["method"] == "spearman"].iloc[0]
                line[name] = f"{spearman['value']:.2f} (p {spearman['p']:.2f})"
        lines += [line] if len(line) > 2 else []
    return pd.DataFrame(lines or [{"backbone": "needs three models of a backbone"}]).fillna("–")


def summary(rows, kurtosis, counts):
    """The closing table: rows with the columns of SUMMARY from the other exhibits' rows, in the order of robustness."""
    rows = rows.copy()
    for other, names in ((kurtosis, ("raw", "centred")), (counts, ("unique", "chance"))):
        for name in names:
            for column in (name, f"{name}_low", f"{name}_high"):
                if column in other:
                    rows[column] = other[column].reindex(rows.index)
    return rows.sort_values("er_mean", ascending=False, na_position="last")


def prose(kurtosis, lines, found):
    """What the page says in words: dict of scalars. kurtosis: the rows of that exhibit."""
    fits = [float(line.r2) for shift, line in lines.items() if shift != "mean"]
    return {
        "robustness_with_outliers": int((ran(kurtosis)["outliers"] > 0).sum()),
        "robustness_baselines": len(next(iter(found.values())).names),
        "robustness_worst_fit": number(min(fits), ".2f"),
        "robustness_best_fit": number(max(fits), ".2f"),
    }


def claims(rows, found):
    """The statistics of the claims on robustness: dict of claim to (value, low, high, n)."""
    values, draws = ({m: x[k] for m, x in found["er"].items()} for k in (0, 1))
    models = list(ran(rows).index)
    tests = {
        "of-robust-above-finetuned": outliers.contrast(rows, values, draws, ["fine-tuned"]),
        "of-robust-above-supervised": outliers.contrast(rows, values, draws, ["supervised"]),
    }
    for claim, name in (
        ("of-outliers-indicate-robustness", "kurtosis"),
        ("of-concepts-indicate-robustness", "concepts"),
    ):
        table = correlations(found[name], found["er"], models)
        spearman = table[table["method"] == "spearman"] if len(table) else table
        tests[claim] = spearman.iloc[0]["models"] if len(spearman) else (np.nan, np.nan, np.nan, 0)
    return tests
