"""Expensive work on images, kept a few whole classes at a time, so that an interrupted run goes on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lib import store
from lib.data.dataset import ImageDataset
from lib.progress import progress

Compute = Callable[[ImageDataset], dict[str, torch.Tensor]]


def by_chunks(key: dict[str, Any], images: ImageDataset, compute: Compute, what: str = "") -> dict[str, torch.Tensor]:
    """What `compute` gives for the images, [n, ...] by name: each chunk of classes from the store, or computed now.

    key: JSON values with "kind" and all that decides the result but the images and the code, which is that of the
    module of `compute`. what: the name of the bar of progress.
    """
    order, pieces = [], []
    for chunk in progress(list(images.chunks()), what or str(key["kind"])):
        some = images.subset(chunk)

        def part(some: ImageDataset = some) -> dict[str, torch.Tensor]:
            return compute(some)

        part.__module__ = compute.__module__  # whose code it is
        order.append(chunk)
        pieces.append(store.tensors({**key, "images": some.fingerprint, "n": len(some)}, part))
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    return {name: torch.cat([piece[name] for piece in pieces])[back] for name in pieces[0]}
