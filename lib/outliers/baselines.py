"""Effective robustness of the models of a page: their accuracies by split, the baseline models, and the line of these.

At the bestiary the baselines are the zoo's own supervised models. At the papers' scale they are those of the ImageNet
testbed that Taori et al. (2020) trained in the standard way on ImageNet alone; which these are is listed in
data/published/imagenet_testbed_standard.csv, and no image is needed. The accuracies of the paper's zero-shot models are
open_clip's own (data/published/outlier_features_support.csv).

Accuracies are a dict of split -> `Drawn`, in per cent; "val" is the unshifted split. Lines are a dict of shift ->
`Line`, fitted to the accuracies as measured and to each draw.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib import data, statistics
from lib.errors import UserError
from lib.models import catalogue
from lib.outliers.contrasts import NONE, Drawn, redrawn
from lib.outliers.robustness import AXES, Line, effective, fit
from lib.outliers.summaries import hits
from lib.paths import DATA
from lib.run import Found
from lib.seeds import number, rng
from lib.statistics import arranged, of_draws

# our name of a split (a shift's is that of its folder) -> its column in the testbed, its name at open_clip
COLUMNS = {
    "val": ("val", "ImageNet"),
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val", "V2"),
    "imagenet-r": ("imagenet-r", "R"),
    "imagenet-sketch": ("imagenet-sketch", "Sketch"),
    "objectnet": ("objectnet-1.0-beta", "ObjectNet"),
    "imagenet-a": ("imagenet-a", "A"),
}
LOWEST = 55.0  # unshifted accuracy (%) of a baseline model: far below the models in question the line is another
ADVERSARIAL = ("adversarial", "imagenet-a")  # shifts that were filtered against a model: their line has little meaning
DRAWS = 1000
Accuracies = Mapping[str, Drawn]


def baseline_models(dataset: str) -> list[str]:
    """Models that the line of effective robustness is fitted on: the bestiary's supervised ones, of all sizes and
    amounts of data; elsewhere none, as the testbed's are (`public_baselines`)."""
    rows = catalogue("comparison baselines")
    return list(rows.index[rows["objective"] == "supervised"]) if dataset == "bestiary" else []


def accuracies(table: pd.DataFrame, seed: int = 0) -> dict[str, Drawn]:
    """Accuracy of each model on each split from `observe.robustness`; splits are drawn again independently."""
    found, models = {}, table["model"].unique()
    for split, part in table.groupby("split", sort=False):
        wide = part.pivot(index="image", columns="model", values="top1")[models]
        found[str(split)] = redrawn(wide, number(seed, split), statistics.whole(part, wide.index))
    return found


def known(accuracies: Accuracies, dataset: str) -> dict[str, Drawn]:
    """The accuracies of a dataset's baseline models: out of `accuracies`, or the public ones of the same shifts."""
    names = baseline_models(dataset)
    own = {split: x.of(names) for split, x in accuracies.items()}
    return own if names else public_baselines([s for s in accuracies if s != "val"])


def averaged(found: Accuracies, leave_out: Sequence[str] = ()) -> Drawn:
    """Mean over the shifts of models that have them all."""
    first, *others = [x.rows for shift, x in found.items() if shift not in ("val", "mean", *leave_out)]
    return Drawn(sum(others, first) / (1 + len(others)))


def lines(baselines: Accuracies, axis: str = "logit") -> dict[str, Line]:
    """For each shift the line of the baseline models that have it. Raises as `fit` does."""
    x = baselines["val"].rows
    return {s: fit(x, y.rows, axis, list(map(str, x))) for s, y in baselines.items() if s != "val"}


def table_of(lines: Mapping[str, Line]) -> pd.DataFrame:
    """The lines in numbers, one a shift; intervals where the images of the baselines are known."""
    found = {}
    for shift, line in lines.items():
        for name, values in {"slope": line.slope, "intercept": line.intercept, "R²": line.r2}.items():
            found[shift, name] = of_draws(values[0, 0], values[1:, 0], 0)
    table = arranged(found, ["shift"]).assign(**{"baseline models": [line.n for line in lines.values()]})
    return table.assign(**{"left out (0 or 100 %)": [", ".join(x.dropped) or "none" for x in lines.values()]})


def over_baseline(found: Accuracies, lines: Mapping[str, Line]) -> dict[str, Drawn]:
    """Effective robustness of models under each shift that has a line, and "mean" over these shifts.

    Images are drawn again for the models and, where they are known, for the baselines alike.
    """
    x, robust = found["val"].rows, {}
    for shift, line in lines.items():
        y = found[shift].rows
        robust[shift] = Drawn(pd.DataFrame(effective(x, y, line), columns=y.columns))
    return robust | {"mean": averaged(robust)} if robust else {}


def choices(found: Accuracies, baselines: Accuracies) -> dict[str, Drawn]:
    """Mean effective robustness on each axis, without the adversarial shift, and by one line to the mean accuracy."""
    means = {axis: over_baseline(found, lines(baselines, axis))["mean"] for axis in AXES}
    means["without the adversarial shift"] = averaged(over_baseline(found, lines(baselines)), ADVERSARIAL)
    at, standard = ({"val": x["val"], "all": averaged(x)} for x in (found, baselines))
    return means | {"one line to the mean": over_baseline(at, lines(standard))["mean"]}


def pruned(found: Found, baselines: Accuracies, share: float, seed: int = 0) -> dict[str, Drawn]:
    """Top-1 and mean effective robustness before a share of the directions is pruned by importance, and what changes.

    found: of `observe.pruning`. The lines of the baselines are held fixed; without baselines there is no robustness.
    Returns "top-1", "pruned", "change", "robustness" and "change of robustness".
    """
    fixed = {s: line.first for s, line in lines(baselines).items()} if baselines else {}
    top1, robust = [], []
    for s in (0.0, share):
        at = {x: redrawn(hits(found, x, "importance", s), number(seed, x)) for x in ("val", *fixed)}
        top1.append(at["val"])
        robust.append(over_baseline(at, fixed).get("mean", NONE))
    parts = {"top-1": top1[0], "pruned": top1[1], "change": top1[1] - top1[0]}
    return parts | {"robustness": robust[0], "change of robustness": robust[1] - robust[0]}


# --- public tables: no image is known, and nothing can be drawn again but the models


def public_baselines(shifts: Sequence[str] = tuple(COLUMNS)[1:]) -> dict[str, Drawn]:
    """Accuracies of the testbed's standard models on val and under shifts, in per cent, nan where it lacks one.

    Raises UserError for a shift that the testbed does not have, and where its table cannot be had.
    """
    strange = [shift for shift in shifts if shift not in COLUMNS]
    if strange:
        there = ", ".join(list(COLUMNS)[1:])
        raise UserError(f"The testbed has no baseline for {', '.join(strange)}; name the shifts' folders {there}.")
    standard = pd.read_csv(DATA / "published" / "imagenet_testbed_standard.csv")["model"]
    table = pd.read_csv(data.download("imagenet_testbed_top1")).set_index("model").loc[standard]
    table = table[table["val"] >= LOWEST]
    return {s: Drawn(table[[COLUMNS[s][0]]].T) for s in ("val", *shifts)}


def public_accuracies() -> dict[str, Drawn]:
    """Accuracies of the paper's zero-shot models, as open_clip publishes them, in per cent.

    Models are named by (model, pretraining).
    """
    table = pd.read_csv(DATA / "published" / "outlier_features_support.csv")
    table = table[table["table"] == "zs_acc"].assign(value=lambda t: t["value"].astype(float))
    wide = table.pivot(index=["model", "pretraining"], columns="metric", values="value")
    wide = wide.loc[list(dict.fromkeys(zip(table["model"], table["pretraining"], strict=True)))]
    return {ours: Drawn(wide[[f"acc_{theirs}"]].T) for ours, (_, theirs) in COLUMNS.items()}


def models_again(found: Accuracies, seed: int = 0) -> dict[str, Drawn]:
    """The same accuracies with draws in which the models, instead of their images, are drawn again."""
    count = found["val"].rows.shape[1]
    drawn = np.concatenate([np.arange(count)[None], rng(seed, "baseline models").integers(count, size=(DRAWS, count))])
    again = {s: x.values.to_numpy()[drawn] for s, x in found.items()}
    return {s: Drawn(pd.DataFrame(again[s], columns=x.rows.columns)) for s, x in found.items()}
