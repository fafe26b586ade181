"""Which images a neuron likes best, and which neurons like none."""

import torch

from lib.errors import UserError

SPARSE = 5  # a neuron that is active in fewer images owes its label to the order of the others
BLOCK = 2**22  # activations that are looked at together


def dead(activations: torch.Tensor) -> torch.Tensor:
    """Which neurons have the same activation for all images: bool [neurons]. activations: [images, neurons]."""
    return activations.amax(0) == activations.amin(0)


def active(activations: torch.Tensor) -> torch.Tensor:
    """In how many images each neuron does more than its least (after a ReLU: than nothing): int64 [neurons].

    activations: [images, neurons]. 0 for a dead neuron. Where it is less than top_k, the other top images are equal,
    and the label hangs on the order of the probe.
    """
    return (activations > activations.amin(0)).sum(0)


def top_images(activations: torch.Tensor, k: int, ties: str = "first") -> torch.Tensor:
    """The k images with the highest activation of each neuron, highest first: int64 [k, neurons].

    activations: [images, neurons]. ties: "first" takes equal images in their order; "released" whichever torch.topk
    takes, as the authors' code does, so that the label of a neuron with few distinct activations hangs on the machine.
    Raises UserError when there are fewer than k images.
    """
    images = len(activations)
    if not 1 <= k <= images:
        raise UserError(f"The top {k} images of a neuron are wanted of {images}; lower top_k or add images.")
    if ties == "released":
        return activations.topk(k, dim=0).indices
    found = []
    for part in activations.split(max(1, BLOCK // images), dim=1):
        rows = part.contiguous().T.contiguous()  # in two steps: a fast transposition
        values, index = rows.topk(min(k + 1, images), dim=1)
        tied = values[:, k - 1] == values[:, -1] if k < images else torch.zeros_like(values[:, 0], dtype=torch.bool)
        index = index[:, :k]
        if tied.any():  # topk takes any of the images that are equal to the last one
            index[tied] = rows[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        index = index.sort(dim=1).values
        order = rows.gather(1, index).sort(dim=1, descending=True, stable=True).indices
        found.append(index.gather(1, order))
    return torch.cat(found).T
