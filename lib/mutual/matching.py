"""From parts to descriptors: candidates, relevance filter, optimal transport, an image's list of concepts.

B images, L parts (an image may show fewer: `present` says which), D descriptors of the bank. An image's lists
are padded with -1.
"""

import torch

from lib.errors import UserError

SCORE_SCALE = 2.5  # CLIPScore's constant, which the released code applies before the transport
METHODS = ("transport", "centred", "nearest", "top")


def by_image(rows, image_index, part_index, images, parts):
    """Arrange rows by image and part.

    rows [m, ...], image_index [m], part_index [m] -> [images, parts, ...], zero where an image does not show
    a part, and present bool [images, parts].
    """
    image_index, part_index = image_index.to(rows.device), part_index.to(rows.device)
    padded = rows.new_zeros(images, parts, *rows.shape[1:])
    padded[image_index, part_index] = rows
    present = torch.zeros(images, parts, dtype=torch.bool, device=rows.device)
    present[image_index, part_index] = True
    return padded, present


def candidates(similarity, present, top=500, rule="intersection"):
    """Descriptors among the `top` most similar of every part, or of any.

    similarity [B, L, D], present bool [B, L] -> bool [B, D]; `top` beyond D takes all. Rule "intersection":
    every part of the image (released code); "union": any (the paper mentions no intersection).
    """
    if rule not in ("intersection", "union"):
        raise UserError(f"Candidate rule '{rule}' is unknown; choose 'intersection' or 'union'.")
    if top < 1:
        raise UserError(f"top = {top} was given; expected at least 1 candidate for each part.")
    best = similarity.topk(min(top, similarity.shape[2]), dim=2).indices
    in_top = torch.zeros_like(similarity, dtype=torch.bool).scatter_(2, best, True)
    if rule == "union":
        return (in_top & present[..., None]).any(dim=1)
    return (in_top | ~present[..., None]).all(dim=1) & present.any(dim=1, keepdim=True)


def relevant(relevance, candidate, rule="released", offset=0.02):
    """Candidates that fit the whole image, relative to the image's other candidates.

    relevance [B, D] (cosine of image and descriptor), candidate bool [B, D] -> bool [B, D]. "released": above
    their mean minus `offset`; "paper" (footnote 3): above their median plus `offset`; "none": all.
    """
    if rule not in ("released", "paper", "none"):
        raise UserError(f"Relevance rule '{rule}' is unknown; choose 'released', 'paper' or 'none'.")
    if rule == "none":
        return candidate
    values = relevance.masked_fill(~candidate, torch.nan)
    if rule == "released":
        threshold = values.nanmean(dim=1, keepdim=True) - offset
    else:
        threshold = values.nanquantile(0.5, dim=1, keepdim=True) + offset
    return candidate & (relevance > threshold)


def sinkhorn(similarity, present, candidate, temperature=1.0, rounds=1000):
    """Transport plan between parts and candidates: columns sum to 1, rows to (candidates / parts).

    similarity [B, L, K], present bool [B, L], candidate bool [B, K] -> float64 [B, L, K], zero outside. One
    round scales the rows of exp(2.5 similarity / temperature) to sum 1, then the columns, as the released
    code does; here in the factors u, v of plan = u · kernel · v. A round shrinks the distance to the limit at
    least by tanh(d/4)², d being the largest log cross-ratio of the kernel (Birkhoff, Hilbert's metric). For
    CLIP's similarities, which differ by hundredths, that is far below 0.1: the plan stands still after some
    ten rounds, and the loop ends there. Paper equation 2.
    """
    if temperature <= 0 or rounds < 1:
        raise UserError(
            f"temperature = {temperature} and rounds = {rounds} were given; expected a positive number and at least 1."
        )
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
    similarity,
    relevance,
    present,
    method="transport",
    per_part=3,
    top=500,
    candidate_rule="intersection",
    relevance_rule="released",
    offset=0.02,
    temperature=1.0,
    rounds=1000,
):
    """The descriptors of each part.

    similarity [B, L, D] (part and descriptor), relevance [B, D] (whole image and descriptor), present bool
    [B, L] -> int64 [B, L, per_part], best first, -1 where there is none. Methods: "transport" (published),
    "centred" (ranks candidates by the similarity minus its mean over the parts, which is what the transport
    amounts to at temperature 1), "nearest" (the most similar of the candidates), "top" (the most similar of the
    whole bank; no candidates, no filter). With one part the transport gives all candidates the same mass: they are
    ranked by similarity. An image whose parts share no candidate has no concept. Raises UserError for NaN, unknown
    options, shapes that do not fit.
    """
    _require(similarity, relevance, present, per_part)
    if method not in METHODS:
        raise UserError(f"Matching method '{method}' is unknown; choose one of {', '.join(METHODS)}.")
    if method == "top":
        return _best(similarity, present[..., None].expand_as(similarity), per_part)
    candidate = relevant(relevance, candidates(similarity, present, top, candidate_rule), relevance_rule, offset)
    ids, filled = _gather_ids(candidate)
    if ids.shape[1] == 0:
        return ids.new_full((*present.shape, per_part), -1)
    score = similarity.gather(2, ids[:, None].expand(-1, similarity.shape[1], -1)).double()
    if method == "transport":
        ranked = sinkhorn(score, present, filled, temperature, rounds)
    elif method == "nearest":
        ranked = score
    else:
        shown = present.sum(dim=1)[:, None, None].clamp(min=1)
        ranked = score - (score * present[..., None]).sum(dim=1, keepdim=True) / shown
    alone = (present.sum(dim=1) == 1)[:, None, None]
    ranked = torch.where(alone, score, ranked)
    best = _best(ranked, present[:, :, None] & filled[:, None, :], per_part)
    found = ids[:, None].expand(-1, best.shape[1], -1).gather(2, best.clamp(min=0))
    return torch.where(best >= 0, found, -1)


def vision_concepts(top_ids, relevance):
    """The image's distinct descriptors, most relevant to the whole image first.

    top_ids int64 [B, L, per_part] from `match`, relevance [B, D] -> int64 [B, L·per_part], -1 pads.
    Descriptors that are equally relevant keep the order of the parts. Paper section 3.2.
    """
    ids = top_ids.flatten(1)
    same = ids[:, :, None] == ids[:, None, :]
    repeated = same.tril(diagonal=-1).any(dim=2)
    ids = ids.masked_fill(repeated, -1)
    importance = relevance.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return ids.gather(1, importance.argsort(dim=1, descending=True, stable=True))


def _require(similarity, relevance, present, per_part):
    if similarity.ndim != 3 or relevance.shape != similarity.shape[::2] or present.shape != similarity.shape[:2]:
        raise UserError(
            f"Similarity {tuple(similarity.shape)}, relevance {tuple(relevance.shape)} and present "
            f"{tuple(present.shape)} do not fit; expected [B, L, D], [B, D] and [B, L]."
        )
    if not 1 <= per_part <= similarity.shape[2]:
        raise UserError(
            f"per_part = {per_part} was given for a bank of {similarity.shape[2]} descriptors; "
            "expected between 1 and the size of the bank."
        )
    if not (torch.isfinite(similarity).all() and torch.isfinite(relevance).all()):
        raise UserError("The similarities contain NaN or infinite values; check the weights and the precision.")


def _inverse(values):
    return torch.where(values > 0, 1 / values, 0.0)


def _gather_ids(candidate):
    """Numbers of each image's candidates in ascending order, [B, most of an image], and which are filled."""
    counts = candidate.sum(dim=1)
    ids = candidate.byte().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    return ids, torch.arange(ids.shape[1], device=ids.device) < counts[:, None]


def _best(score, allowed, count):
    """Positions of the highest allowed scores along the last dimension, padded with -1 to `count`."""
    score = score.masked_fill(~allowed, -torch.inf)
    values, best = score.topk(min(count, score.shape[-1]), dim=-1)
    best = best.masked_fill(values == -torch.inf, -1)
    return torch.nn.functional.pad(best, (0, count - best.shape[-1]), value=-1)
