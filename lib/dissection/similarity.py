"""One way to score neurons with concepts, for pages, timings and benchmarks: five similarity functions, five labels.

q holds a number for each probing image and neuron, P = X T' the cosine of each image with each concept. A problem of up
to SMALL cosines is computed in float64; in a larger one WPMI, SoftWPMI and rank reorder are made in float32 and each
neuron's LEADING best concepts are scored again in float64. Scores are equal to rounding in either case; but far from a
neuron's best concepts, rank reorder may swap two images that float32 does not tell apart. P is never held as a whole.
Everything happens on the device of the images.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lib.dissection.constants import constants
from lib.dissection.cosine import cos, cos_cubed
from lib.dissection.likelihood import soft_wpmi, wpmi
from lib.dissection.rank_reorder import rank_reorder
from lib.dissection.top_images import dead
from lib.errors import UserError

DEAD = -1  # the label of a neuron whose activation never changes
SMALL = 1e7  # images x concepts up to which everything is float64
LEADING = 64  # best concepts of a neuron that are scored again
BLOCK = 2**20  # scores that are looked at together
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

    similarity: a key of FUNCTIONS. activations [images, neurons]; images [images, d] and concepts [concepts, d]:
    embeddings of a CLIP, of norm 1; arrays will do, and yes and no count as 1 and 0. changed: constants that are not
    the published ones, see `Constants`.
    A neuron whose activation is the same for all images is dead: its scores are nan. Raises UserError for shapes that
    don't fit, numbers that are not finite, unknown names, too few images for top_k.
    """
    activations, images, concepts = (_numbers(x) for x in (activations, images, concepts))
    c = constants(similarity, len(activations), **changed)
    q = checked(activations, images, concepts)
    silent = dead(q)
    counted = ~silent | (c.prior == "released" and similarity in ("wpmi", "soft_wpmi"))
    leading = LEADING if len(images) * len(concepts) > SMALL else 0
    if counted.all() and not silent.any():  # without a copy of what may be large
        return FUNCTIONS[similarity](q, images, concepts, c, leading)
    found = torch.full((q.shape[1], len(concepts)), math.nan, dtype=torch.float64, device=q.device)
    if not silent.all():
        found[counted] = FUNCTIONS[similarity](q[:, counted], images, concepts, c, leading)
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
    parts = [_leading(part.double(), min(k, found.shape[1])) for part in found.split(max(1, BLOCK // found.shape[1]))]
    return torch.cat([label for label, _ in parts]), torch.cat([score for _, score in parts])


def _leading(left: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    left = left.nan_to_num(nan=-math.inf, neginf=-math.inf)
    unit = left.abs().nan_to_num(posinf=0).amax(1).clamp(max=1)
    label = torch.empty(len(left), k, dtype=torch.int64, device=left.device)
    score = torch.empty(len(left), k, dtype=left.dtype, device=left.device)
    for place in range(k):
        top = left.amax(1)
        equal = left >= (top - 1e-12 * torch.maximum(top.abs(), unit))[:, None]
        label[:, place], score[:, place] = equal.byte().argmax(1), top
        left.scatter_(1, label[:, [place]], -math.inf)
    there = score > -math.inf
    return torch.where(there, label, DEAD), torch.where(there, score, math.nan)


def checked(activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """The activations, on the device of the images. Raises UserError where shapes or numbers are wrong."""
    q, X, T = (list(x.shape) for x in (activations, images, concepts))
    if len(X) != 2 or len(T) != 2 or X[1] != T[1] or 0 in (*X, *T):
        raise UserError(f"Embeddings are {X} and {T}; expected are [images, d] and [concepts, d].")
    if len(q) != 2 or q[0] != X[0]:
        raise UserError(f"Activations are {q}, but there are {X[0]} images; expected is [images, neurons].")
    if not (_finite(images) and _finite(concepts)):
        raise UserError("Embeddings hold nan or infinite numbers; look for images or concepts that are not finite.")
    if not _finite(activations):
        bad = (~torch.isfinite(activations)).any(0).nonzero().ravel().tolist()
        some = f"The activations of {len(bad)} of {q[1]} neurons are nan or infinite (first: neuron {bad[0]})"
        raise UserError(f"{some}; run the target in float32, or leave those neurons out.")
    return activations.to(images.device)


def _numbers(x: Any) -> torch.Tensor:
    """A tensor of floats, from one of whole numbers or bools or from an array. Raises UserError for anything else."""
    if not isinstance(x, (torch.Tensor, np.ndarray)) or not len(x.shape):
        raise UserError(f"Activations and embeddings are tensors [images, ...]; this is a {type(x).__name__}.")
    try:
        x = torch.as_tensor(x)
    except TypeError:  # an array of texts
        raise UserError(f"Activations and embeddings are numbers; this is an array of {x.dtype}.") from None
    return x if x.is_floating_point() else x.float()


def _finite(x: torch.Tensor) -> bool:
    return bool(x.sum().isfinite() or x.isfinite().all())  # the sum is the faster test
