"""Red-circle prompts: a part is pointed out to CLIP by a red ellipse around it (paper appendix F)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from lib.errors import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)
BLUR = 11  # pixels, the width of the Gaussian
VARIANTS = ("outline", "grey outside", "blur outside")


def red_circles(pixels: Tensor, label_maps: Tensor, thickness: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Draw each part's ellipse in three variants: outline, and outline with all outside it grey or blurred.

    pixels uint8 [n, 3, S, S], label_maps int [n, h, w] (part numbers from 0, -1 elsewhere; scaled to S by
    nearest neighbour) -> prompts uint8 [m, 3 variants, 3, S, S], image_index int64 [m], part_index int64 [m],
    ordered by image, then by part. The ellipse is fitted to the outer contour of the part's largest piece, and is
    `thickness` pixels wide.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8:
        given = f"Pixels of shape {tuple(pixels.shape)} and type {pixels.dtype} were given"
        raise UserError(f"{given}; expected uint8 [images, 3, height, width].")
    if len(label_maps) != len(pixels):
        raise UserError(f"{len(label_maps)} label maps were given for {len(pixels)} images; expected one for each.")
    images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    drawn, image_index, part_index = [], [], []
    for i, (image, labels) in enumerate(zip(images, label_maps.cpu().numpy(), strict=True)):
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        blurred = cv2.GaussianBlur(image, (BLUR, BLUR), 0)
        for part in np.unique(labels[labels >= 0]):
            mask = cv2.resize((labels == part).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            ellipse = part_ellipse(mask)
            inside = cv2.ellipse(np.zeros_like(image), ellipse, WHITE, -1) != 0
            for variant in (image, np.where(inside, image, grey), np.where(inside, image, blurred)):
                drawn.append(cv2.ellipse(variant.copy(), ellipse, RED, thickness))
            image_index.append(i)
            part_index.append(int(part))
    stacked = np.stack(drawn) if drawn else np.zeros((0, *images.shape[1:]), np.uint8)
    prompts = torch.from_numpy(stacked).permute(0, 3, 1, 2).reshape(-1, 3, *pixels.shape[1:])
    return prompts, torch.tensor(image_index, dtype=torch.int64), torch.tensor(part_index, dtype=torch.int64)


def part_ellipse(mask: np.ndarray) -> tuple[Sequence[float], Sequence[float], float]:
    """Ellipse fitted to the contour of the largest piece of a mask: ((x, y), (width, height), degrees).

    mask uint8 [H, W], not empty. Where no ellipse can be fitted (fewer than 5 contour points, or all on one
    line) it is the one through the corners of the bounding box; the released code adds random points there.
    """
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea)
    if len(contour) >= 5 and cv2.contourArea(contour) > 0:
        ellipse = cv2.fitEllipse(contour)
        if np.isfinite(np.hstack(ellipse)).all() and max(ellipse[1]) < 10 * max(mask.shape):
            return ellipse
    x, y, width, height = cv2.boundingRect(contour)
    return (x + (width - 1) / 2, y + (height - 1) / 2), (width * 2**0.5, height * 2**0.5), 0.0


def by_image(rows: Tensor, image_index: Tensor, part_index: Tensor, images: int, parts: int) -> tuple[Tensor, Tensor]:
    """Arrange rows by image and part.

    rows [m, ...], image_index [m], part_index [m] -> [images, parts, ...], zero where an image does not show
    a part, and present bool [images, parts].
    """
    image_index, part_index = image_index.to(rows.device), part_index.to(rows.device)
    padded = rows.new_zeros(images, parts, *rows.shape[1:])
    padded[image_index, part_index] = rows
    present = torch.zeros(images, parts, dtype=torch.bool, device=rows.device)
    present[image_index, part_index] = True
    return padded, present
