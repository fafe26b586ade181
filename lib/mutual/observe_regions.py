"""Table 1: explanations blurred and revealed step by step, beside random regions of the same areas."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib import data
from lib.data import ImageDataset
from lib.given import Given
from lib.models import Clip
from lib.mutual import faithfulness, words
from lib.mutual.options import RegionOptions
from lib.mutual.regions import PARTS, TRAINED, TRUE, WHOLE, prepare
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


def walk(
    clip: Clip, images: ImageDataset, masks: Mapping[str, Sequence[torch.Tensor]], starts: Sequence[str], blur: float
) -> dict[str, torch.Tensor]:
    """Deletion and insertion of regions: tensors [n, explanations, sets, 2, L + 1] for `steps_table`.

    masks: for each explanation as many sets of regions bool [n, L, h, w] as `starts` has ways to begin insertion.
    """
    weights, kernel = words.classifier(clip, images), faithfulness.kernel_width(clip.image_size, blur)
    sets = [(regions, start) for of in masks.values() for regions, start in zip(of, starts, strict=True)]
    steps = [step for regions, start in sets for step in faithfulness.blur_masks(regions, start)]
    targets, pieces = words.predictions(clip, images), []

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        return clip.embed_pixels(pixels) @ weights.T

    for span in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
        pixels = clip.pixels(images.subset(span)).to(clip.device)
        here = [step[span] for step in steps]
        pieces.append(faithfulness.follow(pixels, here, classify, targets[span], kernel, clip.logit_scale))
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    covered = [100 * deletion.float().mean((2, 3)).numpy() for deletion in steps[::2]]
    found["covered"] = np.stack([share for share in covered for _ in ("deletion", "insertion")], 1)
    shape = (len(images), len(masks), len(starts), 2, steps[0].shape[1])
    shown = torch.stack([regions.flatten(2).any(2).sum(1) for regions, _ in sets], 1)
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
    for column, wanted in (("correct", images.labels), ("unchanged", words.predictions(clip, images))):
        table[column] = (arrays["winner"] == wanted.reshape(-1, 1, 1, 1, 1)).reshape(-1).astype(float)
    return table


def table1(given: Given, options: RegionOptions) -> Seen:
    """Every step of deletion and insertion of every explanation, and of random regions: see `steps_table`.

    `faithfulness.measures` makes the measures of them. notes: kernel and image_size in pixels. Paper, Table 1.
    """
    explainer = prepare(given, options)
    clip, images = explainer.clip, explainer.images
    place = {k: i for i, k in enumerate(images.indices)}
    moved = faithfulness.CONTROLS[options.random_regions]

    def compute(some: ImageDataset) -> dict[str, torch.Tensor]:
        masks = explainer.masks([place[k] for k in some.indices])
        drawn = {name: moved(of, some.indices, given.seed) for name, of in masks.items() if name != WHOLE}
        sets = {name: [of, drawn.get(name, of)] for name, of in masks.items()}  # the whole image cannot be moved
        return walk(clip, some, sets, [options.start] * 2, options.blur)

    key: dict[str, Any] = {"kind": "faithfulness", "model": clip.decides, "options": asdict(options)}
    key["of"] = images.fingerprint if options.group == "predicted" else "each class by itself"
    key |= {"how": explainer.how, "seed": given.seed}
    found = data.by_chunks(key, images, compute, f"regions of {clip.name}")
    notes = {"kernel": faithfulness.kernel_width(clip.image_size, options.blur), "image_size": clip.image_size}
    return Seen(steps_table(clip, images, explainer.names, found), notes=notes)


def definitions(given: Given, options: RegionOptions) -> Seen:
    """The measures under other definitions, on `options.checked` images: `faithfulness.measures`, by `definition`.

    The parts are found among all images of a class, also where few are evaluated. Definitions with the same blur are
    walked together, since they share most steps.
    """
    explainer = prepare(given, options)
    clip, names = explainer.clip, [*TRAINED, *PARTS]
    which = data.spread(explainer.images.labels, options.checked, given.seed)
    some, usual = explainer.images.subset(which), explainer.untrained(which)
    usual.pop(TRUE, None)
    trained, masks = {}, {}
    tried = {definition: replace(options, **changes) for definition, changes in REGIONS_CHANGED.items()}
    for definition, how in tried.items():
        if how.threshold not in trained:
            trained[how.threshold] = explainer.trained(which, how.threshold)
        masks[definition] = explainer.ranked(which, trained[how.threshold] | usual, how.rank)
    tables: dict[str, pd.DataFrame] = {}
    for blur in progress(dict.fromkeys(how.blur for how in tried.values()), "definitions"):
        alike = [definition for definition, how in tried.items() if how.blur == blur]
        sets = {name: [masks[definition][name] for definition in alike] for name in names}
        found = walk(clip, some, sets, [tried[definition].start for definition in alike], blur)
        for k, definition in enumerate(alike):
            steps = steps_table(clip, some, names, {name: of[:, :, k : k + 1] for name, of in found.items()})
            readings: dict[str, Any] = {definition: {}} | ({} if REGIONS_CHANGED[definition] else READING_CHANGED)
            tables |= {name: faithfulness.measures(steps, **how) for name, how in readings.items()}
    order = (*REGIONS_CHANGED, *READING_CHANGED)
    table = pd.concat([tables[name].assign(definition=name) for name in order], ignore_index=True)
    return Seen(table.assign(image=which[table["image"]]))
