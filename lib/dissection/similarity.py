"""The five similarity functions of CLIP-Dissect, without ever holding images x concepts in memory.

P is the concept-activation matrix, the cosine of each probing image with each concept: [images, concepts]. It is given
whole, or as its factors (images [n, d], texts [m, d]), and then made block by block. q holds a number for each image
and neuron: [images, neurons]. Every function returns scores [neurons, concepts]; `labels` returns the best concept.

Ties of activations go to the image that comes first, ties of scores to the concept that comes first. A dead neuron,
whose activation is the same for all images, has no order of images: its scores are nan and its label is DEAD.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lib.dissection.likelihood import FastLikelihood, Likelihood
from lib.dissection.matrix import BLOCK, checked, dead, dtype_of, parts, top_images
from lib.errors import UserError, nearest

DEAD = -1  # the label of a neuron whose activation never changes
PRIORS = ("layer", "images")
MIN_PROB = 1e-7
MANY = 1000  # top images in whose order it matters little that bfloat16 lets neighbours swap
SMALL = 1e7  # images x concepts up to which everything is float64 at once


# --- cosine, and cosine of cubes


def cos(P, q, columns=slice(None), precision="double"):
    """Cosine of a neuron's activations with a concept's: [neurons, concepts]. Released code, `cos_similarity`.

    Not centred. Neither P nor its columns are made where the factors are given: q'P = (q'I)T', |P_m|^2 = t_m'(I'I)t_m.
    """
    P, q = checked(P, q)
    dtype = dtype_of(precision)
    if P.images is None:
        block = P.block(columns=columns, dtype=dtype)
        dot, norms = q.to(dtype).T @ block, block.norm(dim=0)
    else:
        images, texts = P.images.to(dtype), P.texts[columns].to(dtype)
        dot = (q.to(dtype).T @ images) @ texts.T
        norms = ((texts @ (images.T @ images)) * texts).sum(1).clamp(min=0).sqrt()
    lengths = q.to(dtype).norm(dim=0)
    return _without_dead(dot / (lengths[:, None] * norms).clamp(min=1e-30), q)


def cos_cubed(P, q, min_norm=1e-3, columns=slice(None), precision="double"):
    """Dot product of centred, cubed, normalised activations: [neurons, concepts]. Released `cos_similarity_cubed`.

    No norm is taken for smaller than `min_norm`, as in the released code; with few images or small numbers this shrinks
    the scores. 0 takes every norm as it is.
    """
    P, q = checked(P, q)
    dtype = dtype_of(precision)
    wanted = _indices(P, columns)
    cubes = _unit_cubes(q.to(dtype), min_norm).T.contiguous()
    scores = torch.empty(q.shape[1], len(wanted), dtype=dtype, device=P.device)
    for chunk in parts(len(wanted), 2**28 // (8 * len(q))):
        scores[:, chunk] = cubes @ _unit_cubes(P.block(columns=wanted[chunk], dtype=dtype), min_norm)
    return _without_dead(scores, q)


def _unit_cubes(x, min_norm):
    cubes = (x - x.mean(0)) ** 3
    return cubes / cubes.norm(dim=0).clamp(min=max(min_norm, 1e-30))


# --- rank reorder


def rank_reorder(
    P,
    q,
    top_fraction=0.05,
    p=3,
    scale_p=0.5,
    baseline="expected",
    seed=0,
    ties="first",
    columns=slice(None),
    precision="double",
):
    """Minus the error of a neuron's activations with its top images in a concept's order: [neurons, concepts].

    With t the n = top_fraction x images highest activations and s the same in ascending order, the error is the mean of
    |t_i - s_rank(i)|^p, rank(i) that of image i by the concept. It is divided by the error of a random order and by the
    concept's mean P over those images to the power scale_p. baseline: "expected" (over all orders, in closed form) or
    "released" (the mean of five random ones, drawn with `seed`): one number a neuron, which changes no label. A concept
    whose mean P is not positive gets -inf, where the released code has nan. Released code, `rank_reorder`.
    """
    P, q = checked(P, q)
    dtype = dtype_of(precision)
    n = int(top_fraction * len(q))
    if n < 2:
        raise UserError(f"top_fraction {top_fraction} of {len(q)} images leaves {n}, but an order needs two; raise it.")
    if baseline not in ("expected", "released"):
        raise UserError(f"baseline is '{baseline}'; give 'expected' or 'released'.")
    top = top_images(q, n, ties)
    t = q.gather(0, top).to(dtype)
    chance = (expected_error(t, p) if baseline == "expected" else _random_error(t, p, seed)).to(dtype)
    whole, texts = (P.whole[:, columns], None) if P.images is None else (P.images, P.texts[columns].to(dtype))
    concepts = whole.shape[1] if texts is None else len(texts)
    scores = torch.empty(q.shape[1], concepts, dtype=dtype, device=P.device)
    rough = torch.bfloat16 if precision == "half" and n >= MANY else dtype  # what a concept's order is read from
    factor = None if texts is None else texts.to(rough)
    for k in range(q.shape[1]):
        rows, ascending = whole[top[:, k]].to(dtype), t[:, k].flip(0)
        middle = rows.mean(0)
        height = (middle if texts is None else texts @ middle).clamp(min=0) ** scale_p
        rows = (rows - middle).to(rough)  # which moves no image past another, and makes what is rounded small
        # concepts first, so that a concept's numbers lie side by side: a product of factors is cheaper than a gather
        for chunk in parts(concepts, BLOCK // (4 * n)):
            ours = rows[:, chunk].T.contiguous() if texts is None else factor[chunk] @ rows.T
            error = _by_rank(t[:, k], ours).sub_(ascending).abs_()
            error = ((error * error).mul_(error) if p == 3 else error**p).mean(1)
            scores[k, chunk] = -error / chance[k] / height[chunk]
    return _without_dead(scores, q)


def _by_rank(t, rows):
    """t [n] in the ascending order of each row [concepts, n], ties in their order: [concepts, n].

    In float32 neighbours whose distance is millionths of the row's range may swap.
    """
    bits = max(1, (len(t) - 1).bit_length())
    if rows.dtype == torch.float64 or rows.is_cuda or bits > 15:
        return t[rows.argsort(dim=1, stable=True)]
    # numpy sorts integers several times faster than torch sorts floats: the number in front, its place behind
    if rows.dtype == torch.bfloat16:
        order = rows.view(torch.int16)
        order = (order ^ ((order >> 15) & 0x7FFF)).to(torch.int32)  # the bits of negative numbers run backwards
    else:
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        step = (high - low).clamp(min=1e-30) / (2 ** (31 - bits) - 256)
        order = (rows - low).div_(step).to(torch.int32)
    keys = order.mul_(2**bits).add_(torch.arange(len(t), dtype=torch.int32)).numpy()
    found = np.empty(keys.shape, t.numpy().dtype)

    def sort(part):
        keys[part].sort(axis=1)
        np.take(t.numpy(), keys[part] & (2**bits - 1), out=found[part], mode="clip")

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sort, parts(len(keys), -(-len(keys) // threads))))
    return torch.from_numpy(found)


def expected_error(t, p=3):
    """Mean of |t_i - t_j|^p over all i, j: the expected error of a random order, float64 [neurons]. t: [n, neurons]."""
    t = t.double().sort(dim=0).values
    t = t - t.mean(0)
    n = len(t)
    if p != 3:
        return torch.stack([((c[:, None] - c).abs() ** p).mean() for c in t.T])
    below = torch.arange(n, dtype=t.dtype, device=t.device)[:, None]
    first, second, third = ((t**e).cumsum(0) - t**e for e in (1, 2, 3))  # sums over the smaller ones
    return 2 * (below * t**3 - 3 * t**2 * first + 3 * t * second - third).sum(0) / n**2


def _random_error(t, p, seed, draws=5):
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(t), generator=generator).to(t.device) for _ in range(draws)]
    return torch.stack([((t.sort(dim=0).values - t[order]).abs() ** p).mean(0) for order in orders]).mean(0)


# --- WPMI and SoftWPMI


def wpmi(P, q, top_k=28, a=2.0, lam=0.6, min_prob=MIN_PROB, prior="layer", ties="first", precision="double"):
    """Weighted pointwise mutual information of a concept and the top images: [neurons, concepts].

    With S the softmax of a P over the concepts, L is the sum of log(S + min_prob) over the top_k images, and the score
    is L - lam log p(concept). prior: see `soft_wpmi`. Paper, section 3.2; released code, `wpmi`.
    """
    options = {"top_k": top_k, "a": a, "min_prob": min_prob, "ties": ties}
    return _mutual_information("wpmi", P, q, lam, prior, precision, options)


def soft_wpmi(
    P,
    q,
    top_k=100,
    a=10.0,
    lam=1.0,
    p_start=0.998,
    p_end=0.97,
    min_prob=MIN_PROB,
    prior="layer",
    ties="first",
    precision="double",
):
    """The paper's own similarity, with a soft membership of the top images: [neurons, concepts].

    The i-th of the top_k images belongs to the neuron with probability p_i, from p_start down towards p_end. With S the
    softmax of a P over the concepts, L is the sum of log(1 + p_i (S - 1) + min_prob); score = L - lam log p(concept).

    prior: where p(concept) comes from. "layer", as released: the mean of exp(L) over the neurons given, so that a
    neuron's scores depend on the other neurons of the call and are all 0 for a single neuron at lam 1 (refused).
    "images": exp(L) of a neuron whose top images are all like the average image. Or log p(concept) [concepts] from
    `log_prior`: how to describe one neuron of a layer as if the whole layer were there.
    log(1 + p(S - 1) + e) is summed as log1p(S p / (1 - p + e)): the constant left out is what quantises the published
    scores to multiples of 2^-15; it comes back where lam is not 1. Paper, section 3.2; released code, `soft_wpmi`.
    """
    options = {"top_k": top_k, "a": a, "p_start": p_start, "p_end": p_end, "min_prob": min_prob, "ties": ties}
    return _mutual_information("soft_wpmi", P, q, lam, prior, precision, options)


def log_prior(name, P, q, **constants):
    """log p(concept) over the neurons of a layer: float64 [concepts], the `prior` of `wpmi` or `soft_wpmi` (`name`)."""
    P, q = checked(P, q)
    options = {"precision": "double", **constants}
    precision = options.pop("precision")
    return _mean_exp(_likelihood(name, P, q[:, ~dead(q)], precision, **options)[0].all())


def _likelihood(name, P, q, precision, top_k=None, a=None, min_prob=MIN_PROB, p_start=0.998, p_end=0.97, ties="first"):
    """L, by what tells the two apart: a slope of S for each of the top images; and the constant that it leaves out."""
    if name == "wpmi":
        a, slopes, offset, constant = 2.0 if a is None else a, [1.0] * (28 if top_k is None else top_k), min_prob, 0.0
    else:
        top_k, a, offset = 100 if top_k is None else top_k, 10.0 if a is None else a, None
        p = p_start - torch.arange(top_k) / max(top_k, 1) * (p_start - p_end)  # released in float32, which moves 1 - p
        rest = 1 - p.double() + min_prob
        slopes, constant = (p.double() / rest).tolist(), float(rest.log().sum())
    kind = FastLikelihood if precision == "half" and FastLikelihood.suits(P, a) else Likelihood
    return kind(P, q, dtype_of(precision), a, slopes, offset, ties), constant


def _mutual_information(name, P, q, lam, prior, precision, options):
    P, q = checked(P, q)
    _check_prior(prior, P, q, lam)
    alive = ~dead(q)
    scores = torch.full((q.shape[1], P.shape[1]), math.nan, dtype=dtype_of(precision), device=P.device)
    if alive.any():
        likelihood, constant = _likelihood(name, P, q[:, alive], precision, **options)
        found = likelihood.all()
        found -= lam * _prior(prior, likelihood, found).to(found.dtype)
        scores[alive] = found + (1 - lam) * constant
    return scores


def _check_prior(prior, P, q, lam):
    if isinstance(prior, torch.Tensor):
        if tuple(prior.shape) != (P.shape[1],):
            raise UserError(
                f"The prior is {list(prior.shape)}, expected [{P.shape[1]}], the log of one number a concept."
            )
    elif prior not in PRIORS:
        raise UserError(f"prior is '{prior}'; give 'layer', 'images' or a tensor of log p(concept).")
    elif prior == "layer" and lam == 1 and int((~dead(q)).sum()) == 1:
        raise UserError(
            "There is one neuron, and the prior over neurons is its own likelihood: with lambda 1 every score would be "
            "0, whatever the images. Give the whole layer, the layer's log_prior, or prior='images'."
        )


def _prior(prior, likelihood, found):
    """lam's factor: log p(concept), float64 [concepts]. found: L [neurons, concepts]."""
    if isinstance(prior, torch.Tensor):
        return prior.to(found.device, torch.float64)
    return _mean_exp(found) if prior == "layer" else likelihood.of_average_image()


def _mean_exp(found):
    """log of the mean of exp over neurons, a part of the concepts at a time: float64 [concepts]."""
    sums = [part.logsumexp(0).double() for part in found.split(max(1, BLOCK // len(found)), dim=1)]
    return torch.cat(sums) - math.log(len(found))


# --- labels


def labels(name, P, q, precision="auto", **constants):
    """The best concept of each neuron, as float64 gives it, and its score: (int64 [neurons], float64 [neurons]).

    name: a key of FUNCTIONS. precision: "auto" takes float64 for small problems and "half" for others; then every
    concept within reach of a neuron's best one is computed again in float64. Reach is four times the largest error
    seen, first on a sample of concepts, then on those computed again. What is left of the lower precision are sums over
    all neurons and over all concepts, in which its errors average out; where two concepts are so near that it matters,
    first the one and then the other, for that neuron's images, is made in float64. The score of a neuron without near
    rivals is that of the lower precision. A dead neuron has label DEAD and score nan.
    """
    if name not in FUNCTIONS:
        raise UserError(
            f"There is no similarity function '{name}'; there are {', '.join(FUNCTIONS)}.{nearest(name, FUNCTIONS)}"
        )
    P, q = checked(P, q)
    if precision == "auto":
        precision = "double" if P.shape[0] * P.shape[1] <= SMALL else "half"
    found = torch.full((q.shape[1],), DEAD, device=P.device)
    score = torch.full((q.shape[1],), math.nan, dtype=torch.float64, device=P.device)
    alive = (~dead(q)).nonzero().ravel()
    if not len(alive):
        return found, score
    q = q if len(alive) == q.shape[1] else q[:, alive]
    scores, exact = _scorer(name, P, q, precision, constants)
    best, where = first_best(scores) if precision == "double" else _certain(scores, exact)
    found[alive] = torch.where(torch.isneginf(best), DEAD, where)
    score[alive] = best.double()
    return found, score


def first_best(scores):
    """Highest score of each row and where it first stands, up to rounding: (value [n], int64 [n])."""
    best = scores.amax(1)
    near = scores >= (best - 1e-12 * best.abs().clamp(min=1))[:, None]
    return best, near.to(torch.uint8).argmax(1)


def _scorer(name, P, q, precision, constants):
    """All scores in some precision, and a function (neurons, columns, wanted, level) -> float64 scores of those.

    Only scores that are wanted, bool [neurons, columns], need to be right. SoftWPMI and WPMI still lean on sums in the
    lower precision: at level 0 on those over neurons and those over concepts, at level 1 on those over concepts, at
    level 2 on those over concepts of the other neurons' images, which enter by the prior only.
    """
    if name in ("wpmi", "soft_wpmi"):
        options = {"lam": 1.0 if name == "soft_wpmi" else 0.6, "prior": "layer", **constants}
        lam, prior = options.pop("lam"), options.pop("prior")
        _check_prior(prior, P, q, lam)
        likelihood, constant = _likelihood(name, P, q, precision, **options)
        scores = likelihood.all()
        log_prior = lam * _prior(prior, likelihood, scores)
        scores -= (log_prior - (1 - lam) * constant).to(scores.dtype)

        def exact(neurons, columns, wanted, level):
            minus = log_prior[columns]
            if level and isinstance(prior, str) and prior == "layer":
                minus = lam * _mean_exp(likelihood.exact(columns))
            return likelihood.pairs(neurons, columns, wanted, level == 2) - minus + (1 - lam) * constant
    else:
        scores = FUNCTIONS[name](P, q, precision=precision, **constants)

        def exact(neurons, columns, wanted, level):
            return FUNCTIONS[name](P, q[:, neurons], columns=columns, precision="double", **constants)

    return scores, exact


def _certain(scores, exact):
    """Best score and its concept, near ties decided in float64. scores [neurons, concepts]; exact: see `_scorer`."""
    neurons, concepts = scores.shape
    everyone = torch.arange(min(neurons, 64), device=scores.device)
    sample = torch.linspace(0, concepts - 1, min(concepts, 32), device=scores.device).long().unique()
    few = scores[everyone][:, sample]
    among = few >= few.median(1, keepdim=True).values
    error = _largest_error(few, exact(everyone, sample, among, level=0), among)
    (best, second), where = scores.topk(min(2, concepts), dim=1).values[:, [0, -1]].T, scores.argmax(1)
    while concepts > 1:
        border = best - 4 * max(error, 1e-12)
        unsure = (second >= border).nonzero().ravel()
        if not len(unsure):
            return best, where
        near = scores[unsure] >= border[unsure, None]
        columns = near.any(0).nonzero().ravel()
        near, few = near[:, columns], scores[unsure][:, columns]
        again = exact(unsure, columns, near, level=0)
        seen = _largest_error(few, again, near)
        if seen <= 2 * error:
            break
        error = seen
    if concepts == 1:
        return best, where
    again[~near] = -math.inf

    def improve(some, level):
        """Scores of some of the unsure neurons again; the largest change."""
        few = near[some].any(0).nonzero().ravel()
        wanted, before = near[some][:, few], again[some][:, few]
        found = exact(unsure[some], columns[few], wanted, level)
        again[some[:, None], few] = torch.where(wanted, found, -math.inf)
        return _largest_error(before, found, wanted)

    tight = torch.arange(len(unsure), device=scores.device)
    for level in (1, 2):
        error = improve(tight[:4], level)
        top = again[tight].topk(2, dim=1).values
        tight = tight[top[:, 0] - top[:, 1] <= 8 * error]
        if not error or not len(tight):
            break
        improve(tight, level)
    top, index = first_best(again)
    best, where = best.double(), where.clone()
    best[unsure], where[unsure] = top, columns[index]
    return best, where


def _largest_error(scores, exact, among):
    error = (scores.double() - exact).abs()[among]
    return float(error.nan_to_num(0, 0, 0).max()) if len(error) else 0.0


# --- small things


def _indices(P, columns):
    return torch.arange(P.shape[1], device=P.device)[columns]


def _without_dead(scores, q):
    scores[dead(q)] = math.nan
    return scores


FUNCTIONS = {
    "cos": cos,
    "cos_cubed": cos_cubed,
    "rank_reorder": rank_reorder,
    "wpmi": wpmi,
    "soft_wpmi": soft_wpmi,
}
