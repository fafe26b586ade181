"""How right labels of neurons are: against known truths, in a text space, on held-out images, on resampled probes."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F

from lib.errors import UserError
from lib.seeds import rng

NETDISSECT_QUANTILE = 0.005  # the share of places where a neuron counts as active (Bau et al. 2017, section 3.1)


# --- labels against the right concept


def ranks(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Place of the right concept, 1 for the best: int64 [neurons]; the number of concepts for a dead neuron.

    scores float [neurons, concepts]; truth int [neurons]. Concepts with equal scores come in their order.
    """
    if scores.dim() != 2 or truth.shape != scores.shape[:1]:
        given = f"{list(scores.shape)} and truth {list(truth.shape)}"
        raise UserError(f"Scores are {given}; expected [neurons, concepts] and [neurons].")
    own = scores.gather(1, truth[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < truth[:, None]
    better = (scores > own) | ((scores == own) & before)
    return torch.where(own[:, 0].isnan(), scores.shape[1], 1 + better.sum(1))


def auc(score: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Area under the ROC curve along the last axis: how well a score tells right from wrong; nan if all are the same.

    score float [..., n]; right bool [..., n]. By Mann and Whitney's U with mid-ranks; nan scores count as the lowest.
    """
    score = np.nan_to_num(np.asarray(score, np.float64), nan=-np.inf)
    right = np.broadcast_to(np.asarray(right, bool), score.shape)
    n, m = right.sum(-1), (~right).sum(-1)
    u = (stats.rankdata(score, axis=-1) * right).sum(-1) - n * (n + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return u / (n * m)


# --- a neuron on held-out images of its label


def held_out(q: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """How well a neuron finds the images that show its label: dict of float [neurons].

    q float [images, neurons]; present bool [images, neurons], whether image i shows the label of neuron k. Gives
    "correlation" (Pearson's), "auprc" (average precision) and "auc" (Mann-Whitney); nan where no image or all images
    show it, or the neuron is dead. Correlation and AUPRC are among the few measures that tell labels with added or
    missing images from right ones (Oikarinen et al., ICML 2025); the AUC is INVERT's (Bykov et al., NeurIPS 2023).
    """
    q, present = np.asarray(q, np.float64), np.asarray(present, bool)
    if q.shape != present.shape:
        raise UserError(f"Activations are {q.shape} and presence {present.shape}; both must be [images, neurons].")
    useful = present.any(0) & ~present.all(0) & (q.max(0) > q.min(0))
    a, y = q - q.mean(0), present - present.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (a * y).sum(0) / np.sqrt((a**2).sum(0) * (y**2).sum(0))
    precision = [average_precision(*pair) if ok else np.nan for *pair, ok in zip(q.T, present.T, useful, strict=True)]
    found = {"correlation": correlation, "auprc": np.array(precision), "auc": auc(q.T, present.T)}
    return {name: np.where(useful, values, np.nan) for name, values in found.items()}


def average_precision(score: np.ndarray, right: np.ndarray) -> float:
    """Mean precision at the right ones, with equal scores taken together. score [n], right bool [n]."""
    order = np.argsort(-np.asarray(score), kind="stable")
    score, right = np.asarray(score)[order], np.asarray(right, bool)[order]
    last = np.append(np.diff(score) != 0, True)  # the end of each run of equal scores
    hits_so_far, seen = np.cumsum(right)[last], np.flatnonzero(last) + 1
    return float((np.diff(hits_so_far, prepend=0) * hits_so_far / seen).sum() / right.sum())


# --- Network Dissection's truth


def iou(maps: torch.Tensor, masks: torch.Tensor, quantile: float = NETDISSECT_QUANTILE) -> torch.Tensor:
    """Intersection over union of a neuron's active places with each concept's: float64 [neurons, concepts].

    maps float [images, neurons, h, w]; masks bool [images, concepts, H, W]. A neuron is active where its map, enlarged
    bilinearly, is above its (1 - quantile) quantile over the small maps of all images; a dead neuron is active nowhere.
    Bau et al. 2017, section 3.1.
    """
    if len(maps) != len(masks):
        raise UserError(f"There are maps of {len(maps)} images and masks of {len(masks)}; give both for the same ones.")
    by_neuron = maps.transpose(0, 1).flatten(1)
    rank = min(by_neuron.shape[1] - 1, int(by_neuron.shape[1] * (1 - quantile)))
    threshold = by_neuron.kthvalue(rank + 1, dim=1).values if quantile > 0 else by_neuron.amax(1)
    both = active = concept = torch.zeros((), dtype=torch.float64, device=maps.device)
    for part, shown in zip(maps.split(64), masks.split(64), strict=True):
        a = F.interpolate(part, masks.shape[2:], mode="bilinear", align_corners=False)
        a = (a >= threshold[:, None, None]).transpose(0, 1).flatten(1).float()
        a[by_neuron.amax(1) == by_neuron.amin(1)] = 0
        c = shown.transpose(0, 1).flatten(1).float()
        both, active, concept = both + (a @ c.T).double(), active + a.sum(1).double(), concept + c.sum(1).double()
    return both / (active[:, None] + concept - both).clamp(min=1)


def by_chance(labels: Sequence[str], right: Sequence[str]) -> np.ndarray:
    """How often each neuron's right label would be met if the labels were shuffled among the neurons: float [neurons].

    Both are lists of words [neurons]; the mean over all orders, in closed form.
    """
    words, count = np.unique(np.asarray(labels, str), return_counts=True)
    share = dict(zip(words.tolist(), count / len(labels), strict=True))
    return np.array([share.get(word, 0.0) for word in right])


# --- resampling


def drawn(n: int, draw: int, seed: int = 0) -> torch.Tensor:
    """Indices of n images drawn with replacement, int64 [n]: the `draw`-th resample; 0 takes each image once."""
    return torch.from_numpy(rng(seed, "images drawn again", n, draw).integers(n, size=n)) if draw else torch.arange(n)
