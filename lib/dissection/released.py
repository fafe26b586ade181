"""What the authors released beside the paper: labels of neurons as files. They are downloaded (data/downloads.csv)."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from lib.data import download
from lib.errors import UserError

T = TypeVar("T")
TARGETS = {
    "ResNet-50": "labels_CLIP_Dissect_resnet50_imagenet_broden",
    "ResNet-18 (Places365)": "labels_CLIP_Dissect_resnet18_places_imagenet_broden",
}
STEP = 2.0**-15  # of float32 between 256 and 512, where the constant that a sum of logarithms carries along lies


def tried(function: Callable[..., T], *given: Any) -> tuple[T | None, str]:
    """(what the function returns, ""), or (None, the reason) where a file can't be had."""
    try:
        return function(*given), ""
    except UserError as reason:
        return None, str(reason)


def labels(name: str) -> pd.DataFrame:
    """A file of neuron labels as it stands: layer, unit, description, similarity (CLIP-Dissect's). Raises UserError."""
    return pd.read_csv(download(name), keep_default_na=False)


def by_layer(table: pd.DataFrame, cutoff: float = 0.16) -> pd.DataFrame:
    """Neurons, different labels, and shares of interpretable and quantised scores (%), by layer and for all.

    Interpretable is a score above the cut-off. The paper's belongs to SoftWPMI with ViT-B/16 and 20,000 words: scores
    shift with the number of neurons and concepts.
    """
    groups = [*table.groupby("layer", sort=False), ("all", table)]
    lines = [
        {
            "layer": layer,
            "neurons": len(group),
            "labels": group["description"].nunique(),
            "interpretable": 100.0 * (group["similarity"] > cutoff).mean(),
            "quantised": 100.0 * multiples(group["similarity"].to_numpy()),
        }
        for layer, group in groups
    ]
    return pd.DataFrame(lines)


def multiples(scores: np.ndarray, step: float = STEP) -> float:
    """Share of scores that are whole multiples of a step, as far as eight printed digits tell."""
    quotient = np.asarray(scores, np.float64) / step
    return float((np.abs(quotient - np.round(quotient)) < 1e-2).mean())


def places() -> pd.DataFrame:
    """Network Dissection's labels of the last layer of ResNet-18 on Places365: the neuron's class (name) and its label.

    Class names come from a public list in the order of the neurons. A label of Broden ends with the letter of its
    category ("coast-s" is a scene), which is cut off. Raises UserError.
    """
    names = list(json.loads(download("descriptors_places365").read_text()))
    table = pd.read_csv(download("labels_NetDissect_resnet18_places365_fc")).sort_values("unit")
    if len(table) != len(names):
        raise UserError(f"There are {len(table)} labels and {len(names)} classes of Places365; both must be 365.")
    label = table["label"].str.replace(r"-[a-z]$", "", regex=True)
    return pd.DataFrame({"name": names, "label": label.to_numpy()})
