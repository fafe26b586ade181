"""The parts of images and their embeddings, a class at a time and kept in chunks: what costs most of an explanation.

Patch features -> foreground -> parts -> red-circle prompts (paper, section 3.1 and appendix F). A file of its own, so
that parts that were found stay found when the matching of descriptors (`explain`) is edited.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from lib import store
from lib.data import ImageDataset
from lib.errors import one_of
from lib.models import Clip
from lib.mutual import foreground, parts, prompts, words
from lib.mutual.options import DEFAULTS, PART_METHODS, Options
from lib.progress import progress


@dataclass
class Parts:
    """The parts that `find` finds in n images.

    embedded: float32 [n, parts, c], zero where an image does not show the part. present: bool [n, parts].
    foreground: share of patches, float32 [n], 1 where none was found and the whole image stands in. label_maps:
    int8 [n, h, w], -1 outside the parts, on the patch grid (at pixel level with a CRF); None if not asked for.
    """

    embedded: torch.Tensor
    present: torch.Tensor
    foreground: torch.Tensor
    label_maps: torch.Tensor | None = None

    def at(self, indices: np.ndarray) -> "Parts":
        """Those of the images at `indices`."""
        maps = None if self.label_maps is None else self.label_maps[indices]
        return Parts(self.embedded[indices], self.present[indices], self.foreground[indices], maps)


def find(clip: Clip, images: ImageDataset, options: Options = DEFAULTS, method: str = "kmeans", seed: int = 0) -> Parts:
    """The parts of every image by "pca" or "kmeans", with their label maps. seed: of K-means. Raises UserError."""
    return find_all(clip, images, options, (method,), seed)[method]


def find_all(
    clip: Clip, images: ImageDataset, options: Options = DEFAULTS, methods: Sequence[str] = (), seed: int = 0
) -> dict[str, Parts]:
    """The parts of every image by each method, by default those of the options."""
    methods = methods or options.methods
    chunks = list(find_chunks(clip, images, options, methods, seed, keep_maps=True))
    back, whole = np.argsort(np.concatenate([indices for indices, _ in chunks])), {}
    for method in methods:
        every = [vars(found[method]) for _, found in chunks]
        whole[method] = Parts(**{name: torch.cat([of[name] for of in every]) for name in every[0]}).at(back)
    return whole


def find_chunks(
    clip: Clip, images: ImageDataset, options: Options, methods: Sequence[str], seed: int, keep_maps: bool = False
) -> Iterator[tuple[np.ndarray, dict[str, Parts]]]:
    """The parts of a few whole classes at a time, from the store or found now: indices int64 [m], parts by method."""
    for method in methods:
        one_of("parts by", method, PART_METHODS)
    labels = images.labels if options.group == "label" else words.predictions(clip, images)
    grouped = replace(images, labels=labels)  # whole groups come together, whatever makes them
    for indices in progress(list(grouped.chunks()), f"parts of {clip.name}"):
        found = _find_chunk(clip, grouped.subset(indices), options, methods, seed + options.restart)
        if not keep_maps:
            found = {method: {**of, "label_maps": None} for method, of in found.items()}
        yield indices, {method: Parts(**of) for method, of in found.items()}


def _find_chunk(
    clip: Clip, images: ImageDataset, options: Options, methods: Sequence[str], seed: int
) -> dict[str, dict]:
    """What `Parts` holds of the images of a chunk, by each method."""
    where, groups = foreground.setting_of(clip, options.foreground), foreground.groups(images.labels)
    key = {"kind": "parts", "model": clip.decides, "images": images.fingerprint, "n": len(images), "where": where}
    key |= {k: getattr(options, k) for k in ("parts", "spectral", "components", "crf")}

    @lru_cache(len(groups) if len(methods) > 1 else 1)  # the methods share what is read of a group
    def read(k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        pixels = clip.pixels(images.image(i) for i in groups[k])
        features, mask = foreground.masks(clip, pixels, where, options.spectral, options.components)
        return pixels, features, mask, parts.dense_crf(pixels, mask) if options.crf else None

    def by(method: str) -> Callable[[], dict[str, torch.Tensor]]:
        def compute() -> dict[str, torch.Tensor]:
            rows = [_find_group(clip, *read(k), method, options.parts, seed) for k in range(len(groups))]
            back = np.argsort(np.concatenate(groups))
            return {name: torch.cat([row[name] for row in rows])[back] for name in rows[0]}

        return compute

    drawn = {"kmeans": seed}  # what else is found does not depend on the seed
    return {m: store.tensors(key | {"method": m, "seed": drawn.get(m)}, by(m)) for m in methods}


def _find_group(
    clip: Clip,
    pixels: torch.Tensor,
    features: torch.Tensor,
    mask: torch.Tensor,
    outline: torch.Tensor | None,
    method: str,
    count: int,
    seed: int,
) -> dict[str, torch.Tensor]:  # eight arguments: the four that are read of a group, and how
    """What `Parts` holds of the images of one group, on the CPU."""
    if method == "pca":
        label_maps = parts.pca_parts(features, mask, count)
    else:
        label_maps = parts.kmeans_parts(features, mask, count, seed)
    if outline is not None:  # cut to it, at its resolution
        grown = F.interpolate(label_maps[:, None].float(), outline.shape[1:])[:, 0].long()
        label_maps = grown.masked_fill(~outline, -1)
    embedded, present = embed_parts(clip, pixels, label_maps, count)
    found = {"embedded": embedded, "present": present, "foreground": mask.float().mean((1, 2))}
    return {name: tensor.cpu() for name, tensor in (found | {"label_maps": label_maps.to(torch.int8)}).items()}


def embed_parts(
    clip: Clip, pixels: torch.Tensor, label_maps: torch.Tensor, count: int, batch_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint embedding of each part: the mean over the three red-circle variants (appendix F).

    pixels uint8 [B, 3, S, S], label_maps int [B, h, w] -> float32 [B, count, c], zero where an image does not show the
    part, and bool [B, count]: it shows it.
    """
    drawn, image_index, part_index = prompts.red_circles(pixels, label_maps)
    embedded = clip.embed_pixels(drawn.flatten(0, 1), batch_size).view(*drawn.shape[:2], -1).mean(1)
    return prompts.by_image(embedded, image_index, part_index, len(pixels), count)
