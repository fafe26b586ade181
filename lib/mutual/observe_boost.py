"""Table 2: each variant of classification by description, image by image.

The paper's protocol takes images from the evaluated set, by their true labels, and leaves some classes out by a rule
that is not given. Beside it stand variants that read fewer labels, and controls.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from lib import seeds
from lib.data import ImageDataset
from lib.errors import UserError
from lib.given import Given
from lib.models import Clip, heads
from lib.mutual import boost, explain, words
from lib.mutual.boost import Sets
from lib.mutual.options import BoostOptions
from lib.store import Seen

KEPT = (1, 2, 3, 5, 10, 0)  # how many of a class's finds are handed on, in `kept`; 0 is all
DRAWS = 3  # of the random controls
# variant -> where the descriptors come from that a class gets, and which labels that reads
VARIANTS = {
    "published": ("images of the nearest classes, by label", "of the evaluated images"),
    "tuned": ("the same, less the classes that it harms there", "of the evaluated images, twice"),
    "tuned_half": ("the same, less those that it harms in the other half", "of the other half of them, too"),
    "half": ("the other half of the images, by label", "of the other half of them"),
    "own": ("the class's own images, by label", "of the evaluated images"),
    "train": ("training images, by label", "of training images"),
    "label_free": ("training images, by prediction", "none"),
    "random_classes": ("images of random classes, by label", "of the evaluated images"),
    "random": ("descriptors drawn from the bank", "none"),
}
Finds = dict[str, tuple[torch.Tensor, np.ndarray]]  # variant -> descriptors of images, class that each counts for


def table2(given: Given, options: BoostOptions) -> Seen:
    """Top-1 and top-5 (%) of "base", the bank's descriptors, and of each of `VARIANTS`: a line for each image.

    gain: in top-1 over "base" (points). "random_classes" and "random" are means over draws. notes: "train", which
    images those were; "added", descriptors that a class got, by variant. Paper Table 2, section 4.
    """
    images = given.images
    own, finds, near, notes = _prepared(given, options)
    half, rng, keep = boost.halves(images.labels, given.seed), seeds.rng(given.seed, "boost"), options.keep
    sets = {"base": own} | {name: _given(own, *finds[name], near, keep) for name in finds}
    ids, labels = finds["published"]
    sets["own"] = _given(own, ids, labels, np.arange(len(own))[:, None], keep)
    sets |= {f"half{h}": _given(own, ids, np.where(half == h, labels, -1), near, keep) for h in (0, 1)}
    for k in range(DRAWS):
        sets[f"random_classes#{k}"] = _given(own, ids, labels, boost.random_sources(near, rng), keep)
        sets[f"random#{k}"] = boost.random_additions(own, sets["published"], len(images.bank), rng)
    found = scores(given.model, images, sets, options)
    crossed = torch.from_numpy(half == 0)[:, None]
    found["half"] = torch.where(crossed, found.pop("half1"), found.pop("half0"))
    base, boosted = found["base"], found["published"]
    found["tuned"] = boost.tuned(base, boosted, images.labels)
    found["tuned_half"] = boost.tuned_elsewhere(base, boosted, images.labels, half)
    added = {name: float(np.mean([len(s) for s in sets[name]]) - np.mean([len(s) for s in own])) for name in finds}
    return Seen(_table(images, found), notes=notes | {"added": added})


def kept(given: Given, options: BoostOptions) -> Seen:
    """As `table2`, three variants, for every number of descriptors handed on in `KEPT` (column `keep`, 0 for all)."""
    own, finds, near, notes = _prepared(given, options)
    rng, sets = seeds.rng(given.seed, "boost"), {"base": own}
    for n in KEPT:
        for name in [name for name in ("published", "label_free") if name in finds]:
            sets[f"{name} {n}"] = _given(own, *finds[name], near, n)
        sets[f"random_classes {n}"] = _given(own, *finds["published"], boost.random_sources(near, rng), n)
    table = _table(given.images, scores(given.model, given.images, sets, options))
    table = table[table["variant"] != "base"].reset_index(drop=True)
    table[["variant", "keep"]] = table["variant"].str.split(" ", expand=True)
    return Seen(table.astype({"keep": int}), notes=notes)


def prompts(given: Given, options: BoostOptions) -> pd.DataFrame:
    """Top-1 (%) of the bank's descriptors under each of `boost.PROMPTS`, and of the "class names alone", by image."""
    clip, images = given.model, given.images
    images.require_descriptors()
    own = {"own": boost.own_sets(images.bank, images.descriptors)}
    found = {name: scores(clip, images, own, replace(options, prompt=name))["own"] for name in boost.PROMPTS}
    found["class names alone"] = (clip.embed_images(images) @ words.classifier(clip, images).T).cpu()
    hits = {name: 100.0 * heads.top_k_hits(values, images.labels).float().numpy() for name, values in found.items()}
    return pd.concat([words.lines(images, prompt=name, top1=hit) for name, hit in hits.items()], ignore_index=True)


def scores(
    clip: Clip, images: ImageDataset, sets: Mapping[str, Sets], options: BoostOptions
) -> dict[str, torch.Tensor]:
    """Scores of all images under each variant, on the CPU: float32 [n, classes]. sets: variant -> descriptor sets."""
    sentence = boost.prompt_of(images.name, options.prompt)
    texts = {name: boost.sentences(images.classes, images.bank, of, sentence) for name, of in sets.items()}
    every = sorted({text for variant in texts.values() for of in variant for text in of})
    embedded = dict(zip(every, clip.embed_texts(every), strict=True))
    seen = clip.embed_images(images)
    return {name: (seen @ boost.classifier(of, embedded, options.aggregate).T).cpu() for name, of in texts.items()}


def _prepared(given: Given, options: BoostOptions) -> tuple[Sets, Finds, np.ndarray, dict[str, str]]:
    """Each class's own descriptors, those of images by variant, each class's neighbours, and notes."""
    clip, images, by = given.model, given.images, options.parts_by
    images.require_descriptors()
    own = boost.own_sets(images.bank, images.descriptors, options.share, given.seed)
    near = boost.neighbours(words.classifier(clip, images), options.nearest)
    found = explain.explain(clip, images, options, given.seed)
    labels = images.labels if options.group == "label" else found.predicted
    finds = {"published": (found.named[by].vision_ids, labels)}
    try:
        train = given.open_images("train", images=options.train_images * len(np.unique(images.labels)))
    except UserError as error:  # a folder of one's own has no training images: these variants have no value then
        return own, finds, near, {"train": str(error)}
    found = explain.explain(clip, train, replace(options, group="predicted"), given.seed)
    ids = found.named[by].vision_ids
    finds |= {"train": (ids, train.labels), "label_free": (ids, found.predicted)}
    return own, finds, near, {"train": f"{len(train)} images"}


def _given(own: Sets, ids: torch.Tensor, classes: np.ndarray, sources: np.ndarray, keep: int) -> Sets:
    return boost.enlarged(own, boost.found_sets(ids, classes, len(own), keep), sources)


def _table(images: ImageDataset, found: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """One line for each image and variant: top1, top5, gain; the draws of a control ("name#draw") averaged."""
    hits: dict[str, list[np.ndarray]] = {}
    for name, values in found.items():
        both = [heads.top_k_hits(values, images.labels, min(k, values.shape[1])) for k in (1, 5)]
        hits.setdefault(name.partition("#")[0], []).append(100.0 * torch.stack(both).float().numpy())
    mean = {name: np.mean(draws, axis=0) for name, draws in hits.items()}
    lines = [
        words.lines(images, variant=name, top1=m[0], top5=m[1], gain=m[0] - mean["base"][0]) for name, m in mean.items()
    ]
    return pd.concat(lines, ignore_index=True)
