"""The same scores in the released code's way, to time `similarity` against: all of P at once, then a neuron at a time.

What makes it slow and large is kept on purpose: P, a P and its softmax side by side, rows of P gathered through an
index as large as themselves, a logarithm of every number, ranks by sorting twice. Only the scores are put into one
tensor at once: a list of them, kept between the large temporaries, can break the memory into pieces of many times its
size. Nothing else uses this module.
"""

import math

import torch


def matrix(images, texts):
    """All of P, float32 [images, concepts]. images [n, d], texts [m, d]."""
    return images @ texts.T


def wpmi(P, q, neurons, top_k=28, a=2.0, lam=0.6, min_prob=1e-7):
    """WPMI of `neurons` (indices of columns of q): float32 [neurons, concepts]."""
    S, top = torch.softmax(a * P, dim=1), torch.topk(q, top_k, dim=0).indices
    found = torch.empty(len(neurons), S.shape[1])
    for scores, k in zip(found, neurons, strict=True):
        scores[:] = (_rows(S, top, k) + min_prob).log().sum(0)
    return _minus_prior(found, lam)


def soft_wpmi(P, q, neurons, top_k=100, a=10.0, lam=1.0, p_start=0.998, p_end=0.97, min_prob=1e-7):
    """SoftWPMI of `neurons`: float32 [neurons, concepts]."""
    S, top = torch.softmax(a * P, dim=1), torch.topk(q, top_k, dim=0).indices
    p = (p_start - torch.arange(top_k) / top_k * (p_start - p_end))[:, None]
    found = torch.empty(len(neurons), S.shape[1])
    for scores, k in zip(found, neurons, strict=True):
        scores[:] = (1 + p * (_rows(S, top, k) - 1) + min_prob).log().sum(0)
    return _minus_prior(found, lam)


def rank_reorder(P, q, neurons, top_fraction=0.05, p=3, scale_p=0.5, chunk=1500):
    """Rank reorder of `neurons`: float32 [neurons, concepts]."""
    values, top = torch.topk(q, int(top_fraction * len(q)), dim=0)
    found = []
    for k in neurons:
        t, s = values[:, k], values[:, k].flip(0)
        chance = torch.stack([((s - t[torch.randperm(len(t))]).abs() ** p).mean() for _ in range(5)]).mean()
        ours = _rows(P, top, k)
        parts = []
        for part in ours.split(chunk, dim=1):
            ranks = part.argsort(dim=0).argsort(dim=0)
            parts.append(((s.expand(part.shape[1], -1).T.gather(0, ranks) - t[:, None]).abs() ** p).mean(0))
        found.append(-torch.cat(parts) / chance / ours.mean(0) ** scale_p)
    return torch.stack(found)


def _rows(x, top, k):
    return x.gather(0, top[:, k : k + 1].expand(-1, x.shape[1]))


def _minus_prior(found, lam):
    return found - lam * (found.logsumexp(0, keepdim=True) - math.log(len(found)))
