"""Privileged directions: the singular vectors of a classification head, their importance, and pruning them.

The head W [classes, d] turns an embedding into logits, W h (+ bias). With W = U S V^T, each column v_i of V is a
direction of the embedding space, and the paper's importance of it is

    importance(i) = s_i / sum_j s_j  x  mean over images of |cos(v_i, h)|.

A direction is privileged when its importance is far above that of the others. Pruning keeps a set K of directions:
W_K = sum over i in K of s_i u_i v_i^T.

Adding one vector to all rows of W adds one number to all logits of an image and changes no prediction, but it
changes S and V. For a zero-shot head, whose rows are text embeddings and share a large common part, that is no
detail: `centred` takes the mean row away first, the choice of that vector which leaves the smallest head (in the sum
of its squares).

Pruning is an approximation of low rank, so it needs other such approximations beside it. Each is written like the
singular directions, as factors A [d, r] and B [r, classes] with logits h A[:, :k] B[:k] for the k directions kept.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from lib.errors import UserError
from lib.outliers.streaming import BATCH, RESAMPLES, Averages, batches, check_shape


@dataclass
class Directions:
    """The singular value decomposition of a head: values [D], left [classes, D], right [d, D] (columns v_i).

    D is the head's rank, at most min(classes, d), and one less than that for a row-centred head of as many
    classes: a direction with singular value 0 is arbitrary.
    """

    values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def __len__(self):
        return len(self.values)


def checked_head(head, width=None):
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


def decompose(head, centred=False):
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


def absolute_cosines(rows, right):
    """|cos| of each embedding with each direction: [n, d], unit columns [d, D] -> float64 [n, D]."""
    rows = rows.to(torch.float64)
    return (rows @ right).abs() / rows.norm(dim=1, keepdim=True)


def importance(values, cosines):
    """Singular values [D], normalised to sum 1, times mean |cos| [..., D]: [..., D]. Paper v1, equation 4.

    The normalisation is not known; it changes no ranking and no ratio.
    """
    values, cosines = np.asarray(values, dtype=np.float64), np.asarray(cosines, dtype=np.float64)
    return values / values.sum() * cosines


def concentration(importances):
    """How far the first direction stands out: dict of ratio (largest to median), share (of the sum) and kurtosis.

    importances [..., D], D >= 2; each value has shape [...].
    """
    x = np.asarray(importances, dtype=np.float64)
    deviation = x - x.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # all the same importance: no kurtosis
        return {
            "ratio": x.max(axis=-1) / np.median(x, axis=-1),
            "share": x.max(axis=-1) / x.sum(axis=-1),
            "kurtosis": (deviation**4).mean(axis=-1) / (deviation**2).mean(axis=-1) ** 2,
        }


@dataclass
class Moments:
    """What one pass over the embeddings keeps: mean |cos| with each direction, its bootstrap draws, and the
    second moment of the embeddings, mean of h h^T [d, d]."""

    averages: Averages
    second: torch.Tensor

    @property
    def cosines(self):
        return self.averages.mean("cosine")


def measure(rows, directions, seed=0, resamples=RESAMPLES, size=BATCH):
    """The Moments of embeddings [n, d] with respect to Directions; read once, in batches."""
    if rows.shape[-1] != len(directions.right):
        checked_head(directions.right.T, rows.shape[-1])
    averages, second, right = Averages(resamples, seed), 0, directions.right
    for chunk in batches(rows, size):
        right = right.to(chunk.device)
        averages.add({"cosine": absolute_cosines(chunk, right)})
        second = second + chunk.T @ chunk
    return Moments(averages, second / len(rows))


# --- pruning: pairs (A [d, r], B [r, classes]), the directions to keep first

ORDERS = ("importance", "singular", "cosine")


def ordered(directions, keys):
    """Factors of the head itself, its singular directions by descending `keys` [D]."""
    order = torch.as_tensor(np.argsort(-np.asarray(keys), kind="stable").copy()).to(directions.right.device)
    return directions.right[:, order], (directions.left * directions.values)[:, order].T


def by_pca(head, second):
    """Factors that keep the principal components of the embeddings (their second moment [d, d], not centred)."""
    _, vectors = torch.linalg.eigh(second)
    right = vectors.flip(1)
    return right, right.T @ head.T


def by_regression(head, second):
    """Factors of the head of rank k whose logits lie nearest to the full ones: reduced-rank regression.

    The best possible, in squared error over these embeddings (Izenman 1975): the principal components of the logits.
    """
    _, vectors = torch.linalg.eigh(head @ second @ head.T)
    left = vectors.flip(1)[:, : min(head.shape)]
    return head.T @ left, left.T


def by_chance(head, seed=0):
    """Factors that keep random orthonormal directions of the embedding space."""
    d = head.shape[1]
    gauss = np.random.default_rng([seed, 104]).normal(size=(d, d))
    right = torch.from_numpy(np.linalg.qr(gauss)[0]).to(head.device)
    return right, right.T @ head.T


def kept(count, pruned):
    """How many of `count` directions stay when the share `pruned` (0 to below 1) is taken away: int.

    Raises UserError when none would stay.
    """
    left = round(count * (1 - pruned))
    if not 0 <= pruned < 1 or left < 1:
        raise UserError(
            f"Pruning a share of {pruned:g} of {count} directions leaves {max(left, 0)}; give shares from 0 to below "
            f"{(count - 0.5) / count:.3f}, so that one stays."
        )
    return left


@dataclass
class Pruned:
    """Accuracy and agreement under each way of pruning: `Averages` of hit and agree, [ways, shares], in per cent.

    hit: whether the label has the largest logit (only with labels); agree: whether the pruned head predicts what
    the full one does. ways, shares: what the axes are.
    """

    averages: Averages
    ways: list = field(default_factory=list)
    shares: list = field(default_factory=list)


def prune(rows, head, bias, ways, shares, count, labels=None, seed=0, resamples=RESAMPLES, size=BATCH):
    """The Pruned of embeddings [n, d] under a head [classes, d] with bias [classes].

    ways: dict of name to factors, or to a list of them, over which it averages (random ones). shares: shares of the
    `count` directions to take away; every way keeps the same number of directions. labels: int [n] or None. Raises
    UserError for bad embeddings or head, for labels of another length, and where no direction would stay.
    """
    head = checked_head(head, rows.shape[-1])
    ks = [kept(count, share) for share in shares]
    if labels is not None and len(labels) != len(rows):
        raise UserError(f"There are {len(labels)} labels for {len(rows)} embeddings; expected one for each.")
    bias = torch.as_tensor(bias).to(torch.float64)
    averages, start = Averages(resamples, seed), 0
    for chunk in batches(rows, size):
        full = (chunk @ head.to(chunk.device).T + bias.to(chunk.device)).argmax(1)
        truth = None if labels is None else torch.as_tensor(labels[start : start + len(chunk)]).to(chunk.device)
        found = {"agree": [], "hit": []}
        for factors in ways.values():
            drawn = factors if isinstance(factors, list) else [factors]
            predicted = torch.stack([_predictions(chunk, f, bias, ks) for f in drawn])
            found["agree"].append((predicted == full[:, None]).double().mean(0))
            if truth is not None:
                found["hit"].append((predicted == truth[:, None]).double().mean(0))
        averages.add({name: 100 * torch.stack(x, dim=1) for name, x in found.items() if x})
        start += len(chunk)
    return Pruned(averages, list(ways), list(shares))


def _predictions(chunk, factors, bias, ks):
    """The class that each head of rank k predicts: int64 [b, len(ks)]."""
    right, rest = (f.to(chunk.device) for f in factors)
    part, bias = chunk @ right, bias.to(chunk.device)
    return torch.stack([(part[:, :k] @ rest[:k] + bias).argmax(1) for k in ks], dim=1)
