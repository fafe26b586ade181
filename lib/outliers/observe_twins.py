"""What is seen of a CLIP and its twins: the same towers with other projections into the joint space."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from lib.data.shifts import Shift
from lib.given import Given
from lib.models import Clip, heads
from lib.outliers import kurtosis as shape
from lib.outliers import twins as method
from lib.outliers.observe import shifted
from lib.outliers.options import Shifts
from lib.paths import ROOT

FOLDER = "data/bestiary/twins"  # below the project's own folder; written by scripts/train_twins.py
SHIPPED, REFLECTED = "as shipped", "reflected"
MEASURES = ("raw", "centred", "rotated", "without_top")


class Sides(NamedTuple):
    """The two projections: weights [w, c] of the features of images and of texts, and biases [c], None without one."""

    image: torch.Tensor
    text: torch.Tensor
    image_bias: torch.Tensor | None = None
    text_bias: torch.Tensor | None = None


def twins(given: Given, options: Shifts) -> pd.DataFrame:
    """One line an image of each split (val and its shifts) and twin: top1 and agrees, 100 or 0.

    agrees: whether the twin predicts what the model does as shipped. Twins are the model "as shipped", "reflected" (its
    mean image embedding on the first axis), and those of FOLDER, which exist in the miniature only: of kind "AdamW" or
    "SGD", with a seed. Lines of val also hold kurtosis raw, centred, rotated and without_top, and what is the same in
    all of them: outliers (coordinates with a mean |z| above 3), top_coordinate (which adds most) and top_z (its mean
    |z|). So do those of split "texts", the rows of the zero-shot classifier, one a class.
    """
    model, images = given.model, given.images
    moved = {"val": Shift.none(images), **shifted(given, images, options)}
    features = {split: model.embed_images(shift.images, projected=False) for split, shift in moved.items()}
    prompts = [template.format(name) for name in images.classes for template in images.templates]
    texts = model.embed_texts(prompts, projected=False).view(len(images.classes), len(images.templates), -1)
    shipped = projections(model)
    found = {(SHIPPED, ""): shipped, (REFLECTED, ""): reflected(shipped, features["val"])} | trained(given)
    frames, before = [], dict[str, pd.Series]()
    for (kind, seed), sides in found.items():
        about = {"twin": f"{kind} {seed}".strip(), "kind": kind, "seed": seed}
        weight = method.classifier(texts, sides.text, sides.text_bias)
        for split, shift in moved.items():
            rows = method.embedded(features[split], sides.image, sides.image_bias)
            frame = hits(shift, rows @ weight[shift.present].T)
            said = before.setdefault(split, frame["predicted"])  # the first twin is the model as shipped
            frame["agrees"] = 100.0 * (frame.pop("predicted") == said)
            if split == "val":
                frame = frame.assign(**spread(rows, given.seed))
            frames.append(frame.assign(split=split, **about))
        line = {"image": np.arange(len(weight)), "class": images.classes, **spread(weight, given.seed)}
        frames.append(pd.DataFrame(line).assign(split="texts", **about))
    return pd.concat(frames, ignore_index=True)


def spread(rows: torch.Tensor, seed: int) -> dict[str, Any]:
    """Kurtosis of embeddings [n, c]: MEASURES of each, and what all have in common, by the names of `twins`."""
    about, each = shape.each(rows, seed)
    common = {"outliers": len(about.outliers), "top_coordinate": about.top, "top_z": about.z[about.top]}
    return {name: each[name] for name in MEASURES} | common


def hits(shift: Shift, logits: torch.Tensor) -> pd.DataFrame:
    """Columns image, class, predicted and top1 (100 or 0), from logits [n, m] for the classes that compete."""
    images, names = shift.images, np.array(shift.images.classes, dtype=object)
    table = pd.DataFrame({"image": np.arange(len(images)), "class": names[images.labels]})
    return table.assign(predicted=names[shift.present[heads.predict(logits).cpu().numpy()]], top1=shift.hits(logits))


def projections(model: Clip) -> Sides:
    """A CLIP's own two projections."""
    text = model.model.text_projection
    weight, bias = (text.weight.T, text.bias) if isinstance(text, torch.nn.Linear) else (text, None)
    if model.family == "ResNet":
        last = model.visual.attnpool.c_proj
        return Sides(last.weight.T, weight, last.bias, bias)
    return Sides(model.visual.proj, weight, None, bias)


def reflected(sides: Sides, features: torch.Tensor) -> Sides:
    """Both projections, turned by the one reflection that puts the mean embedding of features [n, w] on an axis."""
    mean = method.embedded(features, sides.image, sides.image_bias).mean(0)
    turn = method.reflection(mean).to(features.dtype)
    return Sides(*(None if x is None else x @ turn for x in sides))  # type: ignore[arg-type]  # weights are there


def trained(given: Given) -> dict[tuple[str, str], Sides]:
    """The twins of a miniature that have been trained: (optimiser, seed) to projections; none elsewhere."""
    name = f"{FOLDER}/{given.name}.safetensors"
    if given.dataset != "bestiary" or not (ROOT / name).is_file():
        return {}
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, value in load_file(given.open_file(name)).items():
        twin, seed, side = key.split("/")
        found.setdefault((twin, seed), {})[side] = value.float().to(given.model.device)
    return {twin: Sides(**sides) for twin, sides in sorted(found.items())}
