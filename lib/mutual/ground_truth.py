"""Explanations scored against the truth: do the parts fit, do the descriptors hold, and which number tells?

Each score stands beside what chance gives: dict of what an explanation was held `against` ("the image", "another
class", "at random") to dict of score to float [n], in per cent. None of the papers could ask this; what holds in an
image is known where the images are drawn. n images, D descriptors in the bank, -1 pads lists of their numbers. `kinds`:
how many parts an animal can have, the background (number 0) included.
"""

from collections.abc import Sequence

import numpy as np

from lib import seeds

SMALLEST = 12  # pixels: a part of which less is visible counts as not shown
DRAWS = 20  # of what is dealt at random, where the mean has no formula
Scores = dict[str, dict[str, np.ndarray]]


# --- chance, and shares


def dealt(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What each image has in its filled places (0 or more) dealt to them at random: like `values`, int [n, ...]."""
    flat = np.array(values).reshape(len(values), -1)
    for image in flat:
        image[image >= 0] = rng.permutation(image[image >= 0])
    return flat.reshape(np.shape(values))


def ratio(count: np.ndarray, of: np.ndarray) -> np.ndarray:
    """count / of, nan where `of` is 0; shapes as numpy broadcasts them."""
    return np.where(of > 0, count / np.where(of > 0, of, 1), np.nan)


# --- parts against true parts


def patch_counts(truth: np.ndarray, grid: tuple[int, int], kinds: int) -> np.ndarray:
    """How many pixels of each true part a patch of the grid (h, w) holds: int32 [n, h*w, kinds].

    truth int [n, H, W], numbers of true parts. A pixel's patch is that of nearest-neighbour scaling.
    """
    n, height, width = truth.shape
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    cells, size = (rows[:, None] * grid[1] + columns) * kinds + truth, grid[0] * grid[1] * kinds
    counts = np.stack([np.bincount(c.ravel(), minlength=size) for c in cells])
    return counts.reshape(n, -1, kinds).astype(np.int32)


def confusion(found: np.ndarray, counts: np.ndarray, parts: int) -> np.ndarray:
    """Pixels by found part and true part: float32 [n, parts + 1, kinds]; the last row is "no part".

    found int [n, h, w], -1 outside; counts from `patch_counts`; parts: how many there can be.
    """
    flat = np.asarray(found).reshape(len(found), -1).astype(np.int64)
    chosen = np.where(flat < 0, parts, flat)[:, None] == np.arange(parts + 1)[:, None]
    return chosen.astype(np.float32) @ counts.astype(np.float32)


def purity(table: np.ndarray) -> np.ndarray:
    """Share of the animal's pixels in found parts that show the commonest true part of theirs: float [n].

    table: from `confusion`. nan where no found part touches the animal.
    """
    animal = table[:, :-1, 1:]
    return ratio(animal.max(2).sum(1), animal.sum((1, 2)))


def part_iou(table: np.ndarray) -> np.ndarray:
    """Intersection over union of each true part with the found part that fits it best, averaged: float [n].

    Over the parts of the animal of which at least `SMALLEST` pixels are visible; nan where there is none.
    """
    shared, true = table[:, :-1, 1:], table[:, :, 1:].sum(1, keepdims=True)
    union = table[:, :-1].sum(2)[:, :, None] + true - shared
    best, shown = (shared / np.maximum(union, 1)).max(1), true[:, 0] >= SMALLEST
    return ratio((best * shown).sum(1), shown.sum(1))


def extremes(scores: Sequence[float], each: int = 2) -> list[int]:
    """Numbers of the lowest, middle and highest scores, `each` of a kind, lowest first; nan is left out."""
    order = np.argsort(scores, kind="stable")
    order = order[np.isfinite(np.asarray(scores)[order])]
    middle = len(order) // 2
    picked = [*order[:each], *order[middle : middle + each], *order[-each:]]
    return list(dict.fromkeys(int(i) for i in picked))


def part_scores(label_maps: np.ndarray, counts: np.ndarray, parts: int, seed: int = 0) -> Scores:
    """purity and part_iou of the found parts, and of parts dealt "at random" within the same foreground.

    label_maps int [n, h, w], -1 outside; counts from `patch_counts`; parts: how many there can be.
    """
    rng = seeds.rng(seed, "patches dealt to parts")
    found = confusion(label_maps, counts, parts)
    by_chance = [confusion(dealt(label_maps, rng), counts, parts) for _ in range(DRAWS)]
    measures = {"purity": purity, "part_iou": part_iou}
    return {
        "the image": {name: 100 * measure(found) for name, measure in measures.items()},
        "at random": {
            name: 100 * np.mean([measure(t) for t in by_chance], axis=0) for name, measure in measures.items()
        },
    }


# --- descriptors against the descriptors that hold


def members(ids: np.ndarray, bank: int) -> np.ndarray:
    """Lists of ids int [n, N], -1 pads, as bool [n, bank]."""
    ids = np.asarray(ids)
    found = np.zeros((len(ids), bank + 1), bool)
    np.put_along_axis(found, np.where(ids < 0, bank, ids), True, axis=1)
    return found[:, :bank]


def precision(named: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Share of the named descriptors that hold, bool [n, D] twice: float [n], nan where none is named."""
    return ratio((named & true).sum(1), named.sum(1))


def recall(named: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Share of the descriptors that hold which are named, bool [n, D] twice: float [n], nan where none holds."""
    return precision(true, named)


def descriptor_scores(ids: np.ndarray, true: np.ndarray, labels: np.ndarray) -> Scores:
    """precision, recall and f1 of each image's descriptors, how many are `named`, and `base`.

    ids int [n, N]; true bool [n, D]; labels int [n]. "another class": the mean of the same descriptors against every
    image of another class, nan when there are none. base: the precision of naming at random, the bank's share that
    holds.
    """
    named, others = members(ids, true.shape[1]), np.not_equal.outer(labels, labels)
    hits, count, known = named.astype(float) @ true.T.astype(float), named.sum(1)[:, None], true.sum(1)
    pairs = {"precision": ratio(hits, count), "recall": ratio(hits, known), "f1": ratio(2 * hits, count + known)}
    wrong = {name: 100 * ratio(np.where(others, of, 0).sum(1), others.sum(1)) for name, of in pairs.items()}
    own = {name: 100 * np.diagonal(of) for name, of in pairs.items()}
    counted = {"named": named.sum(1).astype(float), "base": 100 * true.mean(1)}
    return {"the image": own | counted, "another class": wrong}


# --- descriptors of a part against that part


def in_place(table: np.ndarray, part_of: np.ndarray) -> np.ndarray:
    """Whether a descriptor's true part is where the found part is: bool [n, parts, D].

    table: from `confusion`; part_of int [D]. It is when the found part covers at least half of the true part, or the
    true part at least half of the found one.
    """
    shared = table[:, :-1].astype(float)
    of_found = shared / np.maximum(shared.sum(2, keepdims=True), 1)
    of_true = shared / np.maximum(table.sum(1)[:, None], 1)
    there = ((of_found >= 0.5) | (of_true >= 0.5)) & (shared > 0)
    return there[:, :, part_of]


def place_scores(part_ids: np.ndarray, true: np.ndarray, there: np.ndarray) -> Scores:
    """Share of the descriptors named for a part that hold in the image, and that are `placed`: hold for *that* part.

    part_ids int [n, L, k]; true bool [n, D]; there bool [n, L, D] from `in_place`. "at random": what is expected when
    the same descriptors are dealt to the image's parts. nan where no part has a descriptor.
    """
    ids, placed = np.asarray(part_ids), there & true[:, None]
    filled, flat = ids >= 0, ids.reshape(len(ids), -1)
    slots = filled.sum((1, 2))
    holds = np.take_along_axis(true, np.maximum(flat, 0), 1) & (flat >= 0)
    everywhere = np.broadcast_to(flat[:, None], (*ids.shape[:2], flat.shape[1]))
    dealt = _right(everywhere, placed).sum(2) * filled.sum(2)  # each of a part's places: the mean over what is dealt
    own = {"holds": ratio(holds.sum(1), slots), "placed": ratio(_right(ids, placed).sum((1, 2)), slots)}
    own = {name: 100 * share for name, share in own.items()}
    return {"the image": own, "at random": {"placed": 100 * ratio(dealt.sum(1), slots**2)}}


def pointing_scores(part_ids: np.ndarray, true: np.ndarray, part_of: np.ndarray, seed: int = 0) -> Scores:
    """Of the true parts that have a descriptor, how many were `pointed` out: got one of their own.

    part_ids int [n, kinds - 1, k], by true part; true bool [n, D]; part_of int [D]. "at random": the same descriptors
    dealt to the image's parts. nan where no part with a descriptor is shown.
    """
    ids, rng = np.asarray(part_ids), seeds.rng(seed, "descriptors dealt to true parts")
    own = true[:, None] & (part_of == np.arange(1, ids.shape[1] + 1)[:, None])
    asked = (ids >= 0).any(2) & own.any(2)

    def share(named: np.ndarray) -> np.ndarray:
        return 100 * ratio((_right(named, own).any(2) & asked).sum(1), asked.sum(1))

    by_chance = np.mean([share(dealt(ids, rng)) for _ in range(DRAWS)], axis=0)
    return {"the image": {"pointed": share(ids)}, "at random": {"pointed": by_chance}}


def _right(ids: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which of the named descriptors int [n, L, k] are right for their part, bool [n, L, D]: bool [n, L, k]."""
    return np.take_along_axis(right, np.maximum(ids, 0), 2) & (ids >= 0)
