"""What the authors released beside the paper: labels of neurons as files, and how their Table 2 was scored.

Nothing here needs a model or an image: the files are downloaded (data/downloads.csv) and counted.
"""

import json
import re

import numpy as np
import pandas as pd

from lib.data import download
from lib.dissection.evaluation import interpretable
from lib.errors import UserError

TARGETS = {
    "ResNet-50": "labels_CLIP_Dissect_resnet50_imagenet_broden",
    "ResNet-18 (Places365)": "labels_CLIP_Dissect_resnet18_places_imagenet_broden",
}
STEP = 2.0**-15  # of float32 between 256 and 512, where the constant that a sum of logarithms carries along lies
SCORINGS = ("released", "mended")


def tried(function, *given):
    """(what the function returns, ""), or (None, the reason) where a file can't be had."""
    try:
        return function(*given), ""
    except UserError as reason:
        return None, str(reason)


def labels(name):
    """A file of neuron labels as it stands: DataFrame with layer, unit, description, similarity (CLIP-Dissect's)."""
    return pd.read_csv(download(name), keep_default_na=False)


def by_layer(frame, cutoff=0.16):
    """Neurons, different labels, and interpretable ones (%) of each layer and of all: DataFrame."""
    groups = [*frame.groupby("layer", sort=False), ("all", frame)]
    lines = [
        {
            "layer": layer,
            "neurons": len(group),
            "labels": group["description"].nunique(),
            "interpretable": interpretable(group["similarity"], cutoff),
            "quantised": 100.0 * multiples(group["similarity"]),
        }
        for layer, group in groups
    ]
    return pd.DataFrame(lines)


def multiples(scores, step=STEP):
    """Share of scores that are whole multiples of a step, as far as eight printed digits tell: float in [0, 1]."""
    quotient = np.asarray(scores, np.float64) / step
    return float((np.abs(quotient - np.round(quotient)) < 1e-2).mean())


# --- Table 2


def places():
    """The last layer of ResNet-18 on Places365 with Network Dissection's labels and their two scorings: DataFrame.

    Columns: name (the class, in the order of the neurons), label (without its category), released and mended (bool).
    Class names come from a public bank in the same order. See `right`.
    """
    names = list(json.loads(download("descriptors_places365").read_text()))
    frame = pd.read_csv(download("labels_NetDissect_resnet18_places365_fc"))
    if len(frame) != len(names):
        raise UserError(f"There are {len(frame)} labels and {len(names)} classes of Places365; both must be 365.")
    found = [without_category(text) for text in frame.sort_values("unit")["label"]]
    lines = {"name": names, "label": found}
    for scoring in SCORINGS:
        lines[scoring] = [right(text, name, scoring) for text, name in zip(found, names, strict=True)]
    return pd.DataFrame(lines)


def without_category(label):
    """A label of Broden without the letter of its category: "coast-s" is the scene "coast"."""
    return re.sub(r"-[a-z]$", "", label)


def right(label, name, scoring="mended"):
    """Whether a label names a class of Places365. scoring: how the class's name is spelled before it is compared.

    "released", as the released notebook does it: the hyphen of "bakery-shop" becomes a slash, while labels keep theirs,
    so that no class with a hyphen can ever be right. "mended": both are compared as they stand.
    """
    if scoring not in SCORINGS:
        raise UserError(f"scoring is '{scoring}'; give 'released' or 'mended'.")
    return label == (name.replace("-", "/") if scoring == "released" else name)


def denominators(percentages, most, digits=4):
    """Every n up to `most` for which all percentages are k / n, rounded to `digits`: list of int."""
    fits = [
        all(round(100 * round(p * n / 100) / n, digits) == round(p, digits) for p in percentages)
        for n in range(1, most + 1)
    ]
    return [n for n, fit in enumerate(fits, 1) if fit]
