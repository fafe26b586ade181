"""What the pages on Table 3 and Figure 3 show, made from rows, records and their arrays."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.report import published, statistics
from lib.report.tables import number, plain

QUANTITIES = {"auc": "AUC", "mi": "MI", "matches": "matches K"}
MEASURES = {"released": "ln(NMK)", "definition": "ln(NM/K)", "consistent": "ln K"}


def by_image(arrays):
    """Each image's auc, mi and matches (means over the part methods) and whether it was classified rightly."""
    methods = [key.removeprefix("ids_") for key in arrays if key.startswith("ids_")]
    shared = [(arrays[f"ids_{m}"][:, :, None] == arrays["language"][:, None]).any(2).sum(1) for m in methods]
    return {
        "auc": arrays["curves"].mean(1),
        "mi": arrays["curves"][:, 0],
        "matches": sum(shared) / len(shared),
        "top1": 100.0 * (arrays["predicted"] == arrays["labels"]),
    }


def groups_of(rows):
    """The families and all models together: dict of name to list of models."""
    families = {family: list(group.index) for family, group in rows.groupby("family", sort=False)}
    return {**families, "all": list(rows.index)}


def correlations(rows, arrays, seed=0):
    """Correlation of AUC, MI and matches with top-1 over models, a row per quantity, group and method.

    arrays: dict of model to the arrays of its record. Columns as in `statistics.correlations`, and `x`.
    """
    images = {model: by_image(arrays[model]) for model in rows.index}
    top1 = {model: found["top1"] for model, found in images.items()}
    tables = []
    for x in QUANTITIES:
        values = {model: found[x] for model, found in images.items()}
        means = {model: found.mean() for model, found in values.items()}
        table = statistics.correlations(means, rows["top1"], groups_of(rows), values, top1, seed)
        tables.append(table.assign(x=x))
    return pd.concat(tables, ignore_index=True)


def published_correlations(theirs, seed=0):
    """The same over the published table, `published.averaged`: its images are not known, so no interval over them."""
    found = [
        statistics.correlations(theirs[x], theirs["top1"], groups_of(theirs), seed=seed).assign(x=x)
        for x in ("auc", "mi")
    ]
    return pd.concat(found, ignore_index=True)


def correlation_table(found, theirs, name, caption):
    """A numbered table of `correlations`, the published coefficient beside ours."""
    keys = ["x", "group", "method"]
    if not len(found):
        return plain(pd.DataFrame({"correlation": ["needs three models of a family"]}), name, caption)
    known = theirs.set_index(keys)["value"] if len(theirs) else {}
    lines = [
        {
            "with top-1": QUANTITIES[row.x],
            "models": f"{row.group} ({row.n})",
            "coefficient": row.method.capitalize(),
            "published": number(known.get((row.x, row.group, row.method), None)),
            "ours [other images]": f"{row.value:.2f} [{row.images_low:.2f}, {row.images_high:.2f}]",
            "[other models]": "–" if pd.isna(row.models_low) else f"[{row.models_low:.2f}, {row.models_high:.2f}]",
            "p": f"{row.p:.3f}",
        }
        for row in found.itertuples()
    ]
    return plain(pd.DataFrame(lines), name, caption)


def pooled(found, prefix):
    """The coefficients of AUC with top-1 over all models, named for the prose: dict of scalar or "–"."""
    chosen = found[(found["x"] == "auc") & (found["group"] == "all")] if len(found) else found
    values = dict(zip(chosen["method"], chosen["value"], strict=True)) if len(chosen) else {}
    return {f"{prefix}_{method}": number(values.get(method)) for method in ("pearson", "spearman")}


def measure_rows(rows, measured, seed=0):
    """MI and AUC with intervals under each information measure, one row a model.

    measured: dict of model to {measure: (mi [n], auc [n])}. Returns (DataFrame, columns for `tables.table`).
    """
    lines, columns = [], {}
    for model, found in measured.items():
        line = {"title": rows.loc[model, "title"]}
        for measure, values in found.items():
            for quantity, images in zip(("mi", "auc"), values, strict=True):
                key = f"{quantity}_{measure}"
                line[key], line[f"{key}_low"], line[f"{key}_high"], _ = statistics.interval(images, seed)
                columns[key] = f"{quantity.upper()}, {MEASURES[measure]}"
        lines.append(line)
    return pd.DataFrame(lines), columns


def seed_columns(spread):
    """The columns of a table of K-means under several seeds: each seed's MI and AUC, and their ranges."""
    columns = {
        c: c.replace("_seed", ", seed ") for c in spread if "_seed" in c and not c.endswith(("_low", "_high", "_n"))
    }
    named = {c: text.replace("mi,", "MI,").replace("auc,", "AUC,") for c, text in columns.items()}
    return named | {f"{x}_range": f"{x.upper()} range" for x in ("mi", "auc") if f"{x}_range" in spread}


def read_from(records):
    """Where each model's foreground was read: Series of text."""
    found = {model: record["notes"]["foreground"] for model, record in records.items()}
    return pd.Series(
        {m: f"{s['feature']}, layer {s['layer']}, {s['method']} {s['component'] + 1}" for m, s in found.items()}
    )


FIT_COLUMNS = {
    f"{what}_{name}": f"{what}, {name}" for name in ("published", "ours") for what in ("models", "slope", "intercept")
}


def regressions(rows, theirs, x="auc", y="top1"):
    """Least-squares lines of accuracy on AUC, published and ours: DataFrame, families of at least 3 models.

    Slopes and intercepts come with their 95 % interval (Student's t, over models) as _low and _high.
    """
    lines = []
    for family in dict.fromkeys([*theirs["family"], *rows["family"]]):
        line = {"family": family}
        for name, table in (("published", theirs), ("ours", rows)):
            points = table[table["family"] == family]
            line[f"models_{name}"] = len(points)
            if len(points) >= 3:
                fit = stats.linregress(points[x], points[y])
                t = stats.t.ppf(0.975, len(points) - 2)
                for what, value, error in (
                    ("slope", fit.slope, fit.stderr),
                    ("intercept", fit.intercept, fit.intercept_stderr),
                ):
                    key = f"{what}_{name}"
                    line |= {key: value, f"{key}_low": value - t * error, f"{key}_high": value + t * error}
        lines.append(line)
    return pd.DataFrame(lines)


def above_chance(rows, prefix):
    """In how many models MI, AUC and matches lie above those of a wrong class, for the prose: dict of int."""
    above = {q: int((rows[f"{q}_kmeans"] > rows[f"{q}_wrong_class_kmeans"]).sum()) for q in ("mi", "auc", "matches")}
    early = int((rows["last_hit_kmeans"] < rows["last_hit_wrong_class_kmeans"]).sum())
    counted = {f"{prefix}_{q}_above": n for q, n in above.items()}
    return counted | {f"{prefix}_models": len(rows), f"{prefix}_last_hit_earlier": early}


def claim_statistics(exhibit, rows, images, seed=0):
    """The statistic of each "correlation" and "difference" claim of an exhibit: dict of id to (value, low, high, n).

    rows: DataFrame of `run.rows` (family; index model). images: dict of model to {quantity: [images]}. A
    correlation's interval is over models drawn anew, n models, nan below `statistics.MODELS_NEEDED`: a claim about a
    family is a claim about other models too. A difference's is over images drawn anew, n images. nan where a model
    of the claim is missing.
    """
    found = {}
    for claim in published.claims(exhibit):
        if claim["statistic"] == "correlation":
            found[claim["id"]] = _correlation(claim, rows, images, seed)
        elif claim["statistic"] == "difference":
            found[claim["id"]] = _difference(claim, images, seed)
    return found


def _correlation(claim, rows, images, seed):
    models = [m for m in images if claim["group"] in ("all", rows.loc[m, "family"])]
    x, y = (np.array([np.mean(images[m][claim[k]]) for m in models]) for k in ("x", "y"))
    if len(models) < 3:
        return np.nan, np.nan, np.nan, len(models)
    method = claim.get("method", "pearson")
    return float(statistics.coefficient(x, y, method)), *statistics.over_models(x, y, method, seed), len(models)


def _difference(claim, images, seed):
    if not {*claim["greater"], *claim["less"]} <= images.keys():
        return np.nan, np.nan, np.nan, 0
    greater, less = (np.mean([images[m][claim["metric"]] for m in claim[k]], axis=0) for k in ("greater", "less"))
    return statistics.interval(greater - less, seed)


APPENDIX = {"places365": "A6 Places365", "food101": "A7 Food101"}


def published_table3(dataset):
    """The published Table 3 of a dataset: DataFrame indexed by title with family, top1, mi and auc, or empty.

    For ImageNet (and the bestiary, whose claims it is held against) mi and auc are averaged over PCA and K-means, and
    each stands beside. Places365 and Food-101 are in the appendix, with one MI and AUC; by which method is not said.
    """
    if dataset in ("bestiary", "imagenet"):
        return published.averaged()
    table = published.load("mutual_knowledge_appendix", index=None)
    lines = table[table["table"] == APPENDIX.get(dataset)]
    values = lines["value"].str.split("|", expand=True).reindex(columns=range(3)).astype(float)
    values.columns = ["top1", "mi", "auc"]
    values.index = lines["row"].str.split(" ").str[0].replace("ViT-L/14@336", "ViT-L/14@336px")
    return values.assign(family="ViT")


def table3_columns(dataset):
    """The columns of Table 3: MI and AUC by PCA and by K-means, and their means where only one was published."""
    columns = {
        f"{q}_{m}": f"{q.upper()} {t}" for q in ("mi", "auc") for m, t in (("pca", "PCA"), ("kmeans", "K-means"))
    }
    means = {"mi": "MI, mean", "auc": "AUC, mean"} if dataset in APPENDIX else {}
    return {"top1": "top-1"} | columns | means
