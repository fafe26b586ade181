"""One way to score neurons with concepts, for pages, timings and benchmarks: five similarity functions, five labels.

q holds a number for each probing image and neuron, P = X T' the cosine of each image with each concept. A problem of up
to SMALL cosines is computed in float64; in a larger one WPMI, SoftWPMI and rank reorder are made in float32 and each
neuron's LEADING best concepts are scored again in float64. Scores are equal to rounding in either case. P is never held
as a whole. Everything happens on the device of the images.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from lib.dissection.constants import constants
from lib.dissection.cosine import cos, cos_cubed
from lib.dissection.likelihood import soft_wpmi, wpmi
from lib.dissection.rank_reorder import rank_reorder
from lib.dissection.top_images import dead
from lib.errors import UserError

DEAD = -1  # the label of a neuron whose activation never changes
SMALL = 1e7  # images x concepts up to which everything is float64
LEADING = 64
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "cos": cos,
    "cos_cubed": cos_cubed,
    "rank_reorder": rank_reorder,
    "wpmi": wpmi,
    "soft_wpmi": soft_wpmi,
}


def scores(
    similarity: str, activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, **changed: Any
) -> torch.Tensor:
    """How well each concept describes each neuron: float64 [neurons, concepts].

    similarity: a key of FUNCTIONS. activations [images, neurons]; images [images, c] and concepts [concepts, c]:
    embeddings of a CLIP, of norm 1. changed: constants that are not the published ones, see `Constants`.
    A neuron whose activation is the same for all images is dead: its scores are nan. Raises UserError for shapes that
    don't fit, numbers that are not finite, unknown names, too few images for top_k.
    """
    c = constants(similarity, len(activations), **changed)
    q = checked(activations, images, concepts)
    silent = dead(q)
    in_prior = similarity in ("wpmi", "soft_wpmi") and c.prior == "released"
    used = torch.ones_like(silent) if in_prior else ~silent
    found = torch.full((q.shape[1], len(concepts)), math.nan, dtype=torch.float64, device=q.device)
    if not silent.all():
        leading = LEADING if len(images) * len(concepts) > SMALL else 0
        found[used] = FUNCTIONS[similarity](q[:, used], images, concepts, c, leading)
    found[silent] = math.nan
    return found


def labels(
    similarity: str, activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, **changed: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best concept of each neuron, DEAD for a dead one, and its score: int64 and float64 [neurons].

    Arguments and errors as in `scores`.
    """
    return best(scores(similarity, activations, images, concepts, **changed))


def best(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best concept of each row of scores [neurons, concepts] and its score: int64 and float64 [neurons].

    Of scores that are equal to rounding the first is taken. A row without a finite score has label DEAD and score nan.
    """
    label, score = (x[:, 0] for x in leading(found, 1))
    return label, score


def leading(found: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best concepts of each row of scores, best first, and their scores: int64 and float64 [neurons, k].

    Fewer where there are fewer concepts; DEAD and nan where fewer have a finite score.
    """
    left, lists = found.double().nan_to_num(nan=-math.inf, posinf=-math.inf), []
    for _ in range(min(k, left.shape[1])):
        top = left.amax(1)
        equal = left >= (top - 1e-12 * top.abs().clamp(min=1))[:, None]
        label = equal.to(torch.uint8).argmax(1)
        there = top > -math.inf
        lists.append((torch.where(there, label, DEAD), torch.where(there, top, math.nan)))
        left = left.scatter(1, label[:, None], -math.inf)
    return torch.stack([x for x, _ in lists], 1), torch.stack([x for _, x in lists], 1)


def checked(activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """The activations, on the device of the images. Raises UserError where shapes or numbers are wrong."""
    shapes = [list(x.shape) for x in (images, concepts)]
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise UserError(f"Embeddings are {shapes[0]} and {shapes[1]}; expected are [images, c] and [concepts, c].")
    if activations.dim() != 2 or len(activations) != len(images):
        given = f"{list(activations.shape)}, but there are embeddings of {len(images)} images"
        raise UserError(f"Activations are {given}; expected is [images, neurons].")
    for name, x in (("images", images), ("concepts", concepts)):
        if not torch.isfinite(x).all():
            raise UserError(f"Embeddings of {name} hold nan or infinite numbers; look for the first with .isfinite().")
    bad = (~torch.isfinite(activations)).any(0).nonzero().ravel().tolist()
    if bad:
        raise UserError(
            f"The activations of {len(bad)} of {activations.shape[1]} neurons are nan or infinite (first: neuron "
            f"{bad[0]}); run the target in float32, or leave those neurons out."
        )
    return activations.to(images.device)
