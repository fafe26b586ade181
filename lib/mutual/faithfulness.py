"""Insertion and deletion: what happens to a classification when the regions of an explanation are blurred or revealed.

Regions are bool [n, L, h, w] at any resolution (scaled to the image by nearest neighbour), may overlap, and may be
empty: an empty one changes nothing. Sammani & Deligiannis (2024), appendix E, after Petsiuk et al. (2018) and Chefer
et al. (2021): the regions are ranked, then blurred one by one (deletion, low is good), or revealed one by one in a
blurred image (insertion, high is good). The class score of the predicted class is followed, 2.5 times the cosine, and
the area under its L + 1 points is the result; followed by the accuracy instead, it is the accuracy drop and the
accuracy increase.

The published magnitudes (3.385 over L = 5 steps is 2.5 x 0.27 a step) fit an area that is *not* divided by the number
of steps, as in `area`. What the paper does not state are arguments here.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from lib import seeds
from lib.errors import UserError, one_of

SCORE_SCALE = 2.5  # CLIPScore's constant; caption of the paper's figure A7
WHOLE = "whole image"  # the control that blurs everything in its first step
# which way is good: a higher value (+1) or a lower one (-1)
MEASURES = {"deletion": -1, "insertion": 1, "acc_drop": -1, "acc_inc": 1}
FOLLOWED = ("score", "probability", "correct", "unchanged", "covered")  # what a table of steps has of each step


# --- images between intact and blurred


def kernel_width(side: int, share: float = 1.2) -> int:
    """The odd width in pixels of a Gaussian kernel that spans `share` of an image's side."""
    return 2 * int(share * side / 2) + 1


def blurred(pixels: torch.Tensor, kernel: int = 11) -> torch.Tensor:
    """Images uint8 [n, 3, S, S] under a Gaussian blur of `kernel` pixels (odd), on their device.

    The standard deviation is OpenCV's for such a kernel; the border is mirrored.
    """
    if kernel < 1 or kernel % 2 == 0 or kernel > 2 * pixels.shape[-1] - 1:
        raise UserError(f"A blur of {kernel} pixels was asked for; give an odd number that fits the image.")
    weight = torch.from_numpy(cv2.getGaussianKernel(kernel, 0, cv2.CV_32F)[:, 0]).to(pixels.device)
    weight = weight.expand(3, 1, 1, kernel)
    padded = F.pad(pixels.float(), [kernel // 2] * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(padded, weight, groups=3), weight.mT, groups=3)
    return smooth.round().clamp(0, 255).to(torch.uint8)


def rank_scores(image: torch.Tensor, parts: torch.Tensor, texts: torch.Tensor, rank: str = "product") -> torch.Tensor:
    """How important each region is, by `rank`: float [n, L].

    image [n, c], parts [n, L, c] (embedding of each region's prompts), texts [n, L, c] (of its descriptor).
    "product": cos(image, part) x cos(image, descriptor) (appendix E); "part" or "descriptor": one of the two;
    "given": as they come.
    """
    by_part = F.cosine_similarity(image[:, None], parts, dim=2)
    by_text = F.cosine_similarity(image[:, None], texts, dim=2)
    given = -torch.arange(parts.shape[1], device=parts.device).expand(parts.shape[:2]).float()
    kinds = {"product": by_part * by_text, "part": by_part, "descriptor": by_text, "given": given}
    one_of("rank", rank, kinds)
    return kinds[rank]


def ranked(regions: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Regions bool [n, L, h, w] by descending `scores` [n, L], the empty ones last."""
    shown = regions.flatten(2).any(2)
    order = scores.masked_fill(~shown, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return regions.gather(1, order[:, :, None, None].expand_as(regions))


def blur_masks(regions: torch.Tensor, start: str = "whole") -> tuple[torch.Tensor, torch.Tensor]:
    """Where the image is blurred at each step of deletion, and of insertion: bool [n, L + 1, h, w] twice.

    Deletion blurs what the first 0, 1, ... L regions cover together. Insertion starts from the image blurred as a
    "whole", or only in the explanation's "parts".
    """
    one_of("start", start, ("whole", "parts"))
    covered = torch.cat([torch.zeros_like(regions[:, :1]), regions.cumsum(1) > 0], dim=1)
    return covered, ~covered if start == "whole" else covered[:, -1:] & ~covered


# --- what the classifier says of them


def follow(
    pixels: torch.Tensor,
    masks: Sequence[torch.Tensor],
    classify: Callable[[torch.Tensor], torch.Tensor],
    targets: Sequence[int] | np.ndarray,
    kernel: int = 11,
    scale: float = 100.0,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """What a classifier says at each step: score, probability and winner, each [n, steps], those of all masks in turn.

    pixels uint8 [n, 3, S, S]; masks: list of bool [n, steps, h, w], where to blur; classify: function from uint8 [m, 3,
    S, S] to cosines [m, classes]; targets int [n]: the class that was predicted for the intact image. score: 2.5 x its
    cosine; probability: its softmax, of cosines times `scale`; winner: the class predicted at that step, int64. Steps
    of an image that differ in nothing are embedded only once. Raises UserError for shapes that do not fit.
    """
    for mask in masks:
        if mask.ndim != 4 or len(mask) != len(pixels):
            given = f"Masks {list(mask.shape)} do not fit {len(pixels)} images"
            raise UserError(f"{given}; expected [images, steps, h, w].")
    side = tuple(pixels.shape[2:])
    grown = torch.cat([F.interpolate(mask.to(pixels.device, torch.uint8), side) for mask in masks], 1).bool()
    image, mask, where = distinct(grown)
    soft, score, probability, winner = blurred(pixels, kernel), [], [], []
    wanted = torch.as_tensor(targets, device=pixels.device)
    for chunk in torch.arange(len(image), device=pixels.device).split(batch_size):
        i = image[chunk]
        cosines = classify(torch.where(mask[chunk, None], soft[i], pixels[i])).float()
        target = wanted[i].to(cosines.device)[:, None]
        score.append(SCORE_SCALE * cosines.gather(1, target)[:, 0])
        probability.append((scale * cosines).softmax(1).gather(1, target)[:, 0])
        winner.append(cosines.argmax(1))
    found = {"score": score, "probability": probability, "winner": winner}
    return {name: torch.cat(parts).cpu().numpy()[where] for name, parts in found.items()}


def distinct(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """The different masks of each image: image int64 [m], mask bool [m, S, S], and where each went, int [n, K]."""
    n, steps = masks.shape[:2]
    bits = np.packbits(masks.flatten(2).cpu().numpy(), axis=2)
    numbers = np.repeat(np.arange(n, dtype=np.uint32), steps).view(np.uint8).reshape(n, steps, 4)
    rows = np.ascontiguousarray(np.concatenate([numbers, bits], axis=2).reshape(n * steps, -1))
    _, first, where = np.unique(rows.view(f"V{rows.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    picked = torch.from_numpy(first).to(masks.device)
    return picked // steps, masks.flatten(0, 1)[picked], where.reshape(n, steps)


# --- areas


def area(curves: np.ndarray, shown: np.ndarray | None = None, short: str = "hold") -> np.ndarray:
    """Area under each curve [..., L + 1] by the trapezoidal rule with steps of 1: float [...].

    shown int [...]: how many regions each image has. `short` "hold": an image with fewer than L stays where it is, so
    that all have L intervals; "stop": its curve ends there, and so it has less area whatever its values.
    """
    one_of("short", short, ("hold", "stop"))
    curves = np.asarray(curves, float)
    pieces = (curves[..., 1:] + curves[..., :-1]) / 2
    if short == "hold":
        return pieces.sum(-1)
    if shown is None:
        raise UserError("Curves that stop need `shown`, the number of regions of each image.")
    return (pieces * (np.arange(pieces.shape[-1]) < np.asarray(shown)[..., None])).sum(-1)


def measures(steps: pd.DataFrame, score: str = "cosine", short: str = "hold", correct: str = "label") -> pd.DataFrame:
    """The four `MEASURES` of each explanation of each image, from a table of steps: a line for each two curves.

    steps: what `observe_regions.table1` sees, the steps of a curve one below the other, deletion before insertion.
    score: follow 2.5 x "cosine", or the "probability". correct: the accuracy of the AccDrop and AccInc is against the
    "label", or against what the model "predicted" of the intact image, which needs no labels. short: see `area`.
    area: the share of the image (%) that all regions cover. Paper, Table 1 and appendix E.
    """
    points = int(steps["step"].max()) + 1
    lines = steps.iloc[:: 2 * points].drop(columns=["direction", "step", *FOLLOWED]).reset_index(drop=True)
    followed = {
        ("deletion", "insertion"): {"cosine": "score", "probability": "probability"}[score],
        ("acc_drop", "acc_inc"): {"label": "correct", "predicted": "unchanged"}[correct],
    }
    for names, column in followed.items():
        areas = area(steps[column].to_numpy().reshape(-1, 2, points), lines["shown"].to_numpy()[:, None], short)
        lines = lines.assign(**dict(zip(names, areas.T, strict=True)))
    return lines.assign(area=steps["covered"].to_numpy().reshape(-1, 2, points)[:, 0, -1])


def against_random(measured: pd.DataFrame) -> pd.DataFrame:
    """`measures` as a line for each measure of each explanation: that of its "explained" and of its "random" regions.

    gain: the difference, positive where the explanation is better than chance.
    """
    keys = [*(c for c in ("model", "title", "class") if c in measured), "explanation", "image"]
    long = measured[measured["explanation"] != WHOLE].melt([*keys, "regions"], list(MEASURES), "measure")
    both = long.pivot_table("value", [*keys[:-2], "measure", *keys[-2:]], "regions", sort=False).reset_index()
    return both.assign(gain=both["measure"].map(MEASURES) * (both["explained"] - both["random"]))


def above_blurred(steps: pd.DataFrame) -> pd.DataFrame:
    """How far score and accuracy lie above those of the blurred image, from a table of steps: two lines for each curve.

    above: the mean after each step but the first, which no explanation can change, less that of the wholly blurred
    image; span: the same of the intact image; value: "score" or "correct". A region that carries everything has a
    ratio of 0 in deletion and of 1 in insertion.
    """
    image = [*(c for c in ("model", "title", "class") if c in steps), "image"]
    whole = (steps["explanation"] == WHOLE) & (steps["regions"] == "explained") & (steps["direction"] == "deletion")
    after = steps[(steps["step"] > 0) & (steps["explanation"] != WHOLE)]
    curves = after.groupby([*image, "explanation", "regions", "direction"], sort=False)
    lines = []
    for value in ("score", "correct"):
        intact, blurred = (steps[whole & (steps["step"] == k)].set_index(image)[value] for k in (0, 1))
        ends = pd.DataFrame({"below": blurred, "span": intact - blurred})
        above = curves[value].mean().rename("above").reset_index().join(ends, on=image)
        lines.append(above.assign(value=value, above=above["above"] - above["below"]).drop(columns="below"))
    return pd.concat(lines, ignore_index=True)


def agreement(measured: pd.DataFrame, published: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How the order of the explanations compares with the published one: two frames, `definition` by measure.

    The first holds Spearman's correlation of their means with the published values (indexed by explanation), the
    second the explanation that comes out best. measured: from `observe_regions.definitions`.
    """
    measures = list(MEASURES)
    means = measured.groupby(["definition", "explanation"], sort=False)[measures].mean()
    ranks, theirs = means.groupby("definition", sort=False).rank(), published[measures].rank()
    with np.errstate(invalid="ignore", divide="ignore"):  # a measure may be the same for all
        alike = ranks.groupby("definition", sort=False).apply(lambda of: of.loc[of.name].corrwith(theirs))
    best = (means * pd.Series(MEASURES)).groupby("definition", sort=False).idxmax().map(lambda pair: pair[1])
    return pd.DataFrame(alike)[measures], best[measures]


def rivals(measured: pd.DataFrame, ours: Sequence[str], trained: Sequence[str]) -> dict[str, tuple[str, str]]:
    """For each of `MEASURES` two explanations, the one expected to be higher and the one below it.

    The published order has both of the paper's methods better than all trained ones, so the *worse* of `ours` stands
    beside the *best* of `trained`. In insertion it is the other way round: the best trained one beside the better of
    the paper's. measured: from `measures`, one model's, random regions left out. Paper, Table 1.
    """
    mean, pairs = measured.groupby("explanation")[list(MEASURES)].mean(), {}
    for measure, good in MEASURES.items():
        mine, theirs = (good * mean.loc[list(names), measure] for names in (ours, trained))
        one, other = str(mine.idxmax() if measure == "insertion" else mine.idxmin()), str(theirs.idxmax())
        pairs[measure] = (one, other) if measure == "acc_inc" else (other, one)
    return pairs


# --- controls


def shifted(regions: torch.Tensor, images: Sequence[int] | np.ndarray, seed: int = 0) -> torch.Tensor:
    """Every image's regions moved together to a random other place, around the borders: same areas, same shapes.

    regions bool [n, L, h, w]; images int [n]: their numbers, each of which has its own draw. Raises UserError for a
    grid of one cell, which has no other place.
    """
    h, w = regions.shape[2:]
    if h * w < 2:
        raise UserError("Regions on a grid of one cell cannot be moved; give a finer one.")
    drawn = [int(seeds.rng(seed, "shifted", i).integers(1, h * w)) for i in images]
    return torch.stack([r.roll((k // w, k % w), dims=(1, 2)) for r, k in zip(regions, drawn, strict=True)])


def scattered(regions: torch.Tensor, images: Sequence[int] | np.ndarray, seed: int = 0) -> torch.Tensor:
    """Every image's cells exchanged at random: same areas and overlaps, no shape. Arguments as of `shifted`."""
    cells = regions.shape[2] * regions.shape[3]
    order = np.stack([seeds.rng(seed, "scattered", i).permutation(cells) for i in images])
    where = torch.from_numpy(order).to(regions.device)[:, None].expand(-1, regions.shape[1], -1)
    return regions.flatten(2).gather(2, where).view_as(regions)


CONTROLS = {"shifted": shifted, "scattered": scattered}  # area-matched random regions
