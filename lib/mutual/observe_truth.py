"""What the truth says of a model's explanations, where it is known (bestiary), image by image.

`parts`: the found parts against the animal's. `descriptors`: what is named against what holds. `true_parts`: the same
with the true parts put in place of found ones, to see which step loses the truth. A line of each says what an
explanation was held `against`: "the image", or what chance gives ("another class", "at random").
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from lib.bestiary.species import PART_OF_TRAIT, PARTS, TRAITS
from lib.data import ImageDataset, spread
from lib.errors import UserError
from lib.given import Given
from lib.mutual import ground_truth, information, matching, words
from lib.mutual.explain import Named, Parts, embed_parts, find_all, name_parts
from lib.mutual.ground_truth import Scores
from lib.mutual.options import Options, StepOptions
from lib.store import Seen

SMALLEST = 4  # pixels at the model's resolution: a true part of which less is left is not pointed out


@dataclass(frozen=True)
class Truth:
    """What is known of n images and D descriptors.

    held: which hold in which image, bool [n, D]. maps: the part that each pixel shows, int64 [n, H, W], numbers into
    PARTS. part_of: which of PARTS each descriptor speaks of, int64 [D].
    """

    held: np.ndarray
    maps: np.ndarray
    part_of: np.ndarray


def truth_of(images: ImageDataset) -> Truth:
    """What is really in the images. Raises UserError where it is not known."""
    return Truth(held(images), true_maps(images), parts_of(images.bank))


def parts_of(bank: list[str]) -> np.ndarray:
    """Which of `PARTS` each descriptor speaks of: int64 [D]. Raises UserError for one that the bestiary lacks."""
    part = {text: PARTS.index(PART_OF_TRAIT[trait]) for trait, values in TRAITS.items() for text in values.values()}
    unknown = [text for text in bank if text not in part]
    if unknown:
        raise UserError(f"'{unknown[0]}' is no descriptor of the bestiary; only there is known what it speaks of.")
    return np.array([part[text] for text in bank])


def held(images: ImageDataset) -> np.ndarray:
    """Which descriptors hold in which image: bool [n, D]. Raises UserError where the truth is not known."""
    return np.array([np.isin(images.bank, images.true_descriptors(i)) for i in range(len(images))])


def true_maps(images: ImageDataset) -> np.ndarray:
    """The part that each pixel shows: int64 [n, H, W], numbers into `PARTS` (0 is the background)."""
    masks = [images.part_masks(i) for i in range(len(images))]
    return np.stack([sum(PARTS.index(name) * mask for name, mask in image.items()) for image in masks])


# --- what is seen


def parts(given: Given, options: Options) -> Seen:
    """purity and part_iou (%), a line an image, method of `parts` and `against`. tensors: label maps by method."""
    clip, images = given.model, given.images
    truth, maps, tables = true_maps(images), {}, []
    for method, found in find_all(clip, images, options, seed=given.seed).items():
        maps[method] = np.asarray(found.label_maps)
        counts = ground_truth.patch_counts(truth, maps[method].shape[1:], len(PARTS))
        scores = ground_truth.part_scores(maps[method], counts, options.parts, given.seed)
        tables.append(lines(words.lines(images), scores, parts=method))
    return Seen(pd.concat(tables, ignore_index=True), maps)


def descriptors(given: Given, options: Options) -> Seen:
    """The descriptors that an image is said to show, a line an image, list of descriptors and `against`.

    parts and matching say where a list comes from: parts by PCA or K-means with a way of matching; or, parts "none",
    from the "whole image" (as many as the K-means parts name, nearest to it) or the "predicted class". Columns
    precision, recall, f1, holds, placed, base (%), named; and what may track them, of the lists of parts: mi, auc,
    matches, hit (%), last_hit, above_chance (matches less those with an average other class). tensors: the K-means
    parts' lists by `options.matching`, numbers into the bank, -1 pads.
    """
    clip, images = given.model, given.images
    truth, embedded = truth_of(images), clip.embed_images(images)
    predicted, size = words.predictions(clip, images), words.language_size(images, options.top_u)
    who = words.lines(images, predicted=np.array(images.classes)[predicted], top1=100.0 * (predicted == images.labels))
    every = np.arange(len(images.classes))
    language = information.language_concepts(words.language_scores(clip, images), every, size)
    tables, kept = [], {}
    for method, found in find_all(clip, images, options, seed=given.seed).items():
        for kind in matching.METHODS if method == "kmeans" else (options.matching,):
            named = name_parts(clip, images, found, replace(options, matching=kind), embedded)
            kept[method, kind] = named.vision_ids.numpy()
            scores = of_parts(images, truth, named, np.asarray(found.label_maps))
            scores["the image"] |= counts(kept[method, kind], language, predicted, options)
            tables.append(lines(who, scores, parts=method, matching=kind))
    ids = kept["kmeans", options.matching]
    nearest = (embedded @ words.concepts(clip, images).T).argsort(dim=1, descending=True).cpu().numpy()
    whole = np.where(np.arange(nearest.shape[1]) < (ids >= 0).sum(1)[:, None], nearest, -1)
    for kind, listed in (("whole image", whole), ("predicted class", language[predicted])):
        scores = ground_truth.descriptor_scores(listed, truth.held, images.labels)
        tables.append(lines(who, scores, parts="none", matching=kind))
    return Seen(pd.concat(tables, ignore_index=True), {"ids": ids}, {"top_u": size, "bank": len(images.bank)})


def true_parts(given: Given, options: StepOptions) -> pd.DataFrame:
    """As `descriptors`, with the animal's own parts, on some images; also `pointed` (%) of `pointing_scores`."""
    clip, images = given.model, given.images
    chosen = spread(images.labels, options.step_images, given.seed)
    few, tables = images.subset(chosen), []
    truth = truth_of(few)
    maps = at_resolution(truth.maps - 1, clip.image_size)
    embedded, present = embed_parts(clip, clip.pixels(few), maps, len(PARTS) - 1)
    found = Parts(embedded.cpu(), present.cpu(), (maps >= 0).float().mean((1, 2)), maps)
    for kind in matching.METHODS:
        named = name_parts(clip, few, found, replace(options, matching=kind))
        scores = of_parts(few, truth, named, maps.numpy())
        pointed = ground_truth.pointing_scores(named.part_ids.numpy(), truth.held, truth.part_of, given.seed)
        for against, of in pointed.items():
            scores[against] |= of
        tables.append(lines(words.lines(few).assign(image=chosen), scores, parts="true", matching=kind))
    return pd.concat(tables, ignore_index=True)


# --- steps of these


def lines(who: pd.DataFrame, scores: Scores, **columns: Any) -> pd.DataFrame:
    """The scores as a tidy table: a line an image and what it was held against."""
    parts = [who.assign(**columns, against=against, **values) for against, values in scores.items()]
    return pd.concat(parts, ignore_index=True)


def of_parts(images: ImageDataset, truth: Truth, named: Named, label_maps: np.ndarray) -> Scores:
    """Scores of the descriptors `named` of parts that lie at label_maps int [n, h, w]."""
    part_ids, ids = named.part_ids.numpy(), named.vision_ids.numpy()
    patches = ground_truth.patch_counts(truth.maps, label_maps.shape[1:], len(PARTS))
    there = ground_truth.in_place(ground_truth.confusion(label_maps, patches, part_ids.shape[1]), truth.part_of)
    scores = ground_truth.descriptor_scores(ids, truth.held, images.labels)
    placed = ground_truth.place_scores(part_ids, truth.held, there)
    return {k: scores.get(k, {}) | placed.get(k, {}) for k in ("the image", "another class", "at random")}


def counts(ids: np.ndarray, language: np.ndarray, predicted: np.ndarray, options: Options) -> dict[str, np.ndarray]:
    """What can be had without the truth: `tracking.COUNTS`, each float [n].

    ids int [n, N], -1 pads; language int [classes, M]; predicted int [n].
    """
    own = language[predicted]
    curves = information.curves(ids, own, options.information, options.removal)
    mi, auc = information.image_scores(curves, options.parts * options.per_part + 1)
    shared = information.matches_by_class(ids, language, int(max(ids.max(), language.max())) + 1)
    k = shared[np.arange(len(ids)), predicted].astype(float)
    others = (shared.sum(1) - k) / max(shared.shape[1] - 1, 1)
    last = information.last_of(information.matches(ids, own)).astype(float)
    return {"mi": mi, "auc": auc, "matches": k, "hit": 100.0 * (k > 0), "last_hit": last, "above_chance": k - others}


def at_resolution(maps: np.ndarray, size: int) -> torch.Tensor:
    """Label maps int [n, H, W], -1 outside, at a model's resolution: int64 [n, size, size], tiny parts left out."""
    scaled = F.interpolate(torch.from_numpy(maps)[:, None].float(), (size, size))[:, 0].long()
    for image in scaled:
        numbers, pixels = image.unique(return_counts=True)
        image[torch.isin(image, numbers[pixels < SMALLEST])] = -1
    return scaled
