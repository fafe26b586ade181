"""The training loop, one for every model that this project trains, and what trainings have in common."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from lib.errors import UserError
from lib.progress import progress


def fit(
    model: nn.Module,
    batches: Callable[[], Iterable],
    loss: Callable[[Any], torch.Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: LRScheduler,
    epochs: int,
    after: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train `model` in place; returns a line an epoch: its number, the mean loss, the seconds since the start.

    batches(): those of one epoch, in the order in which they are taken. loss(batch): a scalar. schedule: of the
    learning rate, one step a batch. after(line): called when an epoch is over; what it adds to the line stays. What
    else has to happen at each step (see `limit_gradient`) is a hook of the optimiser. Raises UserError for a training
    that diverges.
    """
    history: list[dict] = []
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        model.train()
        losses = []
        for batch in batches():
            value = loss(batch)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            schedule.step()
            losses.append(value.detach())  # a number only at the end: asking for it makes a GPU wait
        mean = torch.stack(losses).mean().item()
        if not math.isfinite(mean):
            raise UserError(f"The training diverged in epoch {epoch}; give a lower rate, or look for NaN in its input.")
        line = {"epoch": epoch, "loss": mean, "seconds": round(time.perf_counter() - began, 1)}
        if after:
            after(line)
        history.append(line)
    return history


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
