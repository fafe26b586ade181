"""The training loop, one for every model that this project trains."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lib.errors import UserError


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
