"""What the descriptors of an image and of its class share: the information measure, its dynamics, and AUC.

The vision side of an image is its list of N distinct descriptors, most relevant first; the language side is the list of
the M descriptors nearest to a class name; K of them are in both. The paper writes (equations 1 and 3)

    I = H(vision) + H(language) - H(vision, language),   H(vision) = ln N,   H(language) = ln M,

and takes the joint entropy from the table T_ij = [descriptor i = descriptor j], scaled to sum 1: K equal entries, so
H(vision, language) = ln K. Its last line (equation 9) and the released code have a plus there. Three readings follow,
each 0 when K = 0, all in nats:

"released" is ln N + ln M + ln K: what was run and published. It grows with the overlap, but a single match is already
worth ln(N·M), 6.6 nats for N = 15 and M = 50.
"definition" is ln N + ln M - ln K: the formula with its own minus sign. It *falls* as the overlap grows, because ln N
and ln M are not the entropies of the table's margins.
"consistent" is ln K: the mutual information of that table, with margins and joint entropy taken from the same table.

Ids are integers; lists [images, descriptors] are padded with -1 at their end.
"""

from typing import Any

import numpy as np
import torch

from lib.errors import UserError, one_of

READINGS = ("released", "definition", "consistent")
REMOVALS = ("dummy", "drop")


def shared_information(n: Any, m: Any, k: Any, information: str = "released") -> np.ndarray:
    """Information in nats of lists of n and m descriptors with k in common, elementwise: see the top of this module."""
    one_of("information", information, READINGS)
    n, m, k = np.broadcast_arrays(*(np.asarray(_array(x), dtype=float) for x in (n, m, k)))
    if (k < 0).any() or (k > np.minimum(n, m)).any():
        raise UserError("The overlap k must lie between 0 and the length of the shorter list; check the counts.")
    log_n, log_m, log_k = (np.log(np.where(k > 0, x, 1)) for x in (n, m, k))
    if information == "released":
        return log_n + log_m + log_k
    return log_n + log_m - log_k if information == "definition" else log_k


def language_concepts(scores: Any, classes: Any, top_u: int) -> np.ndarray:
    """The descriptors nearest to each image's class name, nearest first: int64 [B, top_u].

    scores [classes, D] (class text and descriptor text), classes int [B]. Paper section 3.2, where top_u is called u.
    """
    scores = _array(scores)
    bank = scores.shape[1]
    if not 1 <= top_u <= bank:
        raise UserError(f"top_u = {top_u} was given for a bank of {bank} descriptors; expected 1 to the bank's size.")
    if not np.isfinite(scores).all():
        raise UserError("The class-descriptor scores contain NaN or infinite values; check the weights.")
    return np.argsort(-scores, axis=1, kind="stable")[:, :top_u][_array(classes)]


def matches(vision_ids: Any, language_ids: Any) -> np.ndarray:
    """Which vision-side descriptors the language side has too: [B, N], [B, M] -> bool [B, N]."""
    vision, language = _lists(vision_ids, "vision"), _lists(language_ids, "language")
    if len(vision) != len(language):
        given = f"{len(vision)} vision lists and {len(language)} language lists were given"
        raise UserError(f"{given}; expected one of each an image.")
    found = np.zeros(vision.shape, bool)
    for nth in language.T:  # a loop over M, so that memory stays that of the lists
        found |= vision == nth[:, None]
    return found & (vision >= 0)


def last_of(hits: np.ndarray) -> np.ndarray:
    """Rank (from 1) of the last descriptor that is a hit, 0 if none: bool [B, N] of `matches` -> int [B].

    So many descriptors must be removed until a "released" curve is 0, so that AUC mostly measures this.
    """
    return (hits * np.arange(1, hits.shape[1] + 1)).max(axis=1, initial=0)


def curves(vision_ids: Any, language_ids: Any, information: str = "released", removal: str = "dummy") -> np.ndarray:
    """Information of each image as its descriptors are taken away, most relevant first.

    [B, N], [B, M] -> float64 [B, N + 1]: entry i after i removals, nan beyond the end of an image's list. "dummy"
    (released code) overwrites a removed descriptor, so that the list keeps its length; "drop" (the paper's words)
    shortens it. Paper section 3.3.
    """
    n, m = ((_array(ids) >= 0).sum(axis=1) for ids in (vision_ids, language_ids))
    return curves_of(matches(vision_ids, language_ids), n, m, information, removal)


def curves_of(
    hits: np.ndarray, n: np.ndarray, m: np.ndarray, information: str = "released", removal: str = "dummy"
) -> np.ndarray:
    """`curves` of lists of n and m descriptors (int [B]) of which `hits` (bool [B, N], of `matches`) are shared."""
    one_of("removal", removal, REMOVALS)
    removed = np.arange(hits.shape[1] + 1)
    left = np.maximum(n[:, None] - removed, 0) if removal == "drop" else n[:, None]
    k = np.pad(np.cumsum(hits[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    return np.where(removed <= n[:, None], shared_information(left, m[:, None], k, information), np.nan)


def padded(image_curves: np.ndarray, length: int | None = None) -> np.ndarray:
    """Curves filled with zeros beyond their end: [B, N + 1] -> [B, length], by default as long as the longest list.

    AUC depends on `length`: give the same to sets of images that are to be compared.
    """
    image_curves = np.asarray(image_curves, dtype=float)
    longest = int((~np.isnan(image_curves)).sum(axis=1).max(initial=0))
    length = longest if length is None else length
    if length < longest:
        raise UserError(f"length = {length} was given for curves of up to {longest} points; expected at least that.")
    filled = np.nan_to_num(image_curves[:, :length])
    return np.pad(filled, ((0, 0), (0, length - filled.shape[1])))


def image_scores(image_curves: np.ndarray, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """MI (first point) and AUC (as published, the plain mean of the points) of each padded curve: float64 [B] each.

    Their means over images are the MI and the AUC of the mean curve (Table 3): resample these to get intervals.
    """
    values = padded(image_curves, length)
    return values[:, 0], values.mean(axis=1)


def matches_by_class(vision_ids: Any, language_ids: Any, bank: int) -> np.ndarray:
    """How many of each image's descriptors each class's list has: [B, N], [classes, M] -> int64 [B, classes]."""
    vision, language = _lists(vision_ids, "vision"), _lists(language_ids, "language")
    listed = np.zeros((len(language), bank + 1), np.int64)
    np.put_along_axis(listed, language, 1, axis=1)
    return np.stack([listed[:, image].sum(1) for image in np.where(vision < 0, bank, vision)])


# --- what chance gives


def wrong_classes(predicted: np.ndarray, classes: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """For each image `draws` classes that were not predicted: int64 [draws, B]."""
    return (predicted + rng.integers(1, classes, (draws, len(predicted)))) % classes


def random_lists(ids: Any, bank: int, rng: np.random.Generator) -> np.ndarray:
    """Each image's list replaced by as many distinct descriptors drawn from the bank: int64 like `ids`, -1 pads."""
    ids = _array(ids)
    count = min(ids.shape[1], bank)  # a bank smaller than the lists leaves places empty
    drawn = np.full(ids.shape, -1)
    for i, j in enumerate(range(bank - count, bank)):  # Floyd's way to draw without replacement, for all images at once
        new = rng.integers(0, j + 1, len(ids))
        drawn[:, i] = np.where((drawn[:, :i] == new[:, None]).any(1), j, new)
    drawn[:, :count] = rng.permuted(drawn[:, :count], axis=1)  # his order is not random
    return np.where(ids >= 0, drawn, -1)


def _array(values: Any) -> np.ndarray:
    return torch.as_tensor(values).cpu().numpy()


def _lists(ids: Any, side: str) -> np.ndarray:
    ids = _array(ids)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        given = f"The {side} lists have shape {ids.shape} and type {ids.dtype}"
        raise UserError(f"{given}; expected integers [images, descriptors].")
    if ((ids[:, 1:] >= 0) & (ids[:, :-1] < 0)).any():
        raise UserError(f"A {side} list has an id after its -1 padding; expected the padding at the end.")
    in_order = np.sort(ids, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any():
        raise UserError(f"A {side} list holds the same descriptor twice; expected distinct ids.")
    return ids
