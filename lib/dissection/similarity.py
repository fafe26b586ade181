"""The five similarity functions of CLIP-Dissect, without ever holding images x concepts in memory three times.

P is the concept-activation matrix, the cosine of each probing image with each concept: [images, concepts]. It is given
whole, or as its factors (images [n, d], texts [m, d]), and then made block by block. q holds a number for each image
and neuron: [images, neurons]. Every function returns scores [neurons, concepts]; `labels` returns the best concept.

Ties of activations go to the image that comes first, ties of scores to the concept that comes first. A dead neuron,
whose activation is the same for all images, has no order of images: its scores are nan and its label is DEAD.
"""

import functools
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
FEW = 5000  # concepts below which the errors of a bfloat16 product do not average out well in a softmax
MANY = 1000  # top images in whose order it matters little that bfloat16 lets neighbours swap
SMALL = 1e7  # images x concepts up to which everything is float64 at once
BLOCK = 2**22  # numbers of a block; larger ones go back to the system each time, which costs more than to fill them
PANEL = {"cpu": 2**21, "cuda": 2**28}  # numbers of a panel, all images and some concepts: on a CPU it stays in a cache
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
            return self.whole[:, columns][rows].to(dtype)
        return self.images[rows].to(dtype) @ self.texts[columns].to(dtype).T

    def to(self, dtype):
        """The same with its factors in another type; a whole P is converted a block at a time."""
        return self if self.images is None else Matrix(None, self.images.to(dtype), self.texts.to(dtype))

    def only(self, rows):
        """A copy with some of the images."""
        return (
            Matrix(self.whole[rows], None, None) if self.images is None else Matrix(None, self.images[rows], self.texts)
        )

    def longest(self):
        """A bound of |P| where it is given as factors."""
        return float(self.images.norm(dim=1).max() * self.texts.norm(dim=1).max())


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
    many = max(1, BLOCK // len(q))
    for start in range(0, q.shape[1], many):
        columns = q[:, start : start + many].contiguous().T.contiguous()  # in two steps: a fast transposition
        values, index = columns.topk(min(k + 1, len(q)), dim=1)
        tied = values[:, k - 1] == values[:, -1] if k < len(q) else torch.zeros(len(values), dtype=torch.bool)
        index = index[:, :k]
        if tied.any():  # topk takes any of the images that are equal at the border
            index[tied] = columns[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        index = index.sort(dim=1).values
        order = columns.gather(1, index).sort(dim=1, descending=True, stable=True).indices
        found[:, start : start + many] = index.gather(1, order).T
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
    rough = torch.bfloat16 if precision == "half" and n >= MANY else dtype  # what a concept's order is read from
    factor = None if texts is None else texts.to(rough)
    for k in range(q.shape[1]):
        rows, ascending = whole[top[:, k]].to(dtype), t[:, k].flip(0)
        middle = rows.mean(0)
        height = (middle if texts is None else texts @ middle).clamp(min=0) ** scale_p
        rows = (rows - middle).to(rough)  # which moves no image past another, and makes what is rounded small
        # concepts first, so that a concept's numbers lie side by side: a product of factors is cheaper than a gather
        for chunk in _parts(concepts, BLOCK // (4 * n)):
            ours = rows[:, chunk].T.contiguous() if texts is None else factor[chunk] @ rows.T
            error = _by_rank(t[:, k], ours).sub_(ascending).abs_()
            error = ((error * error).mul_(error) if p == 3 else error**p).mean(1)
            scores[k, chunk] = -error / chance[k] / height[chunk]
    return _without_dead(scores, q)


def _by_rank(t, rows):
    """t [n] in the ascending order of each row [concepts, n], ties in their order: [concepts, n]."""
    if rows.dtype != torch.bfloat16 or rows.is_cuda or len(t) > 2**16:
        return t[rows.argsort(dim=1, stable=True)]
    # numpy sorts integers several times faster than torch sorts floats: a number's bits in front, its place behind
    bits = rows.view(torch.int16)
    order = bits ^ ((bits >> 15) & 0x7FFF)  # as the numbers are: the bits of negative ones run backwards
    keys = order.to(torch.int32).mul_(2**16).add_(torch.arange(len(t), dtype=torch.int32)).numpy()
    found = np.empty(keys.shape, t.numpy().dtype)

    def sort(part):
        keys[part].sort(axis=1)
        np.take(t.numpy(), keys[part] & 0xFFFF, out=found[part], mode="clip")

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
        found -= lam * _prior(prior, likelihood, found).to(found.dtype)
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


def _prior(prior, likelihood, found):
    """lam's factor: log p(concept), float64 [concepts]. found: L [neurons, concepts]."""
    if isinstance(prior, torch.Tensor):
        return prior.to(found.device, torch.float64)
    return _mean_exp(found) if prior == "layer" else likelihood.of_average_image()


def _mean_exp(found):
    """log of the mean of exp over neurons, a part of the concepts at a time: float64 [concepts]."""
    parts = found.split(max(1, BLOCK // len(found)), dim=1)
    return torch.cat([part.logsumexp(0).double() for part in parts]) - math.log(len(found))


class _Likelihood:
    """L [neurons, concepts]: for each neuron the sum over its top images i of log(offset + slope_i S[i, concept]).

    S is computed only for images that are among the top of some neuron, and for a panel of concepts at a time.
    slopes: list of float, one a rank. offset: None for 1. precision: "double", "single", or "half", in which many
    concepts are seen to the fast way: a product in bfloat16 for SoftWPMI, a tangent for WPMI.
    """

    def __init__(self, P, q, precision, a, slopes, offset, constant, ties):
        self.a, self.slopes, self.offset = a, slopes, offset
        self.everyone, self.device, self.work = P, P.device, _dtype(precision)
        rows, self.where = torch.unique(top_images(q, len(slopes), ties), return_inverse=True)
        self.P = P.only(rows)
        self.fast = precision == "half" and P.images is not None and P.shape[1] >= FEW and a * P.longest() <= 12
        self.log_z = None if self.fast else self._log_z(slice(None), self.work)

    def all(self):
        """L for every concept: [neurons, concepts] in the working precision."""
        if self.fast:
            return self._by_powers() if self.offset is None else self._by_tangents()
        images, concepts = self.P.shape
        found = torch.empty(self.where.shape[1], concepts, dtype=self.work, device=self.device)
        for columns in _parts(concepts, _width(images, self.device)):
            found[:, columns] = self._summed(self._probabilities(columns, self.work), self.where)
        return found

    def exact(self, columns):
        """L of some concepts in float64: [neurons, columns]; `log_z` is as good as the precision."""
        return self._summed(self._probabilities(columns, torch.float64), self.where)

    def pairs(self, neurons, columns, wanted, precise=False):
        """L in float64 of the pairs that are wanted, bool [neurons, columns]; 0 for others. precise: `log_z` too."""
        found = torch.zeros(wanted.shape, dtype=torch.float64, device=self.device)
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=self.device)[:, None]
        for k, neuron in enumerate(neurons.tolist()):
            rows = self.where[:, neuron]
            log_z = self._log_z(rows, torch.float64) if precise else self.log_z[rows]
            S = self._logits(rows, columns[wanted[k]], torch.float64).sub_(log_z[:, None]).exp_()
            terms = (slopes * S).log1p_() if self.offset is None else (S + self.offset).log_()
            found[k, wanted[k]] = terms.sum(0)
        return found

    def of_average_image(self):
        """L of a neuron whose top images are all like the average of all images: float64 [concepts]."""
        images, concepts = self.everyone.shape
        total = torch.zeros(concepts, dtype=torch.float64, device=self.device)
        for part in _parts(images, BLOCK // concepts):
            logits = self.a * self.everyone.block(part, dtype=self.work)
            total += logits.softmax(1).sum(0, dtype=torch.float64)
        where = torch.zeros(len(self.slopes), 1, dtype=torch.int64, device=self.device)
        return self._summed((total / images)[None], where)[0]

    @functools.cached_property
    def _double(self):
        return self.P.to(torch.float64)

    def _logits(self, rows, columns, dtype):
        P = self._double if dtype == torch.float64 else self.P
        return self.a * P.block(rows, columns, dtype)  # a block of a whole P may be P itself

    def _log_z(self, rows, dtype):
        """log of the sum over concepts of exp(a P): float64 [rows]."""
        images, concepts = self.P.shape
        rows, found = torch.arange(images, device=self.device)[rows], []
        for part in rows.split(max(1, BLOCK // concepts)):
            found.append(self._logits(part, slice(None), dtype).logsumexp(1).double())
        return torch.cat(found)

    def _probabilities(self, columns, dtype):
        """S of all rows: [rows, columns]."""
        return self._logits(slice(None), columns, dtype).sub_(self.log_z[:, None].to(dtype)).exp_()

    def _summed(self, S, where):
        """Sum over ranks of log(offset + slope S): [neurons, columns of S]. where: rows of S, [ranks, neurons].

        As products, with a logarithm only where the product would otherwise leave the range of the type.
        """
        if self.offset is not None:
            S = S + self.offset
        largest = math.log1p(max(self.slopes) * float(S.max()))
        smallest = 0.0 if self.offset is None else -math.log(self.offset)
        group = max(1, int(LONGEST_FACTOR[S.dtype] / max(largest, smallest, 1e-9)))
        total = torch.zeros(where.shape[1], S.shape[1], dtype=S.dtype, device=S.device)
        product = torch.ones_like(total)
        for rank, slope in enumerate(self.slopes):
            rows = _rows(S, where[rank])
            product = product.mul_(rows) if self.offset is not None else product.addcmul_(product, rows, value=slope)
            if (rank + 1) % group == 0:
                total += product.log()
                product.fill_(1)
        return total.add_(product.log_())

    # The fast way takes logits around their means, y = (x_i - middle).a(t_m - centre) + bias_m. What is left out is the
    # same for all concepts of an image: no softmax changes, and the numbers that are rounded are small.

    def _centred(self):
        """Images [rows, d], a x texts [concepts, d], bias [concepts], in float32; what was left out, float64 [rows]."""
        images, texts = self.P.images.float(), self.P.texts.float()
        centre, middle = texts.mean(0), images.mean(0)
        left_out = self.a * (images @ centre).double()
        texts = (texts - centre).mul_(self.a)
        return images - middle, texts, texts @ middle, left_out

    def _by_tangents(self):
        """WPMI's L, in which log(exp(y) / Z + offset) is all but linear in y: its tangent at 0.

        Embeddings are summed over a neuron's top images first, and the sums multiplied with the concepts.
        """
        images, texts, bias, left_out = self._centred()
        log_z = _log_sum_exp(images, texts, bias)
        some = torch.linspace(0, len(images) - 1, min(len(images), 64), device=self.device).long()
        if (log_z[some] + left_out[some] - self._log_z(some, self.work)).abs().max() > 1e-3:
            log_z = (self._log_z(slice(None), self.work) - left_out).float()
        self.log_z = log_z.double() + left_out
        z = self.offset * log_z.exp()
        neurons, tangent = self.where.T.contiguous(), 1 / (1 + z)
        slopes = tangent[neurons]
        found = F.embedding_bag(neurons, images, mode="sum", per_sample_weights=slopes) @ texts.T
        found.addr_(slopes.sum(1), bias)
        return found.add_((z.log1p() - log_z)[neurons].sum(1, keepdim=True))

    def _by_powers(self):
        """SoftWPMI's L, in which log(1 + x) of the small x = slope S is a polynomial.

        A power of x is one of slope / Z, a number for neuron and image, times one of exp(y), a number for image and
        concept: its sum over a neuron's top images is a bag of rows with weights. The weights lean on an estimate of Z.
        The Z that is found on the way corrects L as if S were 1 / concepts, and serves what is computed again; where
        the estimate was bad, L is computed once more from it.
        """
        images, texts, bias, left_out = self._centred()
        slopes, neurons = torch.tensor(self.slopes, device=self.device), self.where.T.contiguous()
        estimate, each = _log_sum_exp(images, texts, bias), bias.exp()
        found, log_z = self._powers(images, texts, each, estimate, neurons, slopes)
        if (log_z - estimate).abs().max() > 0.02:
            estimate = log_z
            found, log_z = self._powers(images, texts, each, estimate, neurons, slopes)
        self.log_z = log_z.double() + left_out
        return found.sub_(((log_z - estimate)[neurons] * slopes).sum(1, keepdim=True), alpha=1 / len(texts))

    def _powers(self, images, texts, each, estimate, neurons, slopes):
        """L with weights from an estimate of log Z, and log Z. each: exp(bias). neurons: where, neurons first."""
        weights, z = slopes * (-estimate).exp()[neurons], torch.zeros_like(estimate)
        found = torch.zeros(len(neurons), len(texts), device=self.device)
        for columns, power, E in _exponentials(images, texts):
            factor = each[columns]
            z += E @ factor
            top = float(weights.max() * E.max() * factor.max())
            coefficients = _polynomial(2 ** (math.ceil(4 * math.log2(top)) / 4))  # few different ones to work out
            if coefficients is None:
                S = E * factor * (-estimate).exp()[:, None]
                found[:, columns] = self._summed(S, self.where)
                continue
            power.copy_(E)
            for exponent, coefficient in enumerate(coefficients, 1):
                if exponent > 1:
                    power.mul_(E)
                bag = F.embedding_bag(neurons, power, mode="sum", per_sample_weights=weights**exponent)
                found[:, columns].addcmul_(bag, coefficient * factor**exponent)
        return found, z.log()


def _exponentials(images, texts):
    """exp of images @ texts.T, the product in bfloat16, a panel at a time: columns, a spare [n, columns], and exp."""
    n, width = len(images), _width(len(images), images.device)
    images, texts = images.bfloat16(), (texts / math.log(2)).bfloat16()
    wide = torch.empty(8 * width * n, dtype=torch.bfloat16, device=images.device)
    panels = torch.empty(2, width * n, device=images.device)
    for many in _parts(len(texts), 8 * width):
        count = many.stop - many.start
        y = torch.mm(images, texts[many].T, out=wide[: n * count].view(n, count))
        for few in _parts(count, width):
            one, other = panels[:, : n * (few.stop - few.start)].view(2, n, -1)
            yield slice(many.start + few.start, many.start + few.stop), other, one.copy_(y[:, few]).exp2_()


def _log_sum_exp(images, texts, bias, sample=512):
    """log of the sum over concepts of exp(y), y = images @ texts.T + bias: an estimate, float32 [n].

    exp(y) is 1 + y + y^2 / 2, whose sums over concepts follow from moments, and a rest that a sample of concepts shows.
    """
    concepts = len(texts)
    some = torch.linspace(0, concepts - 1, min(concepts, sample), device=texts.device).long()
    moments, cross = (texts.T @ texts / concepts).bfloat16(), texts.T @ bias / concepts
    first, mean, square = texts.mean(0), bias.mean(), (bias * bias).mean()
    few, parts = texts[some].T.bfloat16(), []
    for x in images.split(max(1, BLOCK // len(some))):
        low = x.bfloat16()
        y = (low @ few).float().add_(bias[some])
        rest = (y.exp() - 1 - y).sub_(y * y, alpha=0.5).mean(1)
        second = (x * (low @ moments).float()).sum(1) + 2 * (x @ cross) + square
        parts.append(1 + x @ first + mean + second / 2 + rest)
    return torch.cat(parts).clamp_(min=0.5).log_().add_(math.log(concepts))


@functools.lru_cache
def _polynomial(top):
    """Coefficients of x, x^2, ... for log(1 + x) from 0 to `top`; None where it would take too many."""
    x = np.linspace(0, top, 100)[1:]
    for degree in range(1, 7):
        line = np.polynomial.Chebyshev.interpolate(lambda x: np.log1p(x) / x, degree - 1, [0, top])
        if abs(line(x) * x - np.log1p(x)).max() <= 2e-5:
            return line.convert(kind=np.polynomial.Polynomial).coef.tolist()
    return None


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
    lower precision: at level 0 on those over neurons and those over concepts, at level 1 on those over concepts.
    """
    if name in ("wpmi", "soft_wpmi"):
        options = {"lam": 1.0 if name == "soft_wpmi" else 0.6, "prior": "layer", **constants}
        lam, prior = options.pop("lam"), options.pop("prior")
        _check_prior(prior, P, q, lam)
        given = _constants(name, **options)
        likelihood = _Likelihood(P, q, precision, **given)
        scores = likelihood.all()
        log_prior = lam * _prior(prior, likelihood, scores)
        scores -= (log_prior - (1 - lam) * given["constant"]).to(scores.dtype)

        def exact(neurons, columns, wanted, level=2):
            minus = log_prior[columns]
            if level and isinstance(prior, str) and prior == "layer":
                minus = lam * _mean_exp(likelihood.exact(columns))
            return likelihood.pairs(neurons, columns, wanted, level == 2) - minus + (1 - lam) * given["constant"]
    else:
        scores = FUNCTIONS[name](P, q, precision=precision, **constants)

        def exact(neurons, columns, wanted, level=2):
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


def _width(n, device):
    """Concepts of a panel of n images: a multiple of 16, for which rows are fast to add."""
    return 16 * max(1, min(PANEL[device.type] // (16 * n), 16 if device.type == "cpu" else 256))


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
