"""Cosine of a neuron's activations with a concept's, plain and of cubes: cheap enough for float64 at any size."""

import torch

from lib.dissection.constants import Constants

BLOCK = 2**24  # numbers of P that are held at once
ROUNDING = 1e-6  # of float32 embeddings: P smaller than this part of what it could be is 0


def cos(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Cosine of q_k and P_m, not centred: float64 [neurons, concepts]. Released code, `cos_similarity`.

    activations [images, neurons], images [images, d], concepts [concepts, d]. P is never made: q'P = (q'X)T' and
    |P_m|^2 = t_m'(X'X)t_m. A concept orthogonal to all images has no direction: its cosine is 0.
    """
    X, T = images.double(), concepts.double()
    dot = torch.cat([_unit(q.double())[0].T @ X for q in activations.split(_width(X), dim=1)]) @ T.T
    norms = ((T @ (X.T @ X)) * T).sum(1).clamp(min=0).sqrt()
    return torch.where(norms > ROUNDING * X.norm() * T.norm(dim=1), dot / norms, 0.0)


def cos_cubed(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Dot product of centred, cubed, normalised q_k and P_m: float64 [neurons, concepts].

    Released code, `cos_similarity_cubed`. No norm is taken for smaller than `min_norm`, as there; with few images or
    small numbers this shrinks the scores; 0 takes every norm as it is. A concept that is the same for all images has 0.
    """
    X, T = images.double(), concepts.double()
    parts = [_unit_cubes(q.double(), c.min_norm) for q in activations.split(_width(X), dim=1)]
    q, shrunk = (torch.cat(x, dim=-1) for x in zip(*parts, strict=True))
    found, length = [], X.norm(dim=1).max()
    for t in T.split(_width(X)):
        P = X @ t.T
        P[:, P.std(0, correction=0) <= ROUNDING * length * t.norm(dim=1)] = 0
        cubes, factor = _unit_cubes(P, c.min_norm)
        found.append((q.T @ cubes) * factor)
    return torch.cat(found, dim=1) * shrunk[:, None]


def _width(images: torch.Tensor) -> int:
    return max(1, BLOCK // len(images))


def _unit(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of length one, and their lengths; scaled first, so that no square leaves the range. Zeros stay zeros."""
    largest = x.abs().amax(0)
    x = x / torch.where(largest > 0, largest, 1.0)
    norm = x.norm(dim=0)
    return x / torch.where(norm > 0, norm, 1.0), norm * largest


def _unit_cubes(x: torch.Tensor, min_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred, cubed columns of length one, and what `min_norm` leaves of that length: [n, k] and [k]."""
    unit, length = _unit(x - x.mean(0))
    cubes, norm = _unit(unit**3)
    return cubes, (norm * length**3 / min_norm).clamp(max=1) if min_norm > 0 else torch.ones_like(norm)
