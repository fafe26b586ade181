"""WPMI and SoftWPMI: how probable a concept makes a neuron's top images, against how probable it makes any."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from lib.dissection.constants import Constants
from lib.dissection.top_images import top_images
from lib.errors import UserError

BLOCK = 2**25  # cosines of some images with all concepts that are held at once
PANEL = 2**20  # terms of the sum over top images that are held at once: small enough for a processor's cache
Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def wpmi(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Weighted pointwise mutual information of a concept and the top images: float64 [neurons, concepts].

    With S the softmax of a P over the concepts, L is the sum of log(S + min_prob) over the top_k images, and the score
    is L - lam log p(concept). Paper, section 3.2; released code, `wpmi`.
    """

    def term(S: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
        return (S + c.min_prob).log_()

    return _scores(activations, images, concepts, c, leading, term)


def soft_wpmi(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """The paper's own similarity, with a soft membership of the top images: float64 [neurons, concepts].

    The i-th of the top_k images belongs to the neuron with probability p_i, from p_start down towards p_end. With S the
    softmax of a P over the concepts, L is the sum of log(1 + p_i (S - 1) + min_prob); score = L - lam log p(concept).
    log(1 + p(S - 1) + e) is summed as log1p(S p / (1 - p + e)): the constant left out is what quantises the published
    scores to multiples of 2^-15; it comes back where lam is not 1. Paper, section 3.2; released code, `soft_wpmi`.
    """
    p = c.p_start - torch.arange(c.top_k) / c.top_k * (c.p_start - c.p_end)  # in float32, as released: it moves 1 - p
    rest = 1 - p.double() + c.min_prob
    slopes = (p.double() / rest).to(images.device)

    def term(S: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
        return (S * slopes[rank, None].to(S.dtype)).log1p_()

    return _scores(activations, images, concepts, c, leading, term) + (1 - c.lam) * float(rest.log().sum())


def _scores(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int, term: Term
) -> torch.Tensor:
    """L - lam log p(concept). leading: 0 for float64 throughout; else L is made in float32, and that of each neuron's so
    many best concepts again in float64."""
    if c.lam == 1 and activations.shape[1] == 1:
        raise UserError(
            "There is one neuron, and the prior over neurons is its own likelihood: with lambda 1 every score would be "
            "0, whatever the images. Give all neurons of its layer."
        )
    work = torch.float32 if leading else torch.float64
    rows, where = torch.unique(top_images(activations, c.top_k, c.ties).T, return_inverse=True)
    X, T = images[rows], concepts
    found, log_z = likelihood(c.a * X.to(work), T.to(work), where, term)
    log_prior = c.lam * _log_mean_exp(found)
    found = found.double() - log_prior
    if leading:
        best = found.topk(min(leading, len(T)), dim=1).indices
        for part in torch.arange(len(found), device=found.device).split(max(1, PANEL // (c.top_k * leading))):
            y = c.a * X[where[part]].double() @ T[best[part]].double().mT
            S = (y - log_z[where[part]][:, :, None]).exp_()
            rank = torch.arange(c.top_k, device=S.device).repeat(len(part))
            again = term(S.flatten(0, 1), rank).unflatten(0, (len(part), -1)).sum(1)
            found[part] = found[part].scatter(1, best[part], again - log_prior[best[part]])
    return found


def likelihood(X: torch.Tensor, T: torch.Tensor, where: torch.Tensor, term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    """L [neurons, concepts], the sum of term(S, rank) over a neuron's top images, and log of the softmax's sums [images].

    X: the images that are among the top of some neuron, times a [images, c]; T: concepts [concepts, c]; where: which of
    the images are a neuron's top ones, int64 [neurons, ranks]. Some images at a time meet all concepts, which gives
    their softmax, and then all neurons that have them: S is never held for all images.
    """
    found = torch.zeros(len(where), len(T), dtype=X.dtype, device=X.device)
    log_z = []
    for start, some in _parts(X, BLOCK // len(T)):
        y = some @ T.T
        log_z.append(y.logsumexp(1))
        neuron, rank = ((where >= start) & (where < start + len(some))).nonzero(as_tuple=True)
        row = where[neuron, rank] - start
        each = torch.arange(len(row), device=X.device)
        bags = torch.searchsorted(neuron, torch.arange(len(where), device=X.device))  # where a neuron's terms begin
        for first, columns in _parts(y.T, PANEL // len(row)):
            S = (columns.T - log_z[-1][:, None]).exp_()
            terms = term(S.index_select(0, row), rank)
            found[:, first : first + len(columns)] += F.embedding_bag(each, terms, bags, mode="sum")
    return found, torch.cat(log_z).double()


def _parts(x: torch.Tensor, size: int) -> list[tuple[int, torch.Tensor]]:
    """x in parts of at most `size` rows, each with the place where it begins."""
    parts = x.split(max(1, size))
    return [(k * len(parts[0]), part) for k, part in enumerate(parts)]


def _log_mean_exp(found: torch.Tensor) -> torch.Tensor:
    """log of the mean of exp over neurons: float64 [concepts]. found: [neurons, concepts]."""
    return torch.cat([part.double().logsumexp(0) for part in found.split(512, dim=1)]) - math.log(len(found))
