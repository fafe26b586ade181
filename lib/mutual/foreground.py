"""Where in a model the foreground is read, and how well it finds the animal.

The paper chose its features by localisation (appendix A.1) and its code warns that the component has to be checked
for each kind of feature. `scripts/choose_foreground.py` makes that choice for the miniatures, on the train split and
never on val, and writes it to data/models.csv with its score.
"""

import numpy as np
import torch
from torch.nn import functional as F

from lib.mutual import parts

GROUP = 50  # images that share one decomposition; a class folder of ImageNet's validation set holds 50
RELEASED = {"feature": "tokens", "layer": "-1", "method": "svd", "component": "1"}


def setting_of(clip, published=False):
    """Where the foreground is read: dict of feature, layer, method and component, from data/models.csv.

    At the paper's scale, and with `published`, what the released notebook does: last-layer tokens, second singular
    vector. For a miniature, the setting that localised best on the train split.
    """
    kind = "mini" if clip.miniature and not published and clip.row.get("mini_feature") else "foreground"
    found = {key: clip.row.get(f"{kind}_{key}") or default for key, default in RELEASED.items()}
    return found | {"layer": int(found["layer"]), "component": int(found["component"])}


def groups(labels, size=GROUP):
    """Indices of the images that are decomposed together: a list of int arrays, one class each, `size` at most."""
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found += np.array_split(members, int(np.ceil(len(members) / size)))
    return found


def masks(clip, pixels, setting, scope="class", components="released"):
    """Foreground of the images of one group: features [B, P, C], bool [B, h, w].

    `setting` as from `setting_of`; `scope` and `components` as in `parts.foreground`.
    """
    features, grid = clip.patch_features(pixels, setting["feature"], setting["layer"])
    return features, mask_of(features, grid, setting, scope, components)


def mask_of(features, grid, setting, scope="class", components="released"):
    """Foreground bool [B, h, w] from patch features [B, P, C], by the setting's method and component."""
    return parts.foreground(features, grid, setting["component"], scope, setting["method"], components)


def intersection_over_union(found, truth):
    """Overlap of masks bool [n, h, w] with true masks bool [n, H, W], both scaled to H x W: float [n]."""
    found = F.interpolate(found[:, None].float(), truth.shape[1:])[:, 0].bool().cpu()
    return ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).numpy()


def animals(data, indices):
    """True masks of the animals, all parts together: bool [n, H, W] (bestiary only)."""
    return torch.stack([torch.from_numpy(np.any(list(data.part_masks(i).values()), axis=0)) for i in indices])


def localisation(clip, data, setting, **options):
    """Intersection over union of the foreground with the true animal, image by image: float [n] (bestiary only)."""
    found = np.zeros(len(data))
    for members in groups(data.labels):
        _, mask = masks(clip, clip.pixels(data.image(i) for i in members), setting, **options)
        found[members] = intersection_over_union(mask, animals(data, members))
    return found
