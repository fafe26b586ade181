"""Cosine of a neuron's activations with a concept's, plain and of cubes: in float64 whatever the size."""

import torch

from lib.dissection.constants import Constants

BLOCK = 2**24  # numbers of P that are held at once
ROUNDING = 1e-6  # of float32 embeddings: what is smaller than this part of its largest possible value is no number


def cos(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Cosine of q_k and P_m, not centred: float64 [neurons, concepts]. Released code, `cos_similarity`.

    activations [images, neurons]; images [images, c], concepts [concepts, c]. P is never made: q'P = (q'X)T' and
    |P_m|^2 = t_m'(X'X)t_m, cheap enough for float64. A concept orthogonal to all images has no direction: its cosine is 0.
    """
    X, T = images.double(), concepts.double()
    dot = torch.cat([_unit(q.double())[0].T @ X for q in activations.split(_width(X), dim=1)]) @ T.T
    lengths = ((T @ (X.T @ X)) * T).sum(1).clamp(min=0).sqrt()
    there = lengths > ROUNDING * X.norm() * T.norm(dim=1)
    return torch.where(there, dot / lengths, 0.0)


def cos_cubed(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Dot product of centred, cubed, normalised q_k and P_m: float64 [neurons, concepts].

    Released code, `cos_similarity_cubed`. No norm is taken for smaller than `min_norm`, as in the released code; with few images or small numbers this shrinks
    the scores. 0 takes every norm as it is. Columns are scaled before they are cubed, so that no power leaves the range.
    """
    X, T = images.double(), concepts.double()
    q, sizes = zip(*(_unit_cubes(q.double(), c.min_norm) for q in activations.split(_width(X), dim=1)), strict=True)
    q, found = torch.cat(q, dim=1), []
    reach = ROUNDING * X.norm(dim=1).max()
    for t in T.split(_width(X)):
        P = X @ t.T
        P[:, P.std(0, correction=0) <= reach * t.norm(dim=1)] = 0  # a concept that is the same for all images
        cubes, shrunk = _unit_cubes(P, c.min_norm)
        found.append((q.T @ cubes) * shrunk)
    return torch.cat(found, dim=1) * torch.cat(sizes)[:, None]


def _width(images: torch.Tensor) -> int:
    return max(1, BLOCK // len(images))


def _unit(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of length one, and their lengths; a column of zeros stays one."""
    largest = x.abs().amax(0)
    x = x / torch.where(largest > 0, largest, 1.0)
    norm = x.norm(dim=0)
    return x / torch.where(norm > 0, norm, 1.0), norm * largest


def _unit_cubes(x: torch.Tensor, min_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred, cubed columns of length one, and what `min_norm` leaves of that length: [n, k] and [k]."""
    unit, length = _unit(x - x.mean(0))
    cubes, norm = _unit(unit**3)
    return cubes, (norm * length**3 / min_norm).clamp(max=1) if min_norm > 0 else torch.ones_like(norm)
