"""The same scores in the released code's way, to time `similarity` against: all of P at once, then a neuron at a time.

What makes it slow and large is kept on purpose: P, a P and its softmax side by side, rows of P gathered through an
index as large as themselves, a logarithm of every number, ranks by sorting twice. Only the scores are put into one
tensor at once: a list of them, kept between the large temporaries, can break the memory into pieces of many times its
size. Nothing else uses this module.
"""

import math
from collections.abc import Callable

import torch

from lib.dissection.constants import Constants, constants


def scores(similarity: str, activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """Scores by "wpmi", "soft_wpmi" or "rank_reorder": float32 [neurons, concepts]; see `similarity.scores`."""
    c, P = constants(similarity, len(images)), images @ concepts.T
    found = torch.empty(activations.shape[1], P.shape[1])
    if similarity == "rank_reorder":
        return _rank_reorder(P, activations, c, found)
    p = (c.p_start - torch.arange(c.top_k) / c.top_k * (c.p_start - c.p_end))[:, None]
    of_rows = {
        "wpmi": lambda S: (S + c.min_prob).log().sum(0),
        "soft_wpmi": lambda S: (1 + p * (S - 1) + c.min_prob).log().sum(0),
    }
    return _pointwise(P, activations, c, of_rows[similarity], found)


def _pointwise(
    P: torch.Tensor, q: torch.Tensor, c: Constants, of_rows: Callable[[torch.Tensor], torch.Tensor], found: torch.Tensor
) -> torch.Tensor:
    S, top = torch.softmax(c.a * P, dim=1), torch.topk(q, c.top_k, dim=0).indices
    for k in range(len(found)):
        found[k] = of_rows(_rows(S, top, k))
    return found - c.lam * (found.logsumexp(0, keepdim=True) - math.log(len(found)))


def _rank_reorder(P: torch.Tensor, q: torch.Tensor, c: Constants, found: torch.Tensor) -> torch.Tensor:
    values, top = torch.topk(q, int(c.top_fraction * len(q)), dim=0)
    for k in range(len(found)):
        t, s = values[:, k], values[:, k].flip(0)
        chance = torch.stack([((s - t[torch.randperm(len(t))]).abs() ** 3).mean() for _ in range(5)]).mean()
        ours, parts = _rows(P, top, k), []
        for part in ours.split(1500, dim=1):
            ranks = part.argsort(dim=0).argsort(dim=0)
            parts.append(((s.expand(part.shape[1], -1).T.gather(0, ranks) - t[:, None]).abs() ** 3).mean(0))
        found[k] = -torch.cat(parts) / chance / ours.mean(0) ** c.scale_p
    return found


def _rows(x: torch.Tensor, top: torch.Tensor, k: int) -> torch.Tensor:
    return x.gather(0, top[:, k : k + 1].expand(-1, x.shape[1]))
