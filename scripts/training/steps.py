"""What the zoo's trainings have in common besides the loop: batches, limits, rates and crops."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lib.errors import UserError
from lib.progress import progress


def shuffled(count: int, size: int, rng: np.random.Generator, title: str = "") -> Iterator[np.ndarray]:
    """One epoch's batches in a random order: int [size] each, into `count` examples; a rest is left out.

    title: of the bar that shows the way. Raises UserError when there is no whole batch.
    """
    if not 0 < size <= count:
        raise UserError(f"There are {count} examples for batches of {size}; give smaller batches or more examples.")
    order = rng.permutation(count)[: count // size * size]
    yield from progress(order.reshape(-1, size), title)


def limit_gradient(optimiser: torch.optim.Optimizer, model: nn.Module, norm: float = 1.0) -> None:
    """From now on, before each step, the gradient is scaled down to `norm` where it is longer."""

    def shorten(*_: Any) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    optimiser.register_step_pre_hook(shorten)


def limit_scale(optimiser: torch.optim.Optimizer, model: Any, most: float = 100.0) -> None:
    """From now on, after each step, exp(model.logit_scale) is kept from 1 to `most` (Radford et al. 2021, 2.5)."""

    def clamp(*_: Any) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(most))

    optimiser.register_step_post_hook(clamp)


def pace(step: int, steps: int, stairs: bool) -> float:
    """Learning rate of a step as a share of the highest: a warm-up of a tenth, then stairs or a cosine."""
    rise = min(1.0, (step + 1) / max(1, steps // 10))
    done = step / steps
    return rise * (0.1 ** int(3 * done) if stairs else 0.5 * (1 + math.cos(math.pi * done)))


def augmented(x: torch.Tensor, generator: torch.Generator, flips: bool) -> torch.Tensor:
    """Each picture [n, 3, S, S] cut to a random square of 60 to 100 % of its area and scaled back, maybe mirrored."""
    side, across, down, flip = torch.rand(4, len(x), generator=generator).to(x.device)
    side = (0.6 + 0.4 * side).sqrt()
    mirror = torch.where(flip < 0.5, -1.0, 1.0) if flips else torch.ones_like(side)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = side * mirror, side
    theta[:, 0, 2], theta[:, 1, 2] = (1 - side) * (2 * across - 1), (1 - side) * (2 * down - 1)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), "bilinear", "border", False)
