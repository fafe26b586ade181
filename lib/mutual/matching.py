"""From parts to descriptors: candidates, relevance filter, optimal transport, an image's list of concepts.

B images, L parts (an image may show fewer: `present` says which), D descriptors of the bank. An image's lists are
padded with -1. fit [B, D] is the cosine of the whole image and each descriptor.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.errors import UserError, one_of

SCORE_SCALE = 2.5  # CLIPScore's constant, which the released code applies before the transport
METHODS = ("transport", "centred", "nearest", "top")


def candidates(similarity: Tensor, present: Tensor, top: int = 500, candidates: str = "intersection") -> Tensor:
    """Descriptors among the `top` most similar of every part, or of any.

    similarity [B, L, D], present bool [B, L] -> bool [B, D]; `top` beyond D takes all. candidates "intersection":
    of every part of the image (released code); "union": of any (the paper mentions no intersection).
    """
    one_of("candidates", candidates, ("intersection", "union"))
    if top < 1:
        raise UserError(f"top = {top} was given; expected at least 1 candidate for each part.")
    best = similarity.topk(min(top, similarity.shape[2]), dim=2).indices
    in_top = torch.zeros_like(similarity, dtype=torch.bool).scatter_(2, best, True)
    if candidates == "union":
        return (in_top & present[..., None]).any(dim=1)
    return (in_top | ~present[..., None]).all(dim=1) & present.any(dim=1, keepdim=True)


def relevant(fit: Tensor, candidate: Tensor, relevance: str = "released", offset: float = 0.02) -> Tensor:
    """Candidates that fit the whole image, relative to the image's other candidates.

    fit [B, D], candidate bool [B, D] -> bool [B, D]. relevance "released": above their mean minus `offset`; "paper"
    (footnote 3): above their median plus `offset`; "none": all.
    """
    one_of("relevance", relevance, ("released", "paper", "none"))
    if not torch.isfinite(fit).all():
        raise UserError("The fit contains NaN or infinite values; check the weights and the precision.")
    if relevance == "none":
        return candidate
    values = fit.masked_fill(~candidate, torch.nan)
    if relevance == "released":
        threshold = values.nanmean(dim=1, keepdim=True) - offset
    else:
        threshold = values.nanquantile(0.5, dim=1, keepdim=True) + offset
    return candidate & (fit > threshold)


def sinkhorn(
    similarity: Tensor, present: Tensor, candidate: Tensor, temperature: float = 1.0, rounds: int = 1000
) -> Tensor:
    """Transport plan between parts and candidates: columns sum to 1, rows to (candidates / parts).

    similarity [B, L, K], present bool [B, L], candidate bool [B, K] -> float64 [B, L, K], zero outside. A round scales
    the rows of exp(2.5 similarity / temperature) to sum 1, then the columns, as the released code does; here in the
    factors u, v of plan = u · kernel · v. A round shrinks the distance to the limit by tanh(d/4)² or more, d being the
    kernel's largest log cross-ratio (Birkhoff): CLIP's plans stand still after some ten rounds, and the loop ends
    there. Paper equation 2.
    """
    if temperature <= 0 or rounds < 1:
        given = f"temperature = {temperature} and rounds = {rounds} were given"
        raise UserError(f"{given}; expected a positive number and at least 1.")
    allowed = present[:, :, None] & candidate[:, None, :]
    score = (SCORE_SCALE * similarity.double() / temperature).masked_fill(~allowed, -torch.inf)
    highest = score.amax(dim=2, keepdim=True)
    # the first row scaling undoes any factor of a row: taking out the largest entry keeps exp within range
    kernel = torch.exp(score - torch.where(highest.isfinite(), highest, 0.0))
    v = candidate.double()
    for _ in range(rounds):
        u = _inverse((kernel @ v[..., None])[..., 0])
        columns = _inverse((kernel.mT @ u[..., None])[..., 0])
        # the factors grow by candidates / parts in each round; only their proportions matter
        previous, v = v, columns / columns.amax(dim=1, keepdim=True).clamp(min=1e-300)
        if torch.allclose(v, previous, rtol=1e-13, atol=0):
            break
    return u[:, :, None] * kernel * columns[:, None, :]


def match(
    similarity: Tensor,
    present: Tensor,
    candidate: Tensor,
    matching: str = "transport",
    per_part: int = 3,
    temperature: float = 1.0,
    rounds: int = 1000,
) -> Tensor:
    """The descriptors of each part.

    similarity [B, L, D] (part and descriptor), present bool [B, L], candidate bool [B, D] (from `candidates` and
    `relevant`) -> int64 [B, L, per_part], best first, -1 where there is none. matching: "transport" (published),
    "centred" (ranks candidates by the similarity minus its mean over the parts, to which the transport amounts at
    temperature 1), "nearest" (the most similar of the candidates), "top" (the most similar of the whole bank). With
    one part the transport would rank nothing: similarity does. Raises UserError for NaN and shapes that do not fit.
    """
    one_of("matching", matching, METHODS)
    _require(similarity, present, candidate, per_part)
    if matching == "top":
        return _best(similarity, present[..., None].expand_as(similarity), per_part)
    ids, filled = _gather_ids(candidate)
    if ids.shape[1] == 0:
        return ids.new_full((*present.shape, per_part), -1)
    score = similarity.gather(2, ids[:, None].expand(-1, similarity.shape[1], -1)).double()
    shown = present.sum(dim=1)[:, None, None]
    if matching == "transport":
        ranked = sinkhorn(score, present, filled, temperature, rounds)
    elif matching == "centred":
        ranked = score - (score * present[..., None]).sum(dim=1, keepdim=True) / shown.clamp(min=1)
    else:
        ranked = score
    best = _best(torch.where(shown == 1, score, ranked), present[:, :, None] & filled[:, None, :], per_part)
    found = ids[:, None].expand(-1, best.shape[1], -1).gather(2, best.clamp(min=0))
    return torch.where(best >= 0, found, -1)


def vision_concepts(part_ids: Tensor, fit: Tensor) -> Tensor:
    """The image's distinct descriptors, most relevant to the whole image first.

    part_ids int64 [B, L, per_part] from `match`, fit [B, D] -> int64 [B, L·per_part], -1 pads. Descriptors that fit
    equally well keep the order of the parts. Paper section 3.2.
    """
    ids = part_ids.flatten(1)
    same = ids[:, :, None] == ids[:, None, :]
    repeated = same.tril(diagonal=-1).any(dim=2)
    ids = ids.masked_fill(repeated, -1)
    importance = fit.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return ids.gather(1, importance.argsort(dim=1, descending=True, stable=True))


def entropy(part_ids: Tensor | np.ndarray, unit: str = "nats") -> np.ndarray:
    """Entropy of the descriptors over an image's parts: float [n], 0 where there is none.

    part_ids int [n, L, k], -1 pads. -sum (n_d / n) log(n_d / n), n_d of the n filled places being held by descriptor d.
    unit: "nats" or "bits". The paper gives no formula (appendix A.2); the published values fit this one in nats.
    """
    one_of("unit", unit, ("nats", "bits"))
    ids = np.asarray(part_ids).reshape(len(part_ids), -1)
    filled, held = ids >= 0, (ids[:, :, None] == ids[:, None]).sum(2)  # n_d, at each of the places that d holds
    n = np.maximum(filled.sum(1), 1)
    nats = -(filled * np.log(held / n[:, None])).sum(1) / n
    return nats / (np.log(2) if unit == "bits" else 1)


def agreement(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> np.ndarray:
    """Share of an image's descriptors, part by part, that two matchings have in common: float [n], nan if none.

    a, b int [n, L, k], -1 pads; order within a part does not count.
    """
    a, b = np.asarray(a), np.asarray(b)
    shared = ((a[..., :, None] == b[..., None, :]) & (a >= 0)[..., :, None]).any(-1).sum((1, 2))
    filled = np.maximum((a >= 0).sum((1, 2)), (b >= 0).sum((1, 2)))
    return np.where(filled > 0, shared / np.maximum(filled, 1), np.nan)


def _require(similarity: Tensor, present: Tensor, candidate: Tensor, per_part: int) -> None:
    if similarity.ndim != 3 or candidate.shape != similarity.shape[::2] or present.shape != similarity.shape[:2]:
        given = ", ".join(str(tuple(x.shape)) for x in (similarity, present, candidate))
        raise UserError(f"Similarity, present and candidate {given} do not fit; expected [B, L, D], [B, L], [B, D].")
    if not 1 <= per_part <= (bank := similarity.shape[2]):
        raise UserError(f"per_part = {per_part} was given for a bank of {bank} descriptors; expected 1 to {bank}.")
    if not torch.isfinite(similarity).all():
        raise UserError("The similarities contain NaN or infinite values; check the weights and the precision.")


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / values, 0.0)


def _gather_ids(candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of each image's candidates in ascending order, [B, most of an image], and which are filled."""
    counts = candidate.sum(dim=1)
    ids = candidate.byte().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    return ids, torch.arange(ids.shape[1], device=ids.device) < counts[:, None]


def _best(score: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Positions of the highest allowed scores along the last dimension, padded with -1 to `count`."""
    score = score.masked_fill(~allowed, -torch.inf)
    values, best = score.topk(min(count, score.shape[-1]), dim=-1)
    best = best.masked_fill(values == -torch.inf, -1)
    return F.pad(best, (0, count - best.shape[-1]), value=-1)
