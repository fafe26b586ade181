"""Twins: CLIPs that share both towers and differ in nothing but the two projections into the joint space.

With features f of an image and g of a text, and projections P and Q,

    cos(f P, g Q)

decides every prediction. Turning both sides by one orthogonal matrix H leaves all cosines as they are, but not the
coordinates: so what outlier features do can be told apart from where the axes lie.
"""

import torch
from torch.nn import functional as F

from lib.errors import UserError


def embedded(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Embeddings of norm 1: features [..., w], weight [w, c] and bias [c] -> [..., c]. Raises UserError."""
    if features.shape[-1] != weight.shape[0]:
        raise UserError(
            f"Features of {features.shape[-1]} numbers were given for a projection of {weight.shape[0]}; take those of "
            "the towers that the projection belongs to."
        )
    rows = features @ weight
    return F.normalize(rows if bias is None else rows + bias, dim=-1)


def classifier(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Zero-shot classifier [classes, c], rows of norm 1, from features of its prompts [classes, templates, w].

    Each prompt is embedded, and a class's embeddings are averaged and normalised again (Radford et al. 2021, 3.1.4).
    """
    return F.normalize(embedded(features, weight, bias).mean(1), dim=-1)


def reflection(mean: torch.Tensor) -> torch.Tensor:
    """The reflection that puts a vector [c] on the first axis: symmetric and orthogonal, float64 [c, c].

    H = I - 2 v v' / v'v with v = mean / |mean| + sign(mean_0) e_0 (Householder 1958). Raises UserError for a zero
    vector, which has no direction.
    """
    u = mean.detach().double()
    if not u.norm() > 0:
        raise UserError("A reflection was asked for that puts a zero vector on an axis; give one that has a direction.")
    v = u / u.norm()
    v[0] += 1.0 if u[0] >= 0 else -1.0
    return torch.eye(len(v), dtype=torch.float64, device=v.device) - 2 * torch.outer(v, v) / v.square().sum()
