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
    |t_i - s_rank(i)|^3, rank(i) that of image i by the concept. It is divided by the error of a random order and by the
    concept's mean cosine with those images to the power scale_p. A concept whose mean cosine is not positive gets -inf,
    where the released code has nan; a neuron whose n highest activations are all equal has no order: nan.
    leading: 0 for float64 throughout; else orders are read from float32, and each neuron's so many best concepts are
    scored again in float64. Released code, `rank_reorder`.
    """
    n = int(c.top_fraction * len(activations))
    if n < 2:
        raise UserError(
            f"top_fraction {c.top_fraction} of {len(activations)} images leaves {n}, but an order needs two; raise it."
        )
    top = top_images(activations, n, c.ties)
    t = activations.gather(0, top).T.double()
    t = (t - t[:, -1:]) / (t[:, :1] - t[:, -1:])  # from 1 to 0: no score hangs on the scale of a neuron
    chance = expected_error(t) if c.baseline == "expected" else _random_error(t, c.seed)
    work = torch.float32 if leading else torch.float64
    X, T, found = images.to(work), concepts.to(work), []
    for part in torch.arange(len(t), device=t.device).split(max(1, BLOCK // (n * len(T)))):
        scores = torch.cat([_scores(X, few, top.T[part], t[part], c) for few in T.split(max(1, BLOCK // n))], dim=1)
        if leading and len(T) > 1:
            best = scores.topk(min(leading, len(T)), dim=1).indices
            scores.scatter_(1, best, _scores(images.double(), concepts[best].double(), top.T[part], t[part], c))
        found.append(scores)
    return torch.cat(found) / chance[:, None]


def _scores(X: torch.Tensor, T: torch.Tensor, top: torch.Tensor, t: torch.Tensor, c: Constants) -> torch.Tensor:
    """Scores before the division by chance: float64 [neurons, concepts]. T [concepts, c] or [neurons, concepts, c]."""
    rows = X[top]
    middle = rows.mean(1, keepdim=True)
    height = (T @ middle.mT)[..., 0].double()
    ours = _ascending(t, T @ (rows - middle).mT)  # without the mean, which moves no image, less is rounded away
    error = ours.sub_(t.flip(1)[:, None]).abs_().pow_(3).mean(2)
    return torch.where(height > 0, -error / height.clamp(min=0) ** c.scale_p, -torch.inf)


def _ascending(t: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    """Activations t [neurons, n] in the ascending order of each row of P [neurons, concepts, n]: float64 like P."""
    n = P.shape[2]
    bits = (n - 1).bit_length()
    if P.dtype == torch.float64 or P.is_cuda or bits > 14 or len(P) > 1:
        return t[:, None].expand(-1, P.shape[1], -1).gather(2, P.argsort(dim=2, stable=True))
    # numpy sorts whole numbers several times faster than torch sorts floats: in front the cosine in at least 2^17 steps
    # of its row's range, which is as fine as float32 knows it, and the image behind it
    low, high = P[0].amin(1, keepdim=True), P[0].amax(1, keepdim=True)
    steps = (P[0] - low).mul_((2 ** (31 - bits) - 1) / (high - low).clamp(min=1e-30))
    keys = steps.to(torch.int32).mul_(2**bits).add_(torch.arange(n, dtype=torch.int32)).numpy()
    found, values = np.empty(keys.shape), t[0].numpy()

    def sort(part: slice) -> None:
        keys[part].sort(axis=1)
        np.take(values, keys[part] & (2**bits - 1), out=found[part], mode="clip")

    edges = np.linspace(0, len(keys), torch.get_num_threads() + 1).astype(int)
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(sort, map(slice, edges[:-1], edges[1:])))
    return torch.from_numpy(found)[None]


def expected_error(t: torch.Tensor) -> torch.Tensor:
    """Mean of |t_i - t_j|^3 over all i, j, the expected error of a random order: float64 [neurons]. t: [neurons, n]."""
    t = t.double().sort(dim=1).values
    t = t - t.mean(1, keepdim=True)
    below = torch.arange(t.shape[1], dtype=t.dtype, device=t.device)
    first, second, third = ((t**e).cumsum(1) - t**e for e in (1, 2, 3))  # sums over the smaller ones
    return 2 * (below * t**3 - 3 * t**2 * first + 3 * t * second - third).sum(1) / t.shape[1] ** 2


def _random_error(t: torch.Tensor, seed: int, draws: int = 5) -> torch.Tensor:
    """The released code's: the mean over a few random orders, one number a neuron, which changes no label."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(t.shape[1], generator=generator).to(t.device) for _ in range(draws)]
    return torch.stack([(t.flip(1) - t[:, order]).abs().pow(3).mean(1) for order in orders]).mean(0)
