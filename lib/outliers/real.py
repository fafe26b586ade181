"""What real encoders have made: embeddings of names and of pictures, published by others, and a user's own file.

data/real_encoders.csv says what is known of each set; the files come by data/downloads.csv. Rows are brought to length
1 before anything else: CLIP compares directions, and a mean over rows of unlike lengths is mostly that of the longest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom

from lib.data import downloads
from lib.errors import UserError
from lib.given import Given
from lib.outliers import directions, kurtosis, saved
from lib.outliers.contrasts import NONE, SAVED, Drawn, redrawn
from lib.outliers.options import Saved
from lib.outliers.streaming import batches
from lib.outliers.summaries import ranked
from lib.paths import DATA
from lib.statistics import Estimate, arranged, of_draws
from lib.store import Seen

MEASURES = ("raw", "centred", "rotated", "without_top", "ratio")  # of `kurtosis.measures`
MORE = ("without_outliers", "cosine")
PARTS = ("all", "first", "outlier")
# metric of data/published/outlier_features_support.csv -> ours; two sources name the last one differently
PUBLISHED = {"acc_ImageNet": "top1", "acc_avg5shifts": "shifts"}
PUBLISHED |= dict.fromkeys(["ER_avgline_logit", "ER_avg_logit"], "robustness")
# sets of the same names or pictures that differ in one thing, and a CLIP's photographs beside those of no CLIP
PAIRS = (
    ("coco500_clip_vit_b16, set 1", "coco500_clip_vit_b16, set 2"),
    ("text_lvis_learned_vit_b_32", "text_lvis_openai_vit_b_32"),
    ("text_lvis_learned_vit_b_16", "text_lvis_openai_vit_b_16"),
    ("text_coco_eva02_vit_b_16", "text_coco_openai_vit_b_16"),
    ("text_coco_eva02_vit_l_14_336", "text_coco_openai_vit_l_14_336"),
    ("image_photos_openai_vit_l_14", "image_photos_dinov2_small"),
)
ABSENT = "could not be fetched; with a network, or with the file in the folder COMPANION_DOWNLOADS, it stands here"


def facts(own: Iterable[str] = ()) -> pd.DataFrame:
    """What is known of each set, a line a set, indexed by its name; the sets `own` of a user's file come last.

    Columns title, encoder, tower ("text", "image"), kind ("zero-shot", "learned prompt", "fine-tuned", "no text"),
    embedded, rows, width, known_from (what says which encoder it was), published_as (model and pretraining in
    data/published/outlier_features_support.csv), repository, commit, path, licence, sha256.
    """
    table = pd.read_csv(DATA / "real_encoders.csv", index_col="set", keep_default_na=False)
    origin = pd.DataFrame([downloads.rows()[name] for name in table["file"]], table.index)
    parts = origin["address"].str.extract(r"//[^/]+/(?P<repository>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<path>.+)")
    table = pd.concat([table, parts, origin[["licence", "sha256"]]], axis=1)
    yours = {name: {"encoder": name, "tower": SAVED, "kind": SAVED, "embedded": "your file"} for name in own}
    table = pd.concat([table, pd.DataFrame.from_dict(yours, orient="index")]).rename_axis("model").fillna("")
    return table.assign(title=table["encoder"] + ", " + table["embedded"])


def outliers(given: Given, options: Saved) -> Seen:
    """One line a row of the set `given.name`: MEASURES of `kurtosis.measures`, and two more.

    without_outliers: K without every coordinate whose mean |z| is above `kurtosis.OUTLYING`. cosine: with the mean row;
    its mean is that row's length. Tensors: z, mean |z| [d]; mean, the mean row [d]; outliers, the farthest coordinate
    first. A public set that cannot be had has no lines, and a reason in the notes. Raises UserError for another shape
    than data/real_encoders.csv has, and for bad rows.
    """
    rows, reason = unit_rows(given, options)
    if reason:
        return Seen(pd.DataFrame(columns=["row", *MEASURES, *MORE], dtype=float), {}, {"reason": reason})
    about, each = kurtosis.each(rows, given.seed)
    found = about.outliers[np.argsort(-about.z[about.outliers], kind="stable")]
    rest = np.delete(np.arange(len(about.z)), found)
    table = pd.DataFrame({"row": np.arange(len(rows)), **{name: each[name] for name in MEASURES}})
    table["without_outliers"] = np.asarray(kurtosis.kurtosis(rows[:, rest]))
    table["cosine"] = (rows @ about.mean / about.mean.norm()).numpy()
    return Seen(table, {"z": about.z, "mean": about.mean.numpy(), "outliers": found}, {"reason": ""})


def heads(given: Given, options: Saved) -> Seen:
    """One line a row of a set of names that is taken as a zero-shot head, as it is and without its mean row.

    Squared lengths, in all (all, all_centred), along the first singular direction (first, first_centred), and on the
    outlier coordinates of the set as it is (outlier, outlier_centred). Tensors: singular and singular_centred, the
    singular values over their sum [D]; direction, the first one as it is [d]. Otherwise as `outliers`.
    """
    rows, reason = unit_rows(given, options)
    if reason:
        names = [f"{name}{end}" for name in PARTS for end in ("", "_centred")]
        return Seen(pd.DataFrame(columns=["row", *names], dtype=float), {}, {"reason": reason})
    outlying = kurtosis.coordinates(rows).outliers
    columns: dict[str, np.ndarray] = {"row": np.arange(len(rows))}
    tensors: dict[str, np.ndarray] = {}
    for end, head in {"_centred": rows - rows.mean(dim=0), "": rows}.items():
        found = directions.decompose(head)
        first = found.right[:, 0]
        lengths = head.square().sum(1), (head @ first).square(), head[:, outlying].square().sum(1)
        columns |= {f"{name}{end}": x.numpy() for name, x in zip(PARTS, lengths, strict=True)}
        tensors |= {f"singular{end}": (found.values / found.values.sum()).numpy(), "direction": first.numpy()}
    return Seen(pd.DataFrame(columns), tensors, {"reason": ""})


def alike(given: Given, options: Saved) -> Seen:
    """One line a name and candidate encoder of the learned prompts `given.name`: is it the encoder that made them?

    cosine: of the name's row with its row in the encoder's written prompts, both without their set's mean row and
    without the outlier coordinates of either set. Near 1 for the same encoder; other encoders have other axes.
    """
    names, parts = [given.name, *(b for a, b in PAIRS if "_learned_" in a)], []
    sets = [unit_rows(replace(given, name=name, opened=given.opened), options)[0] for name in names]
    if not all(map(len, sets)):
        return Seen(pd.DataFrame(columns=["row", "encoder", "cosine"]), {}, {"reason": ABSENT})
    for name, other in zip(names[1:], sets[1:], strict=True):
        out = [kurtosis.coordinates(rows).outliers for rows in (sets[0], other)]
        kept = np.setdiff1d(np.arange(other.shape[1]), np.concatenate(out))
        x, y = ((rows - rows.mean(dim=0))[:, kept] for rows in (sets[0], other))
        cosine = torch.nn.functional.cosine_similarity(x, y).numpy()
        parts.append(pd.DataFrame({"row": np.arange(len(x)), "encoder": facts()["encoder"][name], "cosine": cosine}))
    return Seen(pd.concat(parts, ignore_index=True), {}, {"reason": ""})


def unit_rows(given: Given, options: Saved) -> tuple[torch.Tensor, str]:
    """The rows of a set, of length 1, float64 [rows, width], and ""; no rows and why where a public set is missing."""
    table = pd.read_csv(DATA / "real_encoders.csv", index_col="set")
    public = given.name in table.index
    try:
        path = given.open_file(table["file"][given.name] if public else options.embeddings)
    except UserError:
        return torch.empty(0), ABSENT
    sets = saved.embeddings(path)
    if given.name not in sets:
        raise UserError(f"There is no set of embeddings '{given.name}' in the file; it has {', '.join(sets)}.")
    found = sets[given.name]
    expected = tuple(table.loc[given.name, ["rows", "width"]]) if public else found.shape
    if found.shape != expected:
        raise UserError(f"{given.name} has shape {list(found.shape)}; expected {list(expected)}: fetch it again.")
    rows = torch.cat(list(batches(found)))
    return rows / rows.norm(dim=1, keepdim=True), ""


# --- summaries


def where(tensors: Mapping[str, dict], sets: pd.DataFrame) -> pd.DataFrame:
    """The outlier coordinates of each set, a line each: title, tower, coordinate (None where there is none), z, width.

    tensors: of `outliers` by set; sets that could not be had are left out.
    """
    lines = []
    for name, x in tensors.items():
        for c in (x["outliers"] if len(x["outliers"]) else [None]) if x else ():
            z = np.nan if c is None else x["z"][c]
            lines.append((sets["title"][name], sets["tower"][name], c, z, len(x["z"])))
    return pd.DataFrame(lines, columns=["title", "tower", "coordinate", "z", "width"])


def shared(tensors: Mapping[str, dict], sets: pd.DataFrame) -> pd.DataFrame:
    """Outlier coordinates that each two sets of an encoder have in common: a line a pair, named by titles.

    Columns of_first, of_second (how many each has), shared (how many both have), by_chance (expected where each set's
    lie anywhere), and p: the chance of as many or more, hypergeometric.
    """
    lines = {}
    for _, group in sets.loc[[name for name, x in tensors.items() if x]].groupby("encoder", sort=False):
        for a, b in combinations(group.index, 2):
            one, other = tensors[a]["outliers"], tensors[b]["outliers"]
            n, m, width, both = len(one), len(other), len(tensors[a]["z"]), len(np.intersect1d(one, other))
            cells = (n, m, both, n * m / width, float(hypergeom.sf(both - 1, width, n, m)))
            lines[group["title"][a], group["title"][b]] = cells
    index = pd.MultiIndex.from_tuples(lines or [("", "")], names=["first", "second"])[: len(lines)]
    return pd.DataFrame(list(lines.values()), index, ["of_first", "of_second", "shared", "by_chance", "p"])


def spectra(tensors: Mapping[str, dict], sets: pd.DataFrame) -> pd.DataFrame:
    """The singular values of heads over their sum, a line each: model, rank, share, head, of (who made the encoder).

    tensors: of `heads` by set; sets that could not be had are left out.
    """
    there, parts = [m for m, x in tensors.items() if x], []
    for head, key in {"as it is": "singular", "row-centred": "singular_centred"}.items():
        parts.append(ranked({m: tensors[m][key] for m in there}, "share").assign(head=head))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(of=found["model"].map(sets["encoder"].str.split().str[0]))


def beside_robustness(drawn: Drawn, sets: pd.DataFrame) -> pd.DataFrame:
    """A number of each encoder, mean over its sets of a tower (learned prompts left out), and its published robustness.

    A line an encoder: text and image with their intervals, sets (how many), and in per cent top1 and shifts (mean of
    five), in points robustness (above the line of that mean), where data/published/outlier_features_support.csv has it.
    """
    public = pd.read_csv(DATA / "published" / "outlier_features_support.csv")
    public = public[public["metric"].isin(PUBLISHED)].assign(metric=public["metric"].map(PUBLISHED))
    values = public.set_index([public["model"] + " " + public["pretraining"], "metric"])["value"]
    lines = {}
    for encoder, group in sets[sets["kind"] != "learned prompt"].groupby("encoder", sort=False):
        for tower, own in group.groupby("tower", sort=False):
            lines[encoder, tower] = drawn.mean(own.index)
        lines[encoder, "sets"] = Estimate(len(drawn.of(group.index).values))
        name = group["published_as"].iloc[0]
        for metric, value in values.loc[name].items() if name else ():
            lines[encoder, metric] = Estimate(float(value))
    return arranged(lines, ["encoder"])


def means(table: pd.DataFrame, value: str, seed: int = 0) -> Drawn:
    """The mean of a column of `outliers` for each set, and when its rows are drawn again.

    Sets of as many rows get the same draws: those of the same names stand in the same order.
    """
    parts = [redrawn(part[[value]].set_axis([name], axis=1), seed) for name, part in table.groupby("model", sort=False)]
    if not parts:
        return NONE
    return Drawn(pd.concat([part.rows for part in parts], axis=1))


def least(drawn: Drawn, sets: Iterable[str]) -> Estimate:
    """The smallest number among some sets, those that there are, and when their rows are drawn again; n counts them."""
    rows = drawn.of(sets).rows
    smallest = rows.min(axis=1).to_numpy(float)
    return of_draws(smallest[0], smallest[1:], rows.shape[1])
