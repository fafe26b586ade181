"""Privileged directions: the singular vectors of a classification head, their importance, and pruning them.

The head W [classes, d] turns an embedding into logits, W h (+ bias). With W = U S V^T, each column v_i of V is a
direction of the embedding space, and the paper's importance of it is

    importance(i) = s_i / sum_j s_j  x  mean over images of |cos(v_i, h)|.

A direction is privileged when its importance is far above that of the others. Pruning keeps a set K of directions:
W_K = sum over i in K of s_i u_i v_i^T.

Adding one vector to all rows of W changes no prediction, but it changes S and V. The rows of a zero-shot head share a
large common part; `centred` takes the mean row away first, which leaves the smallest head (in the sum of its squares).

Pruning is an approximation of low rank, so it needs other such approximations beside it. Each is written like the
singular directions, as factors A [d, r] and B [r, classes] with logits h A[:, :k] B[:k] for the k directions kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import BATCH, RESAMPLES, Averages, batches, check_shape
from lib.seeds import rng

HEADS = ("as it is", "row-centred")  # which head is decomposed
CHANCE_DRAWS = 5  # draws of what is random, averaged
Factors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Directions:
    """The singular value decomposition of a head: values [D], left [classes, D], right [d, D] (columns v_i).

    D is the head's rank, at most min(classes, d), and one less than that for a row-centred head of as many
    classes: a direction with singular value 0 is arbitrary.
    """

    values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)


def checked_head(head: Any, width: int | None = None) -> torch.Tensor:
    """A head as float64 [classes, d]. Raises UserError for another rank, another width, or values not finite."""
    check_shape(head, "head's rows")
    head = torch.as_tensor(head).to(torch.float64)
    if len(head) < 2:
        raise UserError("The head has one class; expected [classes, coordinates] with two classes or more.")
    if not head.isfinite().all():
        raise UserError("The head holds NaN or infinite values; check how it was computed.")
    if width is not None and head.shape[1] != width:
        raise UserError(
            f"The head has {head.shape[1]} coordinates and the embeddings have {width}; expected a head of the same "
            "model, [classes, coordinates]."
        )
    return head


def decompose(head: Any, centred: bool = False) -> Directions:
    """The Directions of a head [classes, d], in float64; centred: of the head without its mean row.

    Raises UserError for a bad head, and for one whose rows are all zero (centred: all equal). Paper v1, equation 3.
    """
    head = checked_head(head)
    smallest = float(head.norm()) * max(head.shape) * torch.finfo(torch.float64).eps  # rounding errors of that size
    head = head - head.mean(dim=0) if centred else head
    left, values, right = torch.linalg.svd(head, full_matrices=False)
    rank = int((values > smallest).sum())
    if not rank:
        state = "equal" if centred else "zero"
        raise UserError(f"The rows of the head are all {state}, so it has no directions; check how it was computed.")
    return Directions(values[:rank], left[:, :rank], right[:rank].T.contiguous())


def importance(values: Any, cosines: Any) -> np.ndarray:
    """Singular values [D], normalised to sum 1, times mean |cos| [..., D]: [..., D]. Paper v1, equation 4.

    The normalisation is not known; it changes no ranking and no ratio.
    """
    values, cosines = (np.asarray(x, dtype=np.float64) for x in (values, cosines))
    return values / values.sum() * cosines


def concentration(importances: Any) -> tuple[np.ndarray, np.ndarray]:
    """How far the first direction stands out: the largest over the median, and its share: [..., D] -> [...] twice."""
    x = np.asarray(importances, dtype=np.float64)
    return x.max(axis=-1) / np.median(x, axis=-1), x.max(axis=-1) / x.sum(axis=-1)


def cosines(
    rows: Any, directions: Mapping[str, Directions], seed: int = 0, resamples: int = RESAMPLES, size: int = BATCH
) -> Averages:
    """|cos| of embeddings [n, d] with directions by name, read once: `Averages` of [D] under each name."""
    for several in directions.values():
        checked_head(several.right.T, rows.shape[-1])
    averages = Averages(seed, resamples)
    for chunk in batches(rows, size):
        unit = chunk / chunk.norm(dim=1, keepdim=True)
        averages.add({name: (unit @ x.right.to(unit.device)).abs() for name, x in directions.items()})
    return averages


def second_moment(rows: Any, size: int = BATCH) -> torch.Tensor:
    """The mean of h h^T over embeddings [n, d]: float64 [d, d]."""
    return sum((chunk.T @ chunk for chunk in batches(rows, size)), torch.zeros(())) / len(rows)


# --- pruning: factors (A [d, r], B [r, classes]), the directions to keep first


def ordered(directions: Directions, keys: Any) -> Factors:
    """Factors of the head itself, its singular directions by descending `keys` [D]."""
    order = torch.as_tensor(np.argsort(-np.asarray(keys), kind="stable").copy()).to(directions.right.device)
    return directions.right[:, order], (directions.left * directions.values)[:, order].T


def by_pca(head: torch.Tensor, second: torch.Tensor) -> Factors:
    """Factors that keep the principal components of the embeddings (their second moment [d, d], not centred)."""
    right = torch.linalg.eigh(second)[1].flip(1)
    return right, right.T @ head.T


def by_regression(head: torch.Tensor, second: torch.Tensor) -> Factors:
    """Factors of the head of rank k whose logits lie nearest to the full ones: reduced-rank regression.

    The best possible, in squared error over these embeddings (Izenman 1975): the principal components of the logits.
    """
    left = torch.linalg.eigh(head @ second @ head.T)[1].flip(1)[:, : min(head.shape)]
    return head.T @ left, left.T


def by_chance(head: torch.Tensor, seed: int = 0, k: int = 0) -> Factors:
    """Factors that keep random orthonormal directions of the embedding space, the k-th draw of them."""
    d = head.shape[1]
    gauss = rng(seed, "random subspace", k).normal(size=(d, d))
    right = torch.from_numpy(np.linalg.qr(gauss)[0]).to(head.device)
    return right, right.T @ head.T


def ways(rows: Any, head: torch.Tensor, seed: int = 0) -> dict[str, list[Factors]]:
    """Every way of pruning a head [classes, d] that reads embeddings [n, d]: its factors, several if it is random."""
    heads = {"plain": decompose(head), "centred": decompose(head, centred=True)}
    mean, second, draws = cosines(rows, heads, resamples=0), second_moment(rows).to(head.device), range(CHANCE_DRAWS)
    plain, centred = heads.values()
    orders = [rng(seed, "random directions", k).permutation(len(plain)) for k in draws]
    return {
        "importance": [ordered(plain, importance(plain.values.cpu(), mean.mean("plain")))],
        "singular value": [ordered(plain, plain.values.cpu())],
        "mean |cos|": [ordered(plain, mean.mean("plain"))],
        "importance, row-centred head": [ordered(centred, importance(centred.values.cpu(), mean.mean("centred")))],
        "singular value, row-centred head": [ordered(centred, centred.values.cpu())],
        "PCA of the embeddings": [by_pca(head, second)],
        "reduced-rank regression": [by_regression(head, second)],
        "random directions of the head": [ordered(plain, order) for order in orders],
        "random subspace": [by_chance(head, seed, k) for k in draws],
    }


def kept(count: int, pruned: float) -> int:
    """How many of `count` directions stay when the share `pruned` (0 to below 1) is taken away.

    Raises UserError when none would stay.
    """
    left = round(count * (1 - pruned))
    if not 0 <= pruned < 1 or left < 1:
        raise UserError(
            f"Pruning a share of {pruned:g} of {count} directions leaves {max(left, 0)}; give shares from 0 to below "
            f"{(count - 0.5) / count:.3f}, so that one stays."
        )
    return left


def prune(
    rows: Any,
    head: Any,
    bias: Any,
    factors: Mapping[str, Sequence[Factors]],
    ks: Sequence[int],
    labels: Any = None,
    size: int = BATCH,
) -> Iterator[dict[str, torch.Tensor]]:
    """What pruned heads predict for embeddings [n, d], batch by batch: float64 [b, ways, ks], in per cent.

    head [classes, d] with bias [classes]; factors: of each way; ks: how many directions are kept. "agree": whether the
    class is that of the full head; "hit": whether it is that of `labels` (int [n]), where they are given; averages over
    a way's factors. Raises UserError for bad embeddings or head, and for labels of another length.
    """
    head = checked_head(head, rows.shape[-1])
    if labels is not None and len(labels) != len(rows):
        raise UserError(f"There are {len(labels)} labels for {len(rows)} embeddings; expected one for each.")
    bias, start = torch.as_tensor(bias).to(torch.float64), 0
    for chunk in batches(rows, size):
        here = head.to(chunk.device), bias.to(chunk.device)
        right = {"agree": (chunk @ here[0].T + here[1]).argmax(1)}
        if labels is not None:
            right["hit"] = torch.as_tensor(labels[start : start + len(chunk)]).to(chunk.device)
        found = {name: torch.zeros(len(chunk), len(factors), len(ks), dtype=torch.float64) for name in right}
        for way, several in enumerate(factors.values()):
            for one in several:
                predicted = _predictions(chunk, one, here[1], ks)
                for name, classes in right.items():
                    found[name][:, way] += 100.0 * (predicted == classes[:, None]).cpu() / len(several)
        yield found
        start += len(chunk)


def _predictions(chunk: torch.Tensor, factors: Factors, bias: torch.Tensor, ks: Sequence[int]) -> torch.Tensor:
    """The class that each head of rank k predicts: int64 [b, len(ks)]. The logits grow from one rank to the next."""
    right, rest = (f.to(chunk.device) for f in factors)
    part, logits, done, found = chunk @ right, bias.repeat(len(chunk), 1), 0, {}
    for k in sorted(set(ks)):
        logits.addmm_(part[:, done:k], rest[done:k])
        found[k], done = logits.argmax(1), k
    return torch.stack([found[k] for k in ks], dim=1)
