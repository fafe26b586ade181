"""Explanations scored against the truth, which the bestiary knows: do the parts fit, and do the descriptors hold?

Two questions, each beside what chance gives. Are the parts that were found the animal's parts: `part_scores`. Does
what is said about the image hold in it, and does what is said about a part hold for that part: `descriptor_scores`,
`place_scores`. None of the papers could ask either.
"""

import numpy as np
import torch
from torch.nn import functional as F

from lib import store
from lib.bestiary.species import PART_OF_TRAIT, PARTS, TRAITS
from lib.data import spread
from lib.errors import UserError
from lib.models import heads
from lib.mutual import information, matching
from lib.mutual.explain import PART_METHODS, Parts, embed_parts, find, find_all, name_parts
from lib.mutual.table3 import language_size

VERSION = 1  # raise it when a row's numbers change
SMALLEST = 12  # pixels: a part of which less is visible counts as not shown
DRAWS = 5  # of each null model
COUNTS = ("mi", "auc", "matches", "hit", "last_hit", "above_chance")  # what may track the truth


# --- the truth


def parts_of(bank):
    """Which of `PARTS` each descriptor speaks of: int64 [D]. Raises UserError for one that the bestiary lacks."""
    part = {text: PARTS.index(PART_OF_TRAIT[trait]) for trait, values in TRAITS.items() for text in values.values()}
    unknown = [text for text in bank if text not in part]
    if unknown:
        raise UserError(f"'{unknown[0]}' is no descriptor of the bestiary; only there is known what it speaks of.")
    return np.array([part[text] for text in bank])


def held(data):
    """Which descriptors hold in which image: bool [n, D]. Raises UserError where the truth is not known."""
    number = {text: i for i, text in enumerate(data.bank)}
    found = np.zeros((len(data), len(number)), bool)
    for i in range(len(data)):
        found[i, [number[text] for text in data.true_descriptors(i) if text in number]] = True
    return found


def true_maps(data):
    """The part that each pixel shows: int64 [n, H, W], numbers into `PARTS` (0 is the background)."""
    maps = []
    for i in range(len(data)):
        masks = data.part_masks(i)
        side = next(iter(masks.values())).shape
        maps.append(np.zeros(side, np.int64))
        for name, mask in masks.items():
            maps[-1][mask] = PARTS.index(name)
    return np.stack(maps)


# --- parts against true parts


def patch_counts(truth, grid):
    """How many pixels of each true part a patch holds: int32 [n, h*w, parts].

    truth int [n, H, W], numbers into `PARTS`; grid (h, w). A pixel belongs to the patch that nearest-neighbour
    scaling of the grid would give it.
    """
    n, height, width = truth.shape
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    patch = rows[:, None] * grid[1] + columns
    cells, size = patch * len(PARTS) + truth, grid[0] * grid[1] * len(PARTS)
    counts = np.stack([np.bincount(c.ravel(), minlength=size) for c in cells])
    return counts.reshape(n, -1, len(PARTS)).astype(np.int32)


def confusion(found, counts, parts):
    """Pixels of each image by found part and true part: float32 [n, parts + 1, PARTS]; the last row is "no part".

    found int [n, h, w], -1 outside; counts from `patch_counts`; parts: how many there can be.
    """
    flat = np.asarray(found).reshape(len(found), -1).astype(np.int64)
    chosen = np.where(flat < 0, parts, flat)[:, None] == np.arange(parts + 1)[:, None]
    return chosen.astype(np.float32) @ counts.astype(np.float32)


def purity(table):
    """Share of the animal's pixels in found parts that show the commonest true part of theirs: float [n].

    table: from `confusion`. The background is left out, since the foreground is judged elsewhere; nan where no
    found part touches the animal.
    """
    animal = table[:, :-1, 1:]
    total = animal.sum((1, 2))
    return np.where(total > 0, animal.max(2).sum(1) / np.maximum(total, 1), np.nan)


def part_iou(table):
    """Intersection over union of each true part with the found part that fits it best, averaged: float [n].

    Over the parts of the animal of which at least `SMALLEST` pixels are visible; nan where there is none.
    """
    shared, true = table[:, :-1, 1:], table[:, :, 1:].sum(1, keepdims=True)
    union = table[:, :-1].sum(2)[:, :, None] + true - shared
    best = (shared / np.maximum(union, 1)).max(1)
    shown = true[:, 0] >= SMALLEST
    return np.where(shown.any(1), (best * shown).sum(1) / np.maximum(shown.sum(1), 1), np.nan)


def shuffled(label_maps, rng):
    """Every image's foreground patches dealt to its parts at random, each part as large as before."""
    maps = np.array(label_maps)
    for image in maps:
        inside = image >= 0
        image[inside] = rng.permutation(image[inside])
    return maps


def part_scores(label_maps, counts, parts, seed=0):
    """Purity and IoU (%) of the found parts, and of parts dealt at random within the same foreground.

    label_maps int [n, h, w], -1 outside; counts from `patch_counts`.
    """
    rng = np.random.default_rng([seed, 61])
    tables = [confusion(shuffled(label_maps, rng), counts, parts) for _ in range(DRAWS)]
    table = confusion(label_maps, counts, parts)
    return {
        "purity": 100 * purity(table),
        "purity_null": 100 * np.mean([purity(t) for t in tables], axis=0),
        "part_iou": 100 * part_iou(table),
        "part_iou_null": 100 * np.mean([part_iou(t) for t in tables], axis=0),
    }


# --- descriptors against the descriptors that hold


def members(ids, bank):
    """Lists of ids int [n, N], -1 pads, as bool [n, bank]."""
    ids = np.asarray(ids)
    found = np.zeros((len(ids), bank + 1), bool)
    np.put_along_axis(found, np.where(ids < 0, bank, ids), True, axis=1)
    return found[:, :bank]


def precision(named, true):
    """Share of the named descriptors that hold, bool [n, D] twice: float [n], nan where none is named."""
    count = named.sum(1)
    return np.where(count > 0, (named & true).sum(1) / np.maximum(count, 1), np.nan)


def recall(named, true):
    """Share of the descriptors that hold which are named, bool [n, D] twice: float [n], nan where none holds."""
    return precision(true, named)


def f1(named, true):
    """Harmonic mean of precision and recall, 0 where nothing named holds: float [n]."""
    both = named.sum(1) + true.sum(1)
    return np.where(both > 0, 2 * (named & true).sum(1) / np.maximum(both, 1), np.nan)


def descriptor_scores(ids, true, labels, seed=0):
    """Precision, recall and F1 (%) of each image's descriptors, and what chance gives.

    ids int [n, N], -1 pads; true bool [n, D]; labels int [n]. "_wrong": the same descriptors against images of other
    classes (nan when there are none); "base": the share of the bank that holds, which is the precision of naming at
    random; "named": how many are named.
    """
    named, rng = members(ids, true.shape[1]), np.random.default_rng([seed, 62])
    others = [other_class(labels, rng) for _ in range(DRAWS)]
    scores = {}
    for name, function in (("precision", precision), ("recall", recall), ("f1", f1)):
        scores[name] = 100 * function(named, true)
        wrong = [np.where(o >= 0, 100 * function(named, true[o]), np.nan) for o in others]
        scores[f"{name}_wrong"] = np.mean(wrong, axis=0)
    return scores | {"base": 100 * true.mean(1), "named": named.sum(1).astype(float)}


def other_class(labels, rng):
    """For each image the number of one of another class, drawn at random: int64 [n], -1 where there is none."""
    labels = np.asarray(labels)
    drawn = [np.flatnonzero(labels != label) for label in labels]
    return np.array([rng.choice(others) if len(others) else -1 for others in drawn])


# --- descriptors of a part against that part


def in_place(table, part_of):
    """Whether a descriptor's true part is where the found part is: bool [n, count, D].

    table: from `confusion`; part_of int [D]. It is when the found part covers at least half of the true part, or the
    true part at least half of the found one: a region of the head that holds both eyes counts for the eyes, and one
    that lies on the body counts for the body.
    """
    shared = table[:, :-1].astype(float)
    of_found = shared / np.maximum(shared.sum(2, keepdims=True), 1)
    of_true = shared / np.maximum(table.sum(1)[:, None], 1)
    there = ((of_found >= 0.5) | (of_true >= 0.5)) & (shared > 0)
    return there[:, :, part_of]


def place_scores(part_ids, true, there, seed=0):
    """Share (%) of the descriptors named for a part that hold in the image, and that hold for *that* part.

    part_ids int [n, L, k], -1 pads; true bool [n, D]; there bool [n, L, D] from `in_place`. "placed_null": the same
    descriptors dealt to the image's parts at random. nan where no part has a descriptor.
    """
    ids, rng = np.asarray(part_ids), np.random.default_rng([seed, 63])
    dealt = np.mean([_placed(_dealt(ids, rng), true, there) for _ in range(DRAWS)], axis=0)
    everywhere = np.ones((*ids.shape[:2], true.shape[1]), bool)
    counts = {"holds": _placed(ids, true, everywhere), "placed": _placed(ids, true, there), "placed_null": dealt}
    slots = (ids >= 0).sum((1, 2))
    return {k: np.where(slots > 0, 100 * v / np.maximum(slots, 1), np.nan) for k, v in counts.items()}


def _placed(ids, true, there):
    """How many descriptors of an image hold for the part that they were named for: int [n]."""
    both = there & true[:, None]
    return (np.take_along_axis(both, np.maximum(ids, 0), 2) & (ids >= 0)).sum((1, 2))


def _dealt(ids, rng):
    """The descriptors of each image dealt to its filled places at random: like `ids` [n, L, k]."""
    flat = ids.reshape(len(ids), -1).copy()
    for image in flat:
        image[image >= 0] = rng.permutation(image[image >= 0])
    return flat.reshape(ids.shape)


# --- one model


def row(clip, data, parts=5, per_part=3, top_u=0, seed=0):
    """Everything that the truth says about a model's explanations, image by image.

    For parts by PCA and by K-means: purity, part_iou and their nulls; precision, recall, f1 with their wrong-class
    values, holds, placed and placed_null of the descriptors. For K-means also under each matching method, and for
    the language side ("language") and the whole image ("whole": as many descriptors as the parts name, nearest to the
    image). And what may track the truth: mi, auc, matches, hit, last_hit and above_chance (matches minus those with
    the language sides of all other classes), K-means. Raises UserError where the truth is not known.
    """
    true, truth, part_of = held(data), true_maps(data), parts_of(data.bank)
    by_class = heads.classifier(clip, data.classes, data.templates)
    predicted = (clip.embed_images(data) @ by_class.T).argmax(1).cpu().numpy()
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
    metrics, arrays = {"top1": 100.0 * (predicted == data.labels)}, {"predicted": predicted, "labels": data.labels}
    for method, found in find_all(clip, data, PART_METHODS, parts, seed=seed).items():
        counts = patch_counts(truth, found.label_maps.shape[1:])
        scores = part_scores(found.label_maps, counts, parts, seed)
        there = in_place(confusion(found.label_maps, counts, parts), part_of)
        for kind in matching.METHODS if method == "kmeans" else ("transport",):
            by_part, ids, _ = name_parts(clip, data, found, kind, per_part)
            suffix = method if kind == "transport" else kind
            scored = descriptor_scores(ids, true, data.labels, seed) | place_scores(by_part, true, there, seed)
            metrics |= {f"{key}_{suffix}": value for key, value in scored.items() if key != "base"}
            arrays |= {f"ids_{suffix}": ids.numpy(), f"part_ids_{suffix}": by_part.numpy()}
        metrics |= {f"{key}_{method}": value for key, value in scores.items()}
    ids = arrays["ids_kmeans"]
    size = min(language_size(data, top_u), len(data.bank))
    language = information.language_concepts((by_class @ concepts.T).cpu(), np.arange(len(by_class)), size)
    metrics |= trackers(ids, language, predicted, parts * per_part + 1)
    nearest = (clip.embed_images(data) @ concepts.T).argsort(dim=1, descending=True).cpu().numpy()
    whole = np.where(np.arange(nearest.shape[1]) < (ids >= 0).sum(1)[:, None], nearest, -1)
    for name, listed in (("language", language[predicted]), ("whole", whole)):
        scored = descriptor_scores(listed, true, data.labels, seed)
        metrics |= {f"{key}_{name}": value for key, value in scored.items()}
    metrics["base"] = metrics.pop("base_whole")
    del metrics["base_language"]
    return {"metrics": metrics, "arrays": arrays, "notes": {"top_u": size, "bank": len(data.bank)}}


def label_maps(clip, data, parts=5, seed=0):
    """The parts found by PCA and by K-means: dict of name to int8 [n, h, w], -1 outside."""
    names = {"pca": "parts by PCA", "kmeans": "by K-means"}
    found = find_all(clip, data, tuple(names), parts, seed=seed)
    return {title: found[method].label_maps.numpy() for method, title in names.items()}


def trackers(ids, language, predicted, length):
    """`COUNTS` of each image: dict of float [n].

    ids int [n, N], -1 pads; language int [classes, M]; predicted int [n]; length: of the padded curves.
    """
    own = language[predicted]
    mi, auc = information.image_scores(information.curves(ids, own), length)
    bank = int(max(ids.max(), language.max())) + 1
    shared = members(ids, bank).astype(int) @ members(language, bank).astype(int).T
    k = shared[np.arange(len(ids)), predicted].astype(float)
    chance = (shared.sum(1) - k) / max(shared.shape[1] - 1, 1)
    last = information.last_hit(ids, own).astype(float)
    return {"mi": mi, "auc": auc, "matches": k, "hit": 100.0 * (k > 0), "last_hit": last, "above_chance": k - chance}


# --- the same with the truth put in, to see which step fails


def true_parts(clip, data, batch_size=256):
    """The animal's own parts in place of found ones: `Parts`, label maps [n, S, S] with numbers into `PARTS` less 1."""
    count = len(PARTS) - 1

    def compute():
        maps = torch.from_numpy(true_maps(data)) - 1
        maps = F.interpolate(maps[:, None].float(), (clip.image_size,) * 2)[:, 0].long()
        for image in maps:
            for part in range(count):
                if (image == part).sum() < 4:  # hardly a pixel is left of it at the model's resolution
                    image[image == part] = -1
        embedded, present = embed_parts(clip, clip.pixels(data), maps, count, batch_size)
        share = (maps >= 0).float().mean((1, 2))
        return {"embedded": embedded, "present": present, "foreground": share, "label_maps": maps.to(torch.int8)}

    key = {"kind": "true_parts", "model": clip.decides, "images": data.fingerprint}
    return Parts(**store.tensors(key, compute))


def pointing(part_ids, true, part_of, seed=0):
    """Of the true parts that have a descriptor, how many (%) got one of their own: "pointed" and "pointed_null".

    part_ids int [n, parts, k] of `true_parts`, -1 pads; true bool [n, D]; part_of int [D]. The null deals the same
    descriptors to the image's parts at random. nan where no part with a descriptor is shown.
    """
    ids, rng = np.asarray(part_ids), np.random.default_rng([seed, 64])
    own = true[:, None] & (part_of == np.arange(1, ids.shape[1] + 1)[:, None])
    asked = (ids >= 0).any(2) & own.any(2)

    def share(named):
        right = (np.take_along_axis(own, np.maximum(named, 0), 2) & (named >= 0)).any(2)
        return np.where(asked.any(1), 100 * (right & asked).sum(1) / np.maximum(asked.sum(1), 1), np.nan)

    return {"pointed": share(ids), "pointed_null": np.mean([share(_dealt(ids, rng)) for _ in range(DRAWS)], axis=0)}


def steps(clip, data, parts=5, per_part=3, images=96, seed=0):
    """Which step loses the truth: the descriptors' scores with found parts and with the true ones.

    On `images` images, spread over the classes (0: all). Metrics <score>_<parts>_<matching>: precision, recall,
    named, holds, placed and placed_null for the parts "found" by K-means and the "true" ones, with every matching
    method; for the true ones also pointed and pointed_null.
    """
    chosen = spread(data.labels, images, seed) if 0 < images < len(data) else np.arange(len(data))
    few, whole = data.subset(chosen), find(clip, data, parts=parts, seed=seed)
    kinds = {"found": Parts(*(values[chosen] for values in vars(whole).values())), "true": true_parts(clip, few)}
    true, truth, part_of, metrics = held(few), true_maps(few), parts_of(few.bank), {}
    for name, found in kinds.items():
        count = found.present.shape[1]
        counts = patch_counts(truth, found.label_maps.shape[1:])
        there = in_place(confusion(found.label_maps, counts, count), part_of)
        for kind in matching.METHODS:
            by_part, ids, _ = name_parts(clip, few, found, kind, per_part)
            scored = descriptor_scores(ids, true, few.labels, seed) | place_scores(by_part, true, there, seed)
            kept = ("precision", "recall", "named", "holds", "placed", "placed_null")
            scored = {key: scored[key] for key in kept}
            scored |= pointing(by_part, true, part_of, seed) if name == "true" else {}
            metrics |= {f"{key}_{name}_{kind}": value for key, value in scored.items()}
    return {"metrics": metrics, "arrays": {}, "notes": {"images": len(few)}}
