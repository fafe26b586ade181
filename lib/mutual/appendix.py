"""What the paper's appendix measures: boxes around objects (A.1), blurred pictures (A.3), diverse descriptors (A.4)."""

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data import ImageDataset
from lib.errors import UserError
from lib.mutual.foreground import animals

Box = tuple[float, float, float, float]  # left, top, right, bottom; right and bottom lie outside it


def box(mask: np.ndarray | Tensor) -> Box:
    """The box around a mask bool [H, W], in pixels. Raises UserError for an empty one."""
    rows, columns = np.nonzero(np.asarray(mask))
    if not len(rows):
        raise UserError("A box was asked for around an empty mask; pass a mask with at least one pixel.")
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def hit(found: Box, true: Sequence[Box]) -> bool:
    """Whether a box overlaps one of the true ones by more than half. CorLoc is the share of images with a hit."""
    return any(box_iou(found, t) > 0.5 for t in true)


def true_boxes(images: ImageDataset, indices: Sequence[int] | np.ndarray, folder: Path) -> list[list[Box]]:
    """The boxes of the objects in each image, scaled to 0..1: the animal's, or those of <file name>.xml in `folder`.

    The files have the format of PASCAL VOC and ImageNet. Raises UserError where there are none.
    """
    if images.name == "bestiary":
        truth = animals(images, indices).numpy()
        return [[tuple(np.array(box(mask)) / mask.shape[0])] for mask in truth]
    return [_boxes_in(folder / f"{images.source.paths[images.indices[i]].stem}.xml") for i in indices]


def _boxes_in(path: Path) -> list[Box]:
    if not path.is_file():
        raise UserError(f"Localisation needs the objects' boxes, and {path} is not there; put the annotations there.")
    root = xml.parse(path).getroot()
    width, height = (float(root.findtext(f"size/{side}", "nan")) for side in ("width", "height"))
    scale = {"xmin": width, "ymin": height, "xmax": width, "ymax": height}
    edges = [[float(b.findtext(k, "nan")) / s for k, s in scale.items()] for b in root.iter("bndbox")]
    return [(left, top, right, bottom) for left, top, right, bottom in edges]


def blurred_outside(pixels: Tensor, masks: Tensor, blur: int = 11) -> Tensor:
    """Pixels uint8 [n, 3, S, S] with everything outside the masks bool [n, h, w] blurred.

    blur: width of the Gaussian in pixels, an odd number, or 0 to put the picture's mean colour there instead.
    """
    grown = F.interpolate(masks[:, None].float(), pixels.shape[2:])[:, 0].bool().cpu().numpy()
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    outside = [cv2.GaussianBlur(x, (blur, blur), 0) if blur else x.mean((0, 1)).astype(np.uint8) for x in images]
    shown = [np.where(m[..., None], x, o) for x, m, o in zip(images, grown, outside, strict=True)]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)


def diversity(texts: Tensor, classes: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Mean cosine distance between descriptors of different classes and within a class: (inter, intra).

    texts float [m, c] of norm 1, one a class and descriptor; classes int [m]. nan where there is no pair. The paper
    names the two without a formula.
    """
    groups = [texts[torch.from_numpy(np.asarray(classes) == k)] for k in np.unique(classes)]
    sums = torch.stack([group.sum(0) for group in groups]).double()
    sizes = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    # a sum over all pairs is the squared norm of a sum; each text with itself, of cosine 1, is no pair
    within, total = (sums**2).sum(), (sums.sum(0) ** 2).sum()
    same, every = (sizes**2).sum(), sizes.sum() ** 2
    inter = 1 - (total - within) / (every - same)
    intra = 1 - (within - sizes.sum()) / (same - sizes.sum())
    return float(inter), float(intra)
