"""WPMI and SoftWPMI: how probable a concept makes a neuron's top images, against how probable it makes any."""

import math

import torch

from lib.dissection.constants import Constants
from lib.dissection.top_images import top_images
from lib.errors import UserError

BLOCK = 2**27  # cosines of some images with all concepts that are held at once
PANEL = 2**18  # numbers of all neurons with some concepts: small enough for a processor's cache
LONGEST = {torch.float32: 80.0, torch.float64: 600.0}  # logarithm that a product may reach


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
    found = L.double().sub_(c.lam * log_p)
    if leading:
        best = found.topk(min(leading, len(T)), dim=1).indices
        for k in torch.arange(len(found), device=found.device).split(max(1, PANEL // (c.top_k * leading))):
            logits = (X[where[k]].double() @ T[best[k]].double().mT).mul_(c.a)
            S = logits.sub_(log_z[where[k]][:, :, None]).exp_()
            again = S.mul_(slopes[:, None]).log1p_().sum(1)
            found[k] = found[k].scatter(1, best[k], again - c.lam * log_p[best[k]])
    return found.add_((1 - c.lam) * constant)


def _likelihood(
    X: torch.Tensor, T: torch.Tensor, where: torch.Tensor, slopes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """L without its constant [neurons, concepts], and the logarithm of the sums in the softmax, float64 [images].

    X: the images that are among the top of some neuron, times a [images, d]; T: concepts [concepts, d]; where: which of
    the images are a neuron's top ones, int64 [neurons, ranks]. Some images at a time meet all concepts, which gives
    their softmax, and then all neurons that have them: S is never held for all images.
    """
    L, log_z = torch.zeros(len(where), len(T), dtype=X.dtype, device=X.device), []
    size, width = max(1, BLOCK // len(T)), max(1, PANEL // len(where))
    room = torch.empty(min(size, len(X)), len(T), dtype=X.dtype, device=X.device)
    for start in range(0, len(X), size):
        some = X[start : start + size]
        logits = torch.mm(some, T.T, out=room[: len(some)])
        highest = logits.amax(1, keepdim=True)
        E = logits.sub_(highest).exp_()
        z = E.sum(1)
        log_z.append(highest[:, 0].double() + z.double().log())
        here = (where >= start) & (where < start + size)
        count, order = here.sum(1).sort(descending=True)  # the neurons with most images come first
        rank = here[order].byte().argsort(dim=1, descending=True, stable=True)[:, : int(count[0])]
        row = (where[order].gather(1, rank) - start).clamp(0, len(z) - 1)
        factor = (slopes[rank] / z[row]).to(X.dtype)
        having = [int((count > j).sum()) for j in range(rank.shape[1])]  # neurons with a j-th image here
        back = order.argsort()
        for panel in (slice(m, m + width) for m in range(0, len(T), width)):
            S = E[:, panel].contiguous()
            L[:, panel] += _log_product(S, row, factor, having)[back]
    return L, torch.cat(log_z)


def _log_product(S: torch.Tensor, row: torch.Tensor, factor: torch.Tensor, having: list[int]) -> torch.Tensor:
    """Sum over j of log(1 + factor_j S[row_j]), for the first having[j] neurons: [neurons, concepts].

    As a product, of which the logarithm is taken before it could leave the range of the type.
    """
    most = max(1, int(LONGEST[S.dtype] / math.log1p(float(factor.max() * S.max()))))
    total = torch.zeros(len(row), S.shape[1], dtype=S.dtype, device=S.device)
    for first in range(0, len(having), most):
        product = torch.ones_like(total)
        for j, n in list(enumerate(having))[first : first + most]:
            x = S.index_select(0, row[:n, j]).mul_(factor[:n, j : j + 1])
            product[:n].addcmul_(product[:n], x)
        total += product.log_()
    return total
