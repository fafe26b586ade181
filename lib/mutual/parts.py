"""The animal and its parts in patch features: singular-vector foreground, PCA parts, K-means parts.

Patch features have the shape [images, patches, width]; masks and label maps [images, height, width] of the
patch grid. spectral "class" treats the images given as one class and decomposes all their patches together (released
code); "image" decomposes each alone (the paper's affinity matrix f fᵀ has the same eigenvectors).
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from lib.errors import UserError, one_of

SECOND_COMPONENT = 5  # patches: the released code keeps a second component of at least this size
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def singular_vectors(features: Tensor, count: int = 3, spectral: str = "class") -> Tensor:
    """Leading left singular vectors of the features, of norm 1, foreground side positive: float64 [B, P, count]."""
    vectors, _, _ = _decompose(F.normalize(_rows(features, spectral), dim=-1), count)
    return _minority_positive(vectors).reshape(*features.shape[:2], count)


def principal_components(features: Tensor, count: int = 3, spectral: str = "class") -> Tensor:
    """The same by principal components, the released code's other method: centred, not normalised, scaled scores."""
    rows = _rows(features, spectral)
    vectors, values, _ = _decompose(rows - rows.mean(dim=1, keepdim=True), count)
    return _minority_positive(vectors * values[:, None]).reshape(*features.shape[:2], count)


def foreground(
    features: Tensor,
    grid: tuple[int, int],
    component: int = 1,
    spectral: str = "class",
    method: str = "svd",
    components: str = "released",
) -> Tensor:
    """Patches of the prominent object: the rarer sign of one component, then its largest connected patch.

    features [B, P, C], grid (h, w) with h·w = P -> bool [B, h, w]. `component` counts from 0; `method` is
    "svd" (`singular_vectors`, published default with component 1) or "pca" (`principal_components`). `components`:
    see `connected`. Paper section 3.1, appendix A.
    """
    if grid[0] * grid[1] != features.shape[1]:
        held = f"The grid {tuple(grid)} does not hold the {features.shape[1]} patches given"
        raise UserError(f"{held}; pass the grid that came with the features.")
    one_of("method", method, ("svd", "pca"))
    decompose = singular_vectors if method == "svd" else principal_components
    values = decompose(features, count=component + 1, spectral=spectral)[..., component]
    return connected((values > 0).reshape(-1, *grid), components)


def connected(mask: Tensor, components: str = "released") -> Tensor:
    """Keep the largest 8-connected component of each mask bool [B, h, w]; an empty one becomes the whole image.

    "largest" (paper), "released" (also the second largest if it has at least 5 patches), "all" (leave the mask as it
    is). Of components of equal size the first in reading order wins.
    """
    one_of("components", components, ("released", "largest", "all"))
    keep = {"released": 2, "largest": 1}.get(components)
    return torch.from_numpy(np.stack([_largest(image, keep) for image in mask.cpu().numpy()])).to(mask.device)


def dense_crf(pixels: Tensor, mask: Tensor) -> Tensor:
    """The foreground at pixel level, its outline drawn along the edges of the image (dense CRF, optional).

    pixels uint8 [B, 3, S, S], mask bool [B, h, w] -> bool [B, S, S]. Weights and widths are the released notebook's.
    Raises UserError where pydensecrf2 is not installed. Paper section 3.1; Kraehenbuehl and Koltun (2011).
    """
    try:
        import pydensecrf.densecrf as package
    except ImportError:
        needs = "The dense CRF needs the package pydensecrf2 (`pip install pydensecrf2`, with a C++ compiler)"
        raise UserError(f"{needs}; without it leave crf at False.") from None
    side = pixels.shape[2:]
    upscaled = F.interpolate(mask[:, None].float(), side)[:, 0].cpu().numpy()
    refined = np.empty(upscaled.shape, bool)
    for i, (image, inside) in enumerate(zip(pixels.permute(0, 2, 3, 1).cpu().numpy(), upscaled, strict=True)):
        unary = -np.log(np.clip(np.stack([1 - inside, inside]), 0.01, 0.99)).astype(np.float32)
        field = package.DenseCRF2D(side[1], side[0], 2)
        field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(2, -1)))
        field.addPairwiseBilateral(sxy=40, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
        field.addPairwiseGaussian(sxy=3, compat=3)
        refined[i] = np.array(field.inference(5)).argmax(0).reshape(side)
    return torch.from_numpy(refined).to(mask.device)


def pca_parts(features: Tensor, mask: Tensor, parts: int = 5) -> Tensor:
    """Give each foreground patch the principal component on which it scores highest.

    features [B, P, C], mask bool [B, h, w] -> int64 [B, h, w], -1 outside the mask. The components are fitted on all
    foreground patches together and each is scaled to 0..1 (paper section 3.1). Their directions, which are arbitrary
    but decide who scores highest, are scikit-learn's: the largest weight is positive.
    """
    rows = _foreground_rows(features, mask, parts)
    centred = rows - rows.mean(dim=0)
    vectors, values, axes = _decompose(centred[None], min(parts, *rows.shape))
    largest = axes[0].gather(0, axes[0].abs().argmax(dim=0, keepdim=True))
    scores = vectors[0] * values[0] * torch.where(largest < 0, -1.0, 1.0)
    return _label_map(_scaled(scores, dim=0).argmax(dim=1), mask)


def kmeans_parts(features: Tensor, mask: Tensor, parts: int = 5, seed: int = 0) -> Tensor:
    """The foreground patches of all images in clusters, by K-means on rows of unit length: as `pca_parts`."""
    rows = F.normalize(_foreground_rows(features, mask, parts), dim=1)
    return _label_map(kmeans(rows, parts, seed), mask)


def kmeans(rows: Tensor, clusters: int, seed: int = 0, rounds: int = 500, tolerance: float = 1e-4) -> Tensor:
    """Lloyd's algorithm from random rows: rows [n, C] -> int64 [n].

    Stops when the squared sum of the centres' shifts is below `tolerance`, as the released code does; a cluster that
    loses its last row keeps its centre. With fewer rows than clusters, there are as many clusters as rows.
    """
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres = rows[start.to(rows.device)]
    for _ in range(rounds):
        # |x - c|² without |x|², which is the same for every centre
        labels = ((centres**2).sum(dim=1)[:, None] - 2 * centres @ rows.T).argmin(dim=0)
        members = F.one_hot(labels, len(centres)).to(rows.dtype).T
        sizes = members.sum(dim=1, keepdim=True)
        updated = torch.where(sizes > 0, members @ rows / sizes.clamp(min=1), centres)
        shift, centres = (updated - centres).norm(dim=1).sum() ** 2, updated
        if shift < tolerance:
            break
    return labels


def _rows(features: Tensor, spectral: str) -> Tensor:
    """One matrix of patches for the class, or one for each image: float64 [1, B·P, C] or [B, P, C]."""
    one_of("spectral", spectral, ("class", "image"))
    features = _finite(features)
    return features if spectral == "image" else features.reshape(1, -1, features.shape[-1])


def _finite(features: Tensor) -> Tensor:
    """The same in float64. Raises UserError for another shape, and for NaN."""
    if features.ndim != 3:
        shape = tuple(features.shape)
        raise UserError(f"Patch features of shape {shape} were given; expected [images, patches, width].")
    if not torch.isfinite(features).all():
        raise UserError("The patch features contain NaN or infinite values; check the weights and the precision.")
    return features.double()


def _decompose(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition [B, n, C] -> U [B, n, count], S [B, count], V [B, C, count].

    By the eigenvectors of the smaller Gram matrix, several times cheaper than a full decomposition: in float64 the
    leading vectors agree.
    """
    n, width = rows.shape[1:]
    if count > min(n, width):
        raise UserError(f"{count} components were asked of {n} patches of width {width}; ask for fewer.")
    tall = n >= width
    gram = rows.mT @ rows if tall else rows @ rows.mT
    values, vectors = torch.linalg.eigh(gram)
    values = values[:, -count:].flip(1).clamp(min=0).sqrt()
    one_side = vectors[:, :, -count:].flip(2)
    inverse = torch.where(values > 1e-10 * values[:, :1], 1 / values, 0.0)[:, None]
    other_side = (rows if tall else rows.mT) @ one_side * inverse
    return (other_side, values, one_side) if tall else (one_side, values, other_side)


def _minority_positive(vectors: Tensor) -> Tensor:
    """Turn each column [B, n, count] so that its rarer sign is positive.

    A column of one sign only is made positive, and at half and half the largest entry is: the released code leaves it.
    """
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = torch.where(largest < 0, -vectors, vectors)
    share = (vectors > 0).double().mean(dim=1, keepdim=True)
    return torch.where((share > 0.5) & (share < 1), -vectors, vectors)


def _scaled(values: Tensor, dim: int) -> Tensor:
    """Scale to 0..1 along a dimension; a constant becomes 0."""
    low, high = values.amin(dim=dim, keepdim=True), values.amax(dim=dim, keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1.0)


def _largest(mask: np.ndarray, keep: int | None) -> np.ndarray:
    if not mask.any():
        return np.ones_like(mask)
    if keep is None:
        return mask
    labels, _ = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = [i for i in np.lexsort((first, -sizes)) if names[i] != 0]
    kept = order[:1] + [i for i in order[1:keep] if sizes[i] >= SECOND_COMPONENT]
    return np.isin(labels, names[kept])


def _foreground_rows(features: Tensor, mask: Tensor, parts: int) -> Tensor:
    """Features of the patches inside the mask, float64 [n, C], image after image."""
    features = _finite(features)
    if parts < 1:
        raise UserError(f"parts = {parts} was given; expected at least 1.")
    if mask.shape[0] != features.shape[0] or mask[0].numel() != features.shape[1]:
        shapes = f"A mask of shape {tuple(mask.shape)} does not fit features of shape {tuple(features.shape)}"
        raise UserError(f"{shapes}; expected one mask entry for each patch.")
    if not mask.any():
        raise UserError("The foreground mask is empty in every image; pass the mask that `foreground` returns.")
    return features[mask.reshape(mask.shape[0], -1)]


def _label_map(labels: Tensor, mask: Tensor) -> Tensor:
    maps = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    maps[mask] = labels
    return maps
