"""Boxes around objects: does the foreground's box hit the true one? Paper, appendix A.1 (CorLoc)."""

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

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
    """The boxes of the objects in each image, scaled to 0..1.

    In the bestiary that of the animal. Elsewhere read from <file name>.xml in `folder`, in the format of PASCAL VOC and
    ImageNet. Raises UserError where there are none.
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
    return [tuple(float(b.findtext(k, "nan")) / s for k, s in scale.items()) for b in root.iter("bndbox")]
