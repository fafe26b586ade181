"""What real encoders have made: embeddings of names and of pictures, published by others, and a user's own file.

data/real_encoders.csv says what is known of each set; the files come by data/downloads.csv. Rows are brought to length
1 before anything else: CLIP compares directions, and a mean over rows of unlike lengths is mostly that of the longest.
"""

from collections.abc import Iterable, Mapping
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
from lib.paths import DATA
from lib.store import Seen

MEASURES = ("raw", "centred", "rotated", "without_top", "ratio")  # of `kurtosis.measures`
MORE = ("without_outliers", "cosine")
PARTS = ("all", "first", "outlier")
ABSENT = "could not be fetched; with a network, or with the file in the folder COMPANION_DOWNLOADS, it stands here"


def facts(own: Iterable[str] = ()) -> pd.DataFrame:
    """What is known of each set, a line a set, indexed by its name; the sets `own` of a user's file come last.

    Columns encoder, tower ("text", "image"), kind ("zero-shot", "learned prompt", "fine-tuned", "no text"), embedded,
    rows, width, known_from (what says which encoder it was), published_as (model and pretraining in
    data/published/outlier_features_support.csv), repository, commit, path, licence, sha256.
    """
    table = pd.read_csv(DATA / "real_encoders.csv", index_col="set", keep_default_na=False)
    origin = pd.DataFrame([downloads.rows()[name] for name in table["file"]], table.index)
    parts = origin["address"].str.extract(r"//[^/]+/(?P<repository>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<path>.+)")
    table = pd.concat([table, parts, origin[["licence", "sha256"]]], axis=1)
    yours = {name: {"encoder": name, "tower": SAVED, "kind": SAVED, "embedded": "your file"} for name in own}
    return pd.concat([table, pd.DataFrame.from_dict(yours, orient="index")]).rename_axis("model")


def outliers(given: Given, options: Saved) -> Seen:
    """One line a row of the set `given.name`: MEASURES of `kurtosis.measures`, and two more.

    without_outliers: K without every coordinate whose mean |z| is above `kurtosis.OUTLYING`. cosine: with the mean row;
    its mean is that row's length. Tensors: z, mean |z| [d]; mean, the mean row [d]; outliers, the farthest coordinate
    first. A public set that cannot be had has no lines, and a reason in the notes. Raises UserError for another shape
    than data/real_encoders.csv has, and for bad rows.
    """
    rows, reason = _rows(given, options)
    if reason:
        return Seen(pd.DataFrame(columns=["row", *MEASURES, *MORE], dtype=float), {}, {"reason": reason})
    about, each = kurtosis.each(rows, given.seed)
    found = about.outliers[np.argsort(-about.z[about.outliers], kind="stable")]
    rest = np.delete(np.arange(len(about.z)), found)
    table = pd.DataFrame({"row": np.arange(len(rows)), **{name: each[name] for name in MEASURES}})
    table["without_outliers"] = kurtosis.kurtosis(rows[:, rest])
    table["cosine"] = rows @ about.mean / about.mean.norm()
    return Seen(table, {"z": about.z, "mean": about.mean.numpy(), "outliers": found}, {"reason": ""})


def heads(given: Given, options: Saved) -> Seen:
    """One line a row of a set of names that is taken as a zero-shot head, as it is and without its mean row.

    Squared lengths, in all (all, all_centred), along the first singular direction (first, first_centred), and on the
    outlier coordinates of the set as it is (outlier, outlier_centred). Tensors: singular and singular_centred, the
    singular values over their sum [D]; direction, the first one as it is [d]. Otherwise as `outliers`.
    """
    rows, reason = _rows(given, options)
    if reason:
        names = [f"{name}{end}" for name in PARTS for end in ("", "_centred")]
        return Seen(pd.DataFrame(columns=["row", *names], dtype=float), {}, {"reason": reason})
    outlying = kurtosis.coordinates(rows).outliers
    columns: dict[str, np.ndarray] = {"row": np.arange(len(rows))}
    tensors = {}
    for end, head in {"_centred": rows - rows.mean(dim=0), "": rows}.items():
        found = directions.decompose(head)
        first = found.right[:, 0]
        lengths = head.square().sum(1), (head @ first).square(), head[:, outlying].square().sum(1)
        columns |= {f"{name}{end}": x.numpy() for name, x in zip(PARTS, lengths, strict=True)}
        tensors |= {f"singular{end}": (found.values / found.values.sum()).numpy(), "direction": first.numpy()}
    return Seen(pd.DataFrame(columns), tensors, {"reason": ""})


def _rows(given: Given, options: Saved) -> tuple[torch.Tensor, str]:
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


def shared(outliers: Mapping[str, np.ndarray], width: int) -> pd.DataFrame:
    """Outlier coordinates that each two sets of embeddings of one encoder have in common: a line a pair.

    outliers: of each set by name; width: coordinates. Columns first, second, of_first, of_second (how many each has),
    shared (how many both have), by_chance (expected where each set's lie anywhere), and p: the chance of as many or
    more, hypergeometric.
    """
    lines = []
    for (first, a), (second, b) in combinations(outliers.items(), 2):
        both = len(np.intersect1d(a, b))
        p = float(hypergeom.sf(both - 1, width, len(a), len(b)))
        lines.append((first, second, len(a), len(b), both, len(a) * len(b) / width, p))
    return pd.DataFrame(lines, columns=["first", "second", "of_first", "of_second", "shared", "by_chance", "p"])


def means(table: pd.DataFrame, value: str, seed: int = 0) -> Drawn:
    """The mean of a column of `outliers` for each set, and when its rows are drawn again.

    Sets of as many rows get the same draws: those of the same names stand in the same order.
    """
    parts = [redrawn(part[[value]].set_axis([name], axis=1), seed) for name, part in table.groupby("model", sort=False)]
    if not parts:
        return NONE
    return Drawn(pd.concat([x.values for x in parts]), pd.concat([x.draws for x in parts], axis=1))
