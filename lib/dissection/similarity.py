"""The five similarity functions of CLIP-Dissect, without ever holding images x concepts in memory three times.

P is the concept-activation matrix, the cosine of each probing image with each concept: [images, concepts]. It is given
whole, or as its factors (images [n, d], texts [m, d]), and then made block by block. q holds a number for each image
and neuron: [images, neurons]. Every function returns scores [neurons, concepts]; `labels` returns the best concept.

Ties of activations go to the image that comes first, ties of scores to the concept that comes first. A dead neuron,
whose activation is the same for all images, has no order of images: its scores are nan and its label is DEAD.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lib.errors import UserError, nearest

DEAD = -1  # the label of a neuron whose activation never changes
PRIORS = ("layer", "images")
PRECISIONS = ("double", "single", "half")
MIN_PROB = 1e-7
STORE = 2**31  # bytes of probabilities that are kept rather than computed twice
FEW = 5000  # concepts below which the errors of a bfloat16 product do not average out well in a softmax
SMALL = 1e7  # images x concepts up to which everything is float64 at once
BLOCK = 2**22  # numbers of a block; larger ones go back to the system each time, which costs more than to fill them
LONGEST_FACTOR = {torch.float32: 80.0, torch.float64: 600.0}  # sum of logs that a product may reach


# --- the concept-activation matrix


@dataclass
class Matrix:
    """P, whole or as its factors. Made by `matrix`."""

    whole: torch.Tensor | None
    images: torch.Tensor | None
    texts: torch.Tensor | None

    @property
    def shape(self):
        return tuple(self.whole.shape) if self.images is None else (len(self.images), len(self.texts))

    @property
    def device(self):
        return (self.whole if self.images is None else self.images).device

    def block(self, rows=slice(None), columns=slice(None), dtype=torch.float32):
        """P[rows, columns], rows and columns each a slice or int64 indices."""
        if self.images is None:
            return self.whole[rows][:, columns].to(dtype)
        return self.images[rows].to(dtype) @ self.texts[columns].to(dtype).T


def matrix(P):
    """P as a `Matrix`. P: float [n, m], or the pair (images [n, d], texts [m, d]); raises UserError for others."""
    if isinstance(P, Matrix):
        return P
    parts = tuple(P) if isinstance(P, (tuple, list)) else (P,)
    shapes = [list(x.shape) for x in parts]
    if len(parts) > 2 or any(x.dim() != 2 for x in parts) or (len(parts) == 2 and shapes[0][1] != shapes[1][1]):
        raise UserError(
            f"P has shapes {shapes}; give it whole [images, concepts], or as images [n, d] and texts [m, d]."
        )
    if any(min(shape) == 0 for shape in shapes):
        raise UserError(f"P has shapes {shapes}; there must be at least one image and one concept.")
    if not all(_finite(x) for x in parts):
        raise UserError("P holds nan or infinite numbers; look for images or concepts whose embedding is not finite.")
    return Matrix(P, None, None) if len(parts) == 1 else Matrix(None, *parts)


def _checked(P, q):
    P = matrix(P)
    if q.dim() != 2 or len(q) != P.shape[0]:
        raise UserError(
            f"Activations are {list(q.shape)}, but P has {P.shape[0]} images; expected is [images, neurons]."
        )
    if not _finite(q):
        bad = (~torch.isfinite(q)).any(0).nonzero().ravel().tolist()
        raise UserError(
            f"The activations of {len(bad)} of {q.shape[1]} neurons are nan or infinite (first: neuron {bad[0]}); "
            "run the target in float32, or leave those neurons out."
        )
    return P, q.to(P.device)


def dead(q):
    """Which neurons have the same activation for all images: bool [neurons]. q: [images, neurons]."""
    return q.amax(0) == q.amin(0)


def top_images(q, k, ties="first"):
    """The k images with the highest activation of each neuron, highest first: int64 [k, neurons].

    q: [images, neurons]. ties: "first" takes equal images in their order; "released" whichever torch.topk takes, as the
    released code does, so that the label of a neuron with few distinct activations hangs on the machine. Raises
    UserError when there are fewer than k images.
    """
    if not 1 <= k <= len(q):
        raise UserError(
            f"The top {k} images of a neuron are wanted, but there are {len(q)}; lower top_k or add images."
        )
    if ties == "released":
        return q.topk(k, dim=0).indices
    if ties != "first":
        raise UserError(f"ties is '{ties}'; give 'first' or 'released'.")
    found = torch.empty(k, q.shape[1], dtype=torch.int64, device=q.device)
    for start in range(0, q.shape[1], 256):
        columns = q[:, start : start + 256].contiguous().T.contiguous()  # in two steps: a fast transposition
        values, index = columns.topk(min(k + 1, len(q)), dim=1)
        tied = values[:, k - 1] == values[:, -1] if k < len(q) else torch.zeros(len(values), dtype=torch.bool)
        index = index[:, :k]
        if tied.any():  # topk takes any of the images that are equal at the border
            index[tied] = columns[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        index = index.sort(dim=1).values
        order = columns.gather(1, index).sort(dim=1, descending=True, stable=True).indices
        found[:, start : start + 256] = index.gather(1, order).T
    return found


# --- cosine, and cosine of cubes


def cos(P, q, columns=slice(None), precision="double"):
    """Cosine of a neuron's activations with a concept's: [neurons, concepts]. Released code, `cos_similarity`.

    Not centred. Neither P nor its columns are made where the factors are given: q'P = (q'I)T', |P_m|^2 = t_m'(I'I)t_m.
    """
    P, q = _checked(P, q)
    dtype = _dtype(precision)
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
    P, q = _checked(P, q)
    dtype = _dtype(precision)
    wanted = _indices(P, columns)
    cubes = _unit_cubes(q.to(dtype), min_norm).T.contiguous()
    scores = torch.empty(q.shape[1], len(wanted), dtype=dtype, device=P.device)
    for chunk in _parts(len(wanted), 2**28 // (8 * len(q))):
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
    P, q = _checked(P, q)
    dtype = _dtype(precision)
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
    for k in range(q.shape[1]):
        # concepts first, so that a concept's numbers lie side by side: a product of factors is cheaper than a gather
        rows, ascending = whole[top[:, k]].to(dtype), t[:, k].flip(0)
        for chunk in _parts(concepts, BLOCK // (4 * n)):
            ours = rows[:, chunk].T.contiguous() if texts is None else texts[chunk] @ rows.T
            error = _by_rank(t[:, k], ours, coarse=precision == "half").sub_(ascending).abs_()
            error = ((error * error).mul_(error) if p == 3 else error**p).mean(1)
            scores[k, chunk] = -error / chance[k] / ours.mean(1).clamp(min=0) ** scale_p
    return _without_dead(scores, q)


def _by_rank(t, rows, coarse=False):
    """t [n] in the ascending order of each row [concepts, n], ties in their order: [concepts, n].

    coarse: near neighbours may swap.
    """
    bits = max(1, (rows.shape[1] - 1).bit_length())
    if not coarse or rows.is_cuda or bits > 15:
        return t[rows.argsort(dim=1, stable=True)]
    # numpy sorts short integers several times faster than torch sorts floats: the number in front, its place behind
    low = rows.amin(1, keepdim=True)
    step = (rows.amax(1, keepdim=True) - low).clamp(min=1e-30) / (2 ** (32 - bits) - 256)
    keys = (rows - low).div_(step).to(torch.int32).mul_(2**bits).add_(torch.arange(len(t), dtype=torch.int32))
    keys, found = keys.numpy().view(np.uint32), np.empty(keys.shape, t.numpy().dtype)

    def sort(part):
        keys[part].sort(axis=1)
        np.take(t.numpy(), keys[part] & np.uint32(2**bits - 1), out=found[part], mode="clip")

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sort, _parts(len(keys), -(-len(keys) // threads))))
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
    return _mutual_information(P, q, lam, prior, precision, **_constants("wpmi", top_k, a, min_prob, ties=ties))


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
    return _mutual_information(
        P, q, lam, prior, precision, **_constants("soft_wpmi", top_k, a, min_prob, p_start, p_end, ties)
    )


def log_prior(name, P, q, **constants):
    """log p(concept) over the neurons of a layer: float64 [concepts], the `prior` of `wpmi` or `soft_wpmi` (`name`)."""
    P, q = _checked(P, q)
    options = {"precision": "double", **constants}
    precision = options.pop("precision")
    likelihood = _Likelihood(P, q[:, ~dead(q)], precision, **_constants(name, **options))
    return _mean_exp(likelihood.all())


def _constants(name, top_k=None, a=None, min_prob=MIN_PROB, p_start=0.998, p_end=0.97, ties="first"):
    """What tells the two apart: slope and offset of S for each of the top images, and the constant left out."""
    if name == "wpmi":
        slopes = [1.0] * (28 if top_k is None else top_k)
        return {"a": 2.0 if a is None else a, "slopes": slopes, "offset": min_prob, "constant": 0.0, "ties": ties}
    top_k = 100 if top_k is None else top_k
    p = p_start - torch.arange(top_k) / max(top_k, 1) * (p_start - p_end)  # released in float32, which moves 1 - p
    rest = 1 - p.double() + min_prob
    slopes, constant = (p.double() / rest).tolist(), float(rest.log().sum())
    return {"a": 10.0 if a is None else a, "slopes": slopes, "offset": None, "constant": constant, "ties": ties}


def _mutual_information(P, q, lam, prior, precision, **given):
    P, q = _checked(P, q)
    _check_prior(prior, P, q, lam)
    alive = ~dead(q)
    scores = torch.full((q.shape[1], P.shape[1]), math.nan, dtype=_dtype(precision), device=P.device)
    if alive.any():
        likelihood = _Likelihood(P, q[:, alive], precision, **given)
        found = likelihood.all()
        found -= lam * _prior(prior, likelihood, found, slice(None)).to(found.dtype)
        scores[alive] = found + (1 - lam) * given["constant"]
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


def _prior(prior, likelihood, found, columns):
    """lam's factor: log p(concept) of `columns`. found: L [neurons, columns]."""
    if isinstance(prior, torch.Tensor):
        return prior.to(found.device)[columns]
    return _mean_exp(found) if prior == "layer" else likelihood.of_average_image()[columns]


def _mean_exp(found):
    """log of the mean of exp over neurons, a part of the concepts at a time: float64 [concepts]."""
    parts = found.split(max(1, BLOCK // len(found)), dim=1)
    return torch.cat([part.logsumexp(0).double() for part in parts]) - math.log(len(found))


class _Likelihood:
    """L [neurons, concepts]: for each neuron the sum over its top images i of log(offset + slope_i S[i, concept]).

    S is computed for those images only that are among the top of some neuron. slopes: list of float, one a rank.
    offset: None for 1. precision: "double"; "single"; or "half", which multiplies embeddings in bfloat16, keeps S in
    float16 and sums in float32.
    """

    def __init__(self, P, q, precision, a, slopes, offset, constant, ties):
        self.P, self.a, self.slopes, self.offset = P, a, slopes, offset
        rough = precision == "half" and P.images is not None and P.shape[1] >= FEW
        self.precision = "single" if precision == "half" and not rough else precision
        self.work = _dtype(precision)
        self.rows, self.where = torch.unique(top_images(q, len(slopes), ties), return_inverse=True)
        # S is kept in units of 1 / scale, which keeps it inside the range of float16
        self.scale = float(min(P.shape[1], 60000)) if rough else 1.0
        stored = torch.float16 if self.precision == "half" else self.work
        fits = len(self.rows) * P.shape[1] * stored.itemsize <= STORE
        self.kept = torch.empty(len(self.rows), P.shape[1], dtype=stored, device=P.device) if fits else None
        self.log_z = self._normalise()

    def _normalise(self):
        """log of the sum over concepts of exp(a P), float64 [rows]; fills `kept`."""
        found = torch.empty(len(self.rows), dtype=torch.float64, device=self.P.device)
        logits = self._lowered() if self.precision == "half" else self._logits
        for part in _parts(len(self.rows), BLOCK // self.P.shape[1]):
            x, shift = logits(self.rows[part])
            first = x[:, 0].to(torch.float64, copy=True)
            x = torch.softmax(x, 1, out=x)
            found[part] = first - x[:, 0].double().log() + shift
            if self.kept is not None:
                self.kept[part] = x.mul_(self.scale)
        return found

    def _logits(self, rows):
        return self.P.block(rows, dtype=self.work).mul_(self.a), 0.0

    def _lowered(self):
        """A function from rows to a P + a constant for each row, by a product in bfloat16; and that constant.

        Taking the mean concept away changes no softmax, and makes the numbers that are rounded small.
        """
        images, texts = self.P.images.float(), self.P.texts.float()
        centre, middle = texts.mean(0), images.mean(0)
        texts = texts - centre
        low, bias = texts.bfloat16().T, self.a * (texts @ middle)

        def logits(rows):
            x = images[rows]
            product = (self.a * (x - middle)).bfloat16() @ low
            return product.float().add_(bias), self.a * (x @ centre).double()

        return logits

    def all(self):
        """L for every concept: [neurons, concepts] in the working precision."""
        concepts, device = self.P.shape[1], self.P.device
        found = torch.empty(self.where.shape[1], concepts, dtype=self.work, device=device)
        width = 32 * max(1, (2**24 if device.type == "cpu" else 2**30) // (32 * len(self.rows) * self.work.itemsize))
        panel = torch.empty(len(self.rows), min(width, concepts), dtype=self.work, device=device)
        for columns in _parts(concepts, width):
            S = panel[:, : columns.stop - columns.start]
            S.copy_(self._probabilities(columns) if self.kept is None else self.kept[:, columns])
            found[:, columns] = self._summed(S, self.where, 1.0 if self.kept is None else self.scale)
        return found

    def exact(self, columns):
        """L of some concepts in float64: [neurons, columns]; `log_z` is as good as the precision."""
        return self._summed(self._probabilities(columns, torch.float64), self.where)

    def precise(self, neurons, columns):
        """L of some neurons and concepts in float64, `log_z` too: [neurons, columns]."""
        rows, where = torch.unique(self.where[:, neurons], return_inverse=True)
        rows, parts = self.rows[rows], []
        for part in _parts(len(rows), BLOCK // self.P.shape[1]):
            parts.append((self.a * self.P.block(rows[part], dtype=torch.float64)).logsumexp(1))
        S = (self.a * self.P.block(rows, columns, torch.float64) - torch.cat(parts)[:, None]).exp_()
        return self._summed(S, where)

    def of_average_image(self):
        """L of a neuron whose top images are all like the average of all images: float64 [concepts]."""
        total = torch.zeros(self.P.shape[1], dtype=torch.float64, device=self.P.device)
        for part in _parts(self.P.shape[0], BLOCK // self.P.shape[1]):
            x = self.P.block(part, dtype=self.work).mul_(self.a)
            total += torch.softmax(x, 1).sum(0, dtype=torch.float64)
        where = torch.zeros(len(self.slopes), 1, dtype=torch.int64, device=self.P.device)
        return self._summed((total / self.P.shape[0])[None], where)[0]

    def _probabilities(self, columns, dtype=None):
        dtype = dtype or (torch.float32 if self.precision == "half" else self.work)
        x = self.P.block(self.rows, columns, dtype).mul_(self.a)
        return x.sub_(self.log_z[:, None].to(dtype)).exp_()

    def _summed(self, S, where, scale=1.0):
        """Sum over ranks of log(offset + slope S / scale): [neurons, columns of S]. where: rows of S, [ranks, neurons].

        As products, with a logarithm only where the product would otherwise leave the range of the type.
        """
        if self.offset is not None:
            S = S + self.offset * scale
        largest = math.log1p(max(self.slopes) / scale * float(S.max()))
        smallest = 0.0 if self.offset is None else -math.log(self.offset * scale)
        group = max(1, int(LONGEST_FACTOR[S.dtype] / max(largest, smallest, 1e-9)))
        total = torch.zeros(where.shape[1], S.shape[1], dtype=S.dtype, device=S.device)
        product = torch.ones_like(total)
        for rank, slope in enumerate(self.slopes):
            rows = _rows(S, where[rank])
            product = (
                product.mul_(rows) if self.offset is not None else product.addcmul_(product, rows, value=slope / scale)
            )
            if (rank + 1) % group == 0:
                total += product.log()
                product.fill_(1)
        total += product.log_()
        return total if self.offset is None else total.sub_(len(self.slopes) * math.log(scale))


# --- labels


def labels(name, P, q, precision="auto", **constants):
    """The best concept of each neuron and its score, as float64 gives them: (int64 [neurons], float64 [neurons]).

    name: a key of FUNCTIONS. precision: "auto" takes float64 for small problems and "half" for others; then every
    concept within reach of a neuron's best one is computed again in float64. Reach is four times the largest error
    seen, first on a sample of concepts, then on those computed again. What is left of the lower precision are sums over
    all concepts and over all neurons, in which its errors average out; neurons whose two best concepts are so near that
    the first kind matters are computed a third time, with float64 sums. A dead neuron has label DEAD and score nan.
    """
    if name not in FUNCTIONS:
        raise UserError(
            f"There is no similarity function '{name}'; there are {', '.join(FUNCTIONS)}.{nearest(name, FUNCTIONS)}"
        )
    P, q = _checked(P, q)
    if precision == "auto":
        precision = "double" if P.shape[0] * P.shape[1] <= SMALL else "half"
    found = torch.full((q.shape[1],), DEAD, device=P.device)
    score = torch.full((q.shape[1],), math.nan, dtype=torch.float64, device=P.device)
    alive = (~dead(q)).nonzero().ravel()
    if not len(alive):
        return found, score
    scores, exact = _scorer(name, P, q[:, alive], precision, constants)
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
    """All scores in some precision, and a function (neurons, columns, precise) -> float64 scores of those.

    Without `precise`, SoftWPMI and WPMI still lean on sums over all concepts that were made in that precision.
    """
    if name in ("wpmi", "soft_wpmi"):
        options = {"lam": 1.0 if name == "soft_wpmi" else 0.6, "prior": "layer", **constants}
        lam, prior = options.pop("lam"), options.pop("prior")
        _check_prior(prior, P, q, lam)
        given = _constants(name, **options)
        likelihood = _Likelihood(P, q, precision, **given)
        scores = likelihood.all()
        scores -= lam * _prior(prior, likelihood, scores, slice(None)).to(scores.dtype)
        scores += (1 - lam) * given["constant"]

        def exact(neurons, columns, precise=False):
            found = likelihood.exact(columns)
            minus = lam * _prior(prior, likelihood, found, columns)
            found = likelihood.precise(neurons, columns) if precise else found[neurons]
            return found - minus + (1 - lam) * given["constant"]
    else:
        scores = FUNCTIONS[name](P, q, precision=precision, **constants)

        def exact(neurons, columns, precise=False):
            return FUNCTIONS[name](P, q[:, neurons], columns=columns, precision="double", **constants)

    return scores, exact


def _certain(scores, exact):
    """Best score and its concept, near ties decided in float64. scores [neurons, concepts]; exact: see `_scorer`."""
    neurons, concepts = scores.shape
    everyone = torch.arange(min(neurons, 64), device=scores.device)
    sample = torch.linspace(0, concepts - 1, min(concepts, 32), device=scores.device).long().unique()
    few = scores[everyone][:, sample]
    error = _largest_error(few, exact(everyone, sample), few >= few.median(1, keepdim=True).values)
    (best, second), where = scores.topk(min(2, concepts), dim=1).values[:, [0, -1]].T, scores.argmax(1)
    while concepts > 1:
        border = best - 4 * max(error, 1e-12)
        unsure = (second >= border).nonzero().ravel()
        if not len(unsure):
            return best, where
        near = scores[unsure] >= border[unsure, None]
        columns = near.any(0).nonzero().ravel()
        near, few = near[:, columns], scores[unsure][:, columns]
        again = exact(unsure, columns)
        seen = _largest_error(few, again, near)
        if seen <= 2 * error:
            break
        error = seen
    if concepts == 1:
        return best, where
    few = unsure[:4]
    error = _largest_error(again[:4], exact(few, columns, precise=True), near[:4])
    again = torch.where(near, again, -math.inf)
    top = again.topk(2, dim=1).values
    tight = (top[:, 0] - top[:, 1] <= 8 * error).nonzero().ravel() if error else unsure[:0]
    if len(tight):
        again[tight] = torch.where(near[tight], exact(unsure[tight], columns, precise=True), -math.inf)
    top, index = first_best(again)
    best, where = best.double(), where.clone()
    best[unsure], where[unsure] = top, columns[index]
    return best, where


def _largest_error(scores, exact, among):
    error = (scores.double() - exact).abs()[among]
    return float(error.nan_to_num(0, 0, 0).max()) if len(error) else 0.0


# --- small things


def _dtype(precision):
    if precision not in PRECISIONS:
        raise UserError(f"precision is '{precision}'; give one of {', '.join(PRECISIONS)}.")
    return torch.float64 if precision == "double" else torch.float32


def _finite(x):
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())  # the sum is the faster test


def _parts(n, size):
    """Slices of at most `size` that cover 0 to n."""
    size = max(1, size)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _indices(P, columns):
    return torch.arange(P.shape[1], device=P.device)[columns]


def _rows(x, index):
    """x[index] for float [n, c]. On a CPU `index_select` copies such rows slowly; a bag of one row is the fast way."""
    if x.is_cuda or x.dtype != torch.float32:
        return x.index_select(0, index)
    return F.embedding_bag(index[:, None], x, mode="sum")


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
