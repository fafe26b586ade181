"""Where in a model the foreground is read, and how well it finds the object.

The paper chose its features by localisation (appendix A.1) and its code warns that the component has to be checked
for each kind of feature. scripts/choose_foreground.py makes that choice for the miniatures, on the train split and
never on val, and writes it to data/models.csv.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data import ImageDataset
from lib.errors import one_of
from lib.models import Clip
from lib.mutual import parts

GROUP = 50  # images that share one decomposition; a class folder of ImageNet's validation set holds 50
RELEASED = {"feature": "tokens", "layer": "-1", "method": "svd", "component": "1"}


def setting_of(clip: Clip, foreground: str = "default") -> dict[str, Any]:
    """Where the foreground is read: feature, layer, method and component, from data/models.csv.

    foreground "default": for a miniature, the setting that localised best on the train split; else "published": what
    the released notebook does, last-layer tokens and their second singular vector. "keys_no_bias": the default, and
    where that reads keys, without their bias, as the released code does.
    """
    one_of("foreground", foreground, ("default", "published", "keys_no_bias"))
    mini = clip.miniature and foreground != "published" and clip.row.get("mini_feature")
    kind = "mini" if mini else "foreground"
    found = {key: clip.row.get(f"{kind}_{key}") or default for key, default in RELEASED.items()}
    if foreground == "keys_no_bias" and found["feature"] == "keys":
        found["feature"] = foreground
    return found | {"layer": int(found["layer"]), "component": int(found["component"])}


def groups(labels: np.ndarray, size: int = GROUP) -> list[np.ndarray]:
    """Indices of the images that are decomposed together: int64 arrays, one class each, `size` at most."""
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found += np.array_split(members, int(np.ceil(len(members) / size)))
    return found


def masks(
    clip: Clip, pixels: Tensor, where: dict[str, Any], spectral: str = "class", components: str = "released"
) -> tuple[Tensor, Tensor]:
    """Patch features [B, P, C] and foreground bool [B, h, w] of the images of one group; where: of `setting_of`."""
    features, grid = clip.patch_features(pixels, where["feature"], where["layer"])
    return features, parts.foreground(features, grid, where["component"], spectral, where["method"], components)


# --- against the truth


def animals(images: ImageDataset, indices: Sequence[int] | np.ndarray) -> Tensor:
    """True masks of the animals, all parts together: bool [n, H, W] (bestiary only)."""
    return torch.stack([torch.from_numpy(np.any(list(images.part_masks(i).values()), axis=0)) for i in indices])


def intersection_over_union(found: Tensor, truth: Tensor) -> np.ndarray:
    """Overlap of masks bool [n, h, w] with true masks bool [n, H, W], both scaled to H x W: float [n]."""
    found = F.interpolate(found[:, None].float(), truth.shape[1:])[:, 0].bool().cpu()
    return ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).numpy()
