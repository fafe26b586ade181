"""Rank reorder: how wrong a neuron's activations would be if its top images stood in a concept's order."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lib.dissection.constants import Constants
from lib.dissection.top_images import top_images
from lib.errors import UserError

BLOCK = 2**20  # cosines that are put into order at once


def rank_reorder(
    activations: torch.Tensor, images: torch.Tensor, concepts: torch.Tensor, c: Constants, leading: int = 0
) -> torch.Tensor:
    """Minus the error of a neuron's activations in a concept's order: float64 [neurons, concepts].

    With t the n = top_fraction x images highest activations and s the same in ascending order, the error is the mean of
    |t_i - s_rank(i)|^3, rank(i) that of image i by the concept; it is divided by the error expected of a random order
    (the released code draws five) and by the concept's mean cosine with those images to the power scale_p. A concept
    whose mean cosine is not positive gets -inf (released: nan), a neuron with n equal activations nan: it has no order.
    leading: 0 for float64 throughout; else orders are read from float32, and each neuron's so many best concepts are
    scored again in float64. Released code, `rank_reorder`.
    """
    n = int(c.top_fraction * len(activations))
    if n < 2:
        given = f"top_fraction {c.top_fraction} of {len(activations)} images leaves {n}"
        raise UserError(f"{given}, but an order needs two; raise it.")
    top = top_images(activations, n, c.ties)
    t = activations.gather(0, top).T.double()
    t = (t - t[:, -1:]) / (t[:, :1] - t[:, -1:])  # from 1 to 0: no score hangs on the scale of a neuron
    T, found = concepts.to(torch.float32 if leading else torch.float64), []
    for k in torch.arange(len(t), device=t.device).split(max(1, BLOCK // (n * len(T)))):
        rows = images[top.T[k]]
        scores = torch.cat([_scores(rows, few, t[k], c) for few in T.split(max(1, BLOCK // n))], dim=1)
        if leading:
            best = scores.topk(min(leading, len(T)), dim=1).indices
            scores.scatter_(1, best, _scores(rows, concepts[best].double(), t[k], c))
        found.append(scores)
    return torch.cat(found) / expected_error(t)[:, None]


def _scores(rows: torch.Tensor, T: torch.Tensor, t: torch.Tensor, c: Constants) -> torch.Tensor:
    """Scores before the division by chance: float64 [neurons, concepts], from orders in the type of T.

    rows: embeddings of the top images [neurons, n, d]. T [concepts, d] or [neurons, concepts, d]. t [neurons, n].
    """
    rows = rows.to(T.dtype)
    middle = rows.mean(1, keepdim=True)
    height = (T @ middle.mT)[..., 0].double()
    ours = _ascending(t, T @ (rows - middle).mT)  # without the mean, which moves no image, less is rounded away
    error = ours.sub_(t.flip(1)[:, None]).abs_().pow_(3).mean(2)
    return torch.where(height > 0, -error / height.clamp(min=0) ** c.scale_p, -torch.inf)


def _ascending(t: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    """Activations t [neurons, n] in the ascending order of each row of P: float64 [neurons, concepts, n], as P is."""
    neurons, concepts, n = P.shape
    bits = (n - 1).bit_length()
    if P.dtype == torch.float64 or P.is_cuda or bits > 14:
        return t[:, None].expand(-1, concepts, -1).gather(2, P.argsort(dim=2, stable=True))
    # numpy sorts whole numbers several times faster than torch sorts floats: in front the cosine, in 2^17 steps or more
    # of its row's range, about as fine as float32 knows it, and behind it the image
    low, high = P.amin(2, keepdim=True), P.amax(2, keepdim=True)
    steps = (P - low).mul_(2 ** min(31 - bits, 20) * (1 - 1e-6) / (high - low).clamp(min=1e-30)).to(torch.int32)
    keys = steps.mul_(2**bits).add_(torch.arange(n, dtype=torch.int32)).flatten(0, 1).numpy()
    found, first = np.empty(keys.shape), np.repeat(n * np.arange(neurons), concepts)[:, None]

    def sort(part: slice) -> None:
        keys[part].sort(axis=1)
        np.take(t.numpy(), (keys[part] & (2**bits - 1)) + first[part], out=found[part], mode="clip")

    edges = np.linspace(0, len(keys), torch.get_num_threads() + 1).astype(int)
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(sort, map(slice, edges[:-1], edges[1:])))
    return torch.from_numpy(found).view(P.shape)


def expected_error(t: torch.Tensor) -> torch.Tensor:
    """Mean of |t_i - t_j|^3 over all i, j, the expected error of a random order: float64 [neurons]. t: [neurons, n]."""
    t = t.double().sort(dim=1).values
    t = t - t.mean(1, keepdim=True)
    below = torch.arange(t.shape[1], dtype=t.dtype, device=t.device)
    first, second, third = ((t**e).cumsum(1) - t**e for e in (1, 2, 3))  # sums over the smaller ones
    return 2 * (below * t**3 - 3 * t**2 * first + 3 * t * second - third).sum(1) / t.shape[1] ** 2
