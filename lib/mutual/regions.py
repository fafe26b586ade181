"""Where explanations point: the regions that Table 1 blurs and reveals, and what is said about each.

The published explanations are parts by PCA and by K-means, the attention of MM-CBM's and MM-ProtoSim's strongest
descriptors, and Feature Maps. Two controls are ours: where the truth is known the animal's true parts, and the whole
image as a single region, than which nothing can change more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lib.data import ImageDataset
from lib.models import Clip
from lib.mutual import baselines, bottlenecks, explain, faithfulness
from lib.mutual.finding import Parts
from lib.mutual.options_regions import RegionOptions

TRAINED = {"MM-CBM": "mm_cbm", "MM-ProtoSim": "mm_protosim", "Feature Maps": "feature_maps"}
PARTS = {"PCA parts": "pca", "K-means parts": "kmeans"}
TRUE, WHOLE = "true parts", "whole image"


@dataclass
class Regions:
    """The regions of an explanation in n images, and what is said about each.

    masks: bool [n, L, h, w], empty where an image has fewer. embedded: float32 [n, L, c], the region's red-circle
    prompts. descriptors: int64 [n, L], the descriptor of each region, -1 for none.
    """

    masks: torch.Tensor
    embedded: torch.Tensor
    descriptors: torch.Tensor


def by_parts(clip: Clip, images: ImageDataset, found: Parts, options: RegionOptions) -> Regions:
    """Parts found in the images, with the first descriptor of each."""
    named = explain.name_parts(clip, images, found, replace(options, per_part=1))
    assert found.label_maps is not None
    masks = one_each(found.label_maps, options.parts) & found.present[:, :, None, None]
    return Regions(masks, found.embedded, named.part_ids[:, :, 0])


def one_each(label_maps: torch.Tensor, count: int) -> torch.Tensor:
    """Label maps int [n, h, w], -1 outside, as one mask for each label: bool [n, count, h, w]."""
    return label_maps[:, None] == torch.arange(count)[:, None, None]


def by_baseline(clip: Clip, images: ImageDataset, model: Any, how: dict[str, Any], options: RegionOptions) -> Regions:
    """What a trained baseline looks at, with the descriptor that it names there."""
    pieces = []
    for span in np.array_split(np.arange(len(images)), -(-len(images) // 256)):
        pixels = clip.pixels(images.image(i) for i in span)
        features, grid = clip.patch_features(pixels, how["feature"], how["layer"])
        name = name_channels if isinstance(model, bottlenecks.Labeler) else name_attention
        masks, named = name(model, features, options.parts, options.threshold)
        masks = masks.unflatten(2, grid).cpu()
        pieces.append((masks, embed_regions(clip, pixels, masks).cpu(), named.cpu()))
    return Regions(*(torch.cat(of) for of in zip(*pieces, strict=True)))


def name_attention(
    model: bottlenecks.Bottleneck, features: torch.Tensor, parts: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the descriptors that add most to the predicted class look: masks bool [n, L, P], descriptors int64 [n, L].

    The paper does not say how attention becomes a region: here as in Feature Maps, near its maximum over the patches.
    """
    amounts, _, attention = bottlenecks.contributions(model, features)
    chosen = amounts.topk(min(parts, amounts.shape[1]), dim=1).indices
    maps = attention.gather(1, chosen[:, :, None].expand(-1, -1, attention.shape[2]))
    return bottlenecks.near_maximum(maps, threshold), chosen


def name_channels(
    model: bottlenecks.Labeler, features: torch.Tensor, parts: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The strongest channels' regions and what the labeler calls them: as `name_attention`."""
    masks, _ = bottlenecks.prominent_channels(features, min(parts, features.shape[2]), threshold)
    with torch.inference_mode():
        return masks, model(bottlenecks.masked_mean(features.float(), masks)).argmax(2)


def embed_regions(clip: Clip, pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Joint embedding of regions that may overlap: bool [n, L, h, w] -> float32 [n, L, c], zero for an empty one.

    Regions of an image that are the same, as when several descriptors look at one place, are embedded once.
    """
    image, mask, where = faithfulness.distinct(masks)
    return explain.embed_parts(clip, pixels[image], mask.long() - 1, 1)[0][:, 0][torch.from_numpy(where)]


def by_truth(clip: Clip, images: ImageDataset, parts: int) -> Regions:
    """The largest visible parts of each animal, each with the descriptor nearest to it (bestiary only)."""
    maps = torch.stack([largest_parts(images.part_masks(i), parts) for i in range(len(images))])
    embedded = explain.embed_parts(clip, clip.pixels(images), maps, parts)[0].cpu()
    nearest = (embedded.to(clip.device) @ baselines.queries(clip, images).T).argmax(2).cpu()
    return Regions(one_each(maps, parts), embedded, nearest)


def largest_parts(masks: Mapping[str, np.ndarray], count: int) -> torch.Tensor:
    """Label map int64 [H, W] of the `count` largest of the named masks bool [H, W], -1 elsewhere."""
    found = sorted(masks.values(), key=lambda mask: -mask.sum())[:count]
    label_map = torch.full(next(iter(masks.values())).shape, -1)
    for k, mask in enumerate(found):
        label_map[torch.from_numpy(mask)] = k
    return label_map


def explanations(
    clip: Clip,
    images: ImageDataset,
    parts: Mapping[str, Parts],
    models: Mapping[str, Any],
    how: dict[str, Any],
    options: RegionOptions,
) -> dict[str, torch.Tensor]:
    """The ranked regions of all explanations: name -> bool [n, L, h, w].

    parts: found in these images, by name of the explanation; models, how: from `baselines.opened`.
    """
    found = {name: by_baseline(clip, images, models[key], how, options) for name, key in TRAINED.items()}
    found |= {name: by_parts(clip, images, of, options) for name, of in parts.items()}
    if images.name == "bestiary":  # only there are they known
        found[TRUE] = by_truth(clip, images, options.parts)
    embedded, texts, masks = clip.embed_images(images).cpu(), clip.embed_texts(images.bank).cpu(), {}
    for name, regions in found.items():
        said = texts[regions.descriptors.clamp(min=0)]
        scores = faithfulness.rank_scores(embedded, regions.embedded, said, options.rank)
        masks[name] = faithfulness.ranked(regions.masks, scores)[0]
    masks[WHOLE] = torch.zeros(len(images), options.parts, 1, 1, dtype=torch.bool)
    masks[WHOLE][:, 0] = True
    return masks
