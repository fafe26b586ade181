"""Accuracies at the papers' scale from public tables, without an image: ImageNet testbed and open_clip.

The baseline models are those that Taori et al. (2020) trained in the standard way on ImageNet alone; which of the
testbed's models these are is listed in data/published/imagenet_testbed_standard.csv. The accuracies of the paper's
zero-shot models are open_clip's own (data/published/outlier_features_support.csv).
"""

from collections.abc import Sequence

import pandas as pd

from lib import data
from lib.errors import UserError
from lib.outliers.contrasts import Drawn
from lib.paths import DATA
from lib.seeds import rng

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
DRAWS = 1000


def baselines(shifts: Sequence[str] = tuple(COLUMNS)[1:], seed: int = 0) -> dict[str, Drawn]:
    """Accuracies of the testbed's standard models on val and under shifts, in per cent, nan where it lacks one.

    In the draws the models are drawn again. Raises UserError for a shift that the testbed does not have, and where its
    table cannot be had.
    """
    strange = [shift for shift in shifts if shift not in COLUMNS]
    if strange:
        raise UserError(f"The testbed has no baseline for {', '.join(strange)}; name the shifts' folders {_known()}.")
    table = pd.read_csv(data.download("imagenet_testbed_top1")).set_index("model")
    standard = pd.read_csv(DATA / "published" / "imagenet_testbed_standard.csv")["model"]
    table = table.loc[standard]
    table = table[table["val"] >= LOWEST]
    drawn = rng(seed, "baseline models").integers(len(table), size=(DRAWS, len(table)))
    wide = {s: table[COLUMNS[s][0]] for s in ("val", *shifts)}
    return {s: Drawn(x, pd.DataFrame(x.to_numpy()[drawn], columns=x.index)) for s, x in wide.items()}


def public_accuracies() -> dict[str, Drawn]:
    """Accuracies of the paper's zero-shot models, as open_clip publishes them, in per cent: like `baselines`.

    Models are named by (architecture, pretraining); the single draw repeats the values, as no image is known.
    """
    table = pd.read_csv(DATA / "published" / "outlier_features_support.csv")
    table = table[table["table"] == "zs_acc"].assign(value=lambda t: t["value"].astype(float))
    wide = table.pivot(index=["model", "pretraining"], columns="metric", values="value")
    wide = wide.loc[list(dict.fromkeys(zip(table["model"], table["pretraining"], strict=True)))]
    known = {ours: wide[f"acc_{theirs}"] for ours, (_, theirs) in COLUMNS.items()}
    return {s: Drawn(x, x.to_frame().T) for s, x in known.items()}


def _known() -> str:
    return ", ".join(list(COLUMNS)[1:])
