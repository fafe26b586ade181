"""Table 1: explanations blurred and revealed step by step, beside random regions of the same areas."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib import data
from lib.data import ImageDataset
from lib.given import Given
from lib.models import Clip, heads
from lib.mutual import explain, faithfulness
from lib.mutual.options_regions import RegionOptions
from lib.mutual.regions import PARTS, TRAINED, WHOLE, prepare
from lib.progress import progress
from lib.store import Seen

BATCH = 32  # images whose steps are in memory together
# what is tried in place of the page's definitions: of the regions and steps, and of what is read from them
REGIONS_CHANGED: dict[str, dict[str, Any]] = {
    "default": {},
    "blur 0.15": {"blur": 0.15},
    "blur 0.6": {"blur": 0.6},
    "insertion from blurred parts": {"start": "parts"},
    "ranked by the part alone": {"rank": "part"},
    "regions at half the maximum": {"threshold": 0.5},
}
READING_CHANGED = {
    "probability instead of cosine": {"score": "probability"},
    "curves stop at the last part": {"short": "stop"},
    "accuracy against the prediction": {"correct": "predicted"},
}


def follow(
    clip: Clip, images: ImageDataset, masks: list[torch.Tensor], blur: float, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """`faithfulness.follow` on images, which are read once, `BATCH` at a time; masks bool [n, steps, h, w]."""
    weights = heads.classifier(clip, images.classes, images.templates)
    targets, kernel = explain.predictions(clip, images), faithfulness.kernel_width(clip.image_size, blur)

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        return clip.embed_pixels(pixels, batch_size) @ weights.T

    pieces = []
    for begin in range(0, len(images), BATCH):
        span = slice(begin, begin + BATCH)
        pixels, here = clip.pixels(images.subset(np.arange(len(images))[span])), [mask[span] for mask in masks]
        how = (classify, targets[span], kernel, clip.logit_scale, batch_size)
        pieces.append(faithfulness.follow(pixels.to(clip.device), here, *how))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def walk(
    clip: Clip, images: ImageDataset, masks: Mapping[str, list[torch.Tensor]], options: RegionOptions
) -> dict[str, torch.Tensor]:
    """Deletion and insertion of regions: tensors [n, explanations, regions, 2, L + 1] for `steps_table`.

    masks: for each explanation, one or several sets of regions bool [n, L, h, w], as many for each.
    """
    sets = [regions for of in masks.values() for regions in of]
    covered = [faithfulness.cumulative(regions) for regions in sets]
    found = follow(clip, images, [m for c in covered for m in faithfulness.blur_masks(c, options.start)], options.blur)
    shares = [100 * c.float().mean((2, 3)).numpy() for c in covered]
    found["covered"] = np.stack([share for share in shares for _ in ("deletion", "insertion")], 1)
    shape = (len(images), len(masks), -1, 2, covered[0].shape[1])
    shown = torch.stack([regions.flatten(2).any(2).sum(1) for regions in sets], 1)
    return {k: torch.from_numpy(v).reshape(shape) for k, v in found.items()} | {"shown": shown.reshape(shape[:3])}


def steps_table(clip: Clip, images: ImageDataset, names: list[str], found: dict[str, torch.Tensor]) -> pd.DataFrame:
    """What `walk` found as a table: a line for each image, explanation, kind of regions, direction and step.

    Columns: image, class, explanation, regions ("explained", "random"), direction ("deletion", "insertion"), step,
    shown (regions of the image), covered (% of it), score (2.5 x cosine), probability, correct and unchanged (1 where
    the class is the label's, or that of the intact image).
    """
    arrays = {k: v.numpy() for k, v in found.items()}
    n, _, kinds, _, points = arrays["score"].shape
    axes: list[Any] = [np.arange(n), names, ["explained", "random"][:kinds], ["deletion", "insertion"], range(points)]
    columns = ["image", "explanation", "regions", "direction", "step"]
    table = pd.MultiIndex.from_product(axes, names=columns).to_frame(index=False)
    table.insert(1, "class", np.repeat(np.array(images.classes)[images.labels], len(table) // n))
    table["shown"] = np.repeat(arrays["shown"].reshape(-1), 2 * points)
    for column in ("covered", "score", "probability"):
        table[column] = arrays[column].reshape(-1)
    for column, wanted in (("correct", images.labels), ("unchanged", explain.predictions(clip, images))):
        table[column] = (arrays["winner"] == wanted.reshape(-1, 1, 1, 1, 1)).reshape(-1).astype(float)
    return table


def table1(given: Given, options: RegionOptions) -> Seen:
    """Every step of deletion and insertion of every explanation, and of random regions: see `steps_table`.

    `faithfulness.measures` makes the measures of them. notes: kernel and image_size in pixels. Paper, Table 1.
    """
    explainer = prepare(given, options)
    clip, images = explainer.clip, explainer.images
    place = {k: i for i, k in enumerate(images.indices)}

    def compute(some: ImageDataset) -> dict[str, torch.Tensor]:
        sets = {}
        for name, masks in explainer.masks([place[k] for k in some.indices]).items():
            if name == WHOLE:  # which cannot be moved
                sets[name] = [masks, masks]
            else:
                drawn = faithfulness.control(masks, some.indices, options.random_regions, given.seed)
                sets[name] = [masks, drawn]
        return walk(clip, some, sets, options)

    key: dict[str, Any] = {"kind": "faithfulness", "model": clip.decides, "options": asdict(options)}
    key["of"] = images.fingerprint if options.group == "predicted" else "each class by itself"
    key |= {"how": explainer.how, "seed": given.seed}
    found = data.by_chunks(key, images, compute, f"regions of {clip.name}")
    notes = {"kernel": faithfulness.kernel_width(clip.image_size, options.blur), "image_size": clip.image_size}
    return Seen(steps_table(clip, images, explainer.names, found), notes=notes)


def definitions(given: Given, options: RegionOptions) -> Seen:
    """The measures under other definitions, on `options.checked` images: `faithfulness.measures`, by `definition`.

    The parts are found among all images of a class, also where few are evaluated.
    """
    explainer = prepare(given, options)
    which, tables = data.spread(explainer.images.labels, options.checked, given.seed), []
    some, names = explainer.images.subset(which), [*TRAINED, *PARTS]
    for definition, changes in progress(REGIONS_CHANGED.items(), "definitions"):
        masks = explainer.masks(which, **changes)
        found = walk(explainer.clip, some, {name: [masks[name]] for name in names}, replace(options, **changes))
        steps = steps_table(explainer.clip, some, names, found)
        read: dict[str, Any] = {definition: {}} | (READING_CHANGED if not changes else {})
        tables += [faithfulness.measures(steps, **how_read).assign(definition=name) for name, how_read in read.items()]
    table = pd.concat(tables, ignore_index=True)
    return Seen(table.assign(image=which[table["image"]]))
