"""WPMI and SoftWPMI: how probable a concept makes a neuron's top images, against how probable it makes any."""

import math

import torch
from torch.nn import functional as F

from lib.dissection.constants import Constants
from lib.dissection.top_images import top_images
from lib.errors import UserError

BLOCK = 2**25  # cosines of some images with all concepts that are held at once
PANEL = 2**19  # terms of the sum over top images that are held at once: small enough for a processor's cache


def wpmi(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Weighted pointwise mutual information of a concept and the top images: float64 [neurons, concepts].

    With S the softmax of a P over the concepts, L is the sum of log(S + min_prob) over the top_k images, and the score
    is L - lam log p(concept). Paper, section 3.2; released code, `wpmi`.
    """
    slopes = torch.full((c.top_k,), 1 / c.min_prob, dtype=torch.float64)  # log(S + e) = log(1 + S / e) + log e
    return _scores(activations, images, concepts, c, leading, slopes, c.top_k * math.log(c.min_prob))


def soft_wpmi(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """The paper's own similarity, with a soft membership of the top images: float64 [neurons, concepts].

    The i-th of the top_k images belongs to the neuron with probability p_i, from p_start down towards p_end. With S the
    softmax of a P over the concepts, L is the sum of log(1 + p_i (S - 1) + min_prob); score = L - lam log p(concept).
    Paper, section 3.2; released code, `soft_wpmi`.
    """
    p = c.p_start - torch.arange(c.top_k) / c.top_k * (c.p_start - c.p_end)  # in float32, as released: it moves 1 - p
    rest = 1 - p.double() + c.min_prob
    # log(1 + p(S - 1) + e) = log(1 + S p / rest) + log(rest)
    return _scores(activations, images, concepts, c, leading, p.double() / rest, float(rest.log().sum()))


# seven, because the two functions above differ in slopes and constant and share all else
def _scores(
    activations: torch.Tensor,
    images: torch.Tensor,
    concepts: torch.Tensor,
    c: Constants,
    leading: int,
    slopes: torch.Tensor,
    constant: float,
) -> torch.Tensor:
    """L - lam log p(concept), with L the sum over ranks of log(1 + slope S), plus a constant.

    The constant is left out of the sums, because with lam 1 it cancels; carried along in float32 it is what quantises
    the published scores to multiples of 2^-15. leading: 0 for float64 throughout; else L is made in float32, and that
    of each neuron's so many best concepts again in float64. Raises UserError for one neuron, whose scores would be 0.
    """
    if c.lam == 1 and activations.shape[1] == 1:
        raise UserError(
            "There is one neuron, and the prior over neurons is its own likelihood: with lambda 1 every score would be "
            "0, whatever the images. Give all neurons of its layer."
        )
    slopes = slopes.to(images.device)
    used, where = torch.unique(top_images(activations, c.top_k, c.ties).T, return_inverse=True)
    X, T, work = images[used], concepts, torch.float32 if leading else torch.float64
    L, log_z = _likelihood(c.a * X.to(work), T.to(work), where, slopes)
    # the mean over neurons, some concepts at a time
    log_p = torch.cat([part.double().logsumexp(0) for part in L.split(512, dim=1)]) - math.log(len(L))
    found = L.double() - c.lam * log_p
    if leading:
        best = found.topk(min(leading, len(T)), dim=1).indices
        for k in torch.arange(len(found), device=found.device).split(max(1, PANEL // (c.top_k * leading))):
            logits = c.a * X[where[k]].double() @ T[best[k]].double().mT
            S = (logits - log_z[where[k]][:, :, None]).exp_()
            again = S.mul_(slopes[:, None]).log1p_().sum(1)
            found[k] = found[k].scatter(1, best[k], again - c.lam * log_p[best[k]])
    return found + (1 - c.lam) * constant


def _likelihood(
    X: torch.Tensor, T: torch.Tensor, where: torch.Tensor, slopes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """L without its constant [neurons, concepts], and the logarithm of the sums in the softmax, float64 [images].

    X: the images that are among the top of some neuron, times a [images, d]; T: concepts [concepts, d]; where: which of
    the images are a neuron's top ones, int64 [neurons, ranks]. Some images at a time meet all concepts, which gives
    their softmax, and then all neurons that have them: S is never held for all images.
    """
    L, log_z = torch.zeros(len(where), len(T), dtype=X.dtype, device=X.device), []
    size, neurons = max(1, BLOCK // len(T)), torch.arange(len(where), device=X.device)
    for start in range(0, len(X), size):
        logits = X[start : start + size] @ T.T
        highest = logits.amax(1, keepdim=True)
        E = logits.sub_(highest).exp_()
        z = E.sum(1)
        log_z.append(highest[:, 0].double() + z.double().log())
        neuron, rank = ((where >= start) & (where < start + size)).nonzero(as_tuple=True)
        row = where[neuron, rank] - start
        factor = (slopes[rank] / z[row]).to(X.dtype)[:, None]
        terms, bags = torch.arange(len(row), device=X.device), torch.searchsorted(neuron, neurons)
        width = max(16, PANEL // len(row))
        for panel in (slice(m, m + width) for m in range(0, len(T), width)):
            x = E[:, panel].contiguous().index_select(0, row).mul_(factor).log1p_()
            L[:, panel] += F.embedding_bag(terms, x, bags, mode="sum")  # the sum of each neuron's terms
    return L, torch.cat(log_z)
