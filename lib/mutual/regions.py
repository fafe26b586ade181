"""Where explanations point: the regions that Table 1 blurs and reveals, and what is said about each.

The published explanations are parts by PCA and by K-means, the attention of MM-CBM's and MM-ProtoSim's strongest
descriptors, and Feature Maps. Two controls are ours: where the truth is known the animal's true parts, and the whole
image as a single region, than which nothing can change more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lib.data import ImageDataset
from lib.given import Given
from lib.models import Clip
from lib.mutual import baselines, bottlenecks, explain, faithfulness, words
from lib.mutual.finding import Parts
from lib.mutual.options import RegionOptions

TRAINED = {"MM-CBM": "mm_cbm", "MM-ProtoSim": "mm_protosim", "Feature Maps": "feature_maps"}
PARTS = {"PCA parts": "pca", "K-means parts": "kmeans"}
TRUE, WHOLE = "true parts", faithfulness.WHOLE


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
    model: torch.nn.Module, features: torch.Tensor, parts: int, threshold: float
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
    nearest = (embedded.to(clip.device) @ words.concepts(clip, images).T).argmax(2).cpu()
    return Regions(one_each(maps, parts), embedded, nearest)


def largest_parts(masks: Mapping[str, np.ndarray], count: int) -> torch.Tensor:
    """Label map int64 [H, W] of the `count` largest of the named masks bool [H, W], -1 elsewhere."""
    label_map = torch.full(next(iter(masks.values())).shape, -1)
    for k, mask in enumerate(sorted(masks.values(), key=lambda mask: -mask.sum())[:count]):
        label_map[torch.from_numpy(mask)] = k
    return label_map


# --- all of them


@dataclass
class Explainer:
    """All explanations of a model's images, ready to be asked for some of them.

    models, how: the trained baselines and their recipe (`baselines.opened`). parts: found in all images, by name.
    """

    clip: Clip
    images: ImageDataset
    options: RegionOptions
    models: dict[str, Any]
    how: dict[str, Any]
    parts: dict[str, Parts]

    @property
    def names(self) -> list[str]:
        """The explanations, in the order of `masks`."""
        return [*TRAINED, *PARTS, *([TRUE] if self.images.name == "bestiary" else []), WHOLE]

    def masks(self, which: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The ranked regions of each explanation in the images at `which`: name -> bool [m, L, h, w]."""
        found = self.trained(which, self.options.threshold) | self.untrained(which)
        masks = self.ranked(which, found, self.options.rank)
        masks[WHOLE] = torch.zeros(len(which), self.options.parts, 1, 1, dtype=torch.bool)
        masks[WHOLE][:, 0] = True
        return masks

    def trained(self, which: Sequence[int] | np.ndarray, threshold: float) -> dict[str, Regions]:
        """What the trained baselines look at, with the descriptors that they name there."""
        clip, where = self.clip, (self.how["feature"], self.how["layer"])
        pieces: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in TRAINED}
        for span in np.array_split(np.asarray(which), -(-len(which) // 256)):
            pixels = clip.pixels(self.images.image(i) for i in span)
            features, grid = clip.patch_features(pixels, *where)
            for name, key in TRAINED.items():
                by = name_channels if key == "feature_maps" else name_attention
                masks, named = by(self.models[key], features, self.options.parts, threshold)
                masks = masks.unflatten(2, grid).cpu()
                pieces[name].append((masks, embed_regions(clip, pixels, masks).cpu(), named.cpu()))
        return {name: Regions(*map(torch.cat, zip(*of, strict=True))) for name, of in pieces.items()}

    def untrained(self, which: Sequence[int] | np.ndarray) -> dict[str, Regions]:
        """The paper's parts and, in the bestiary, the true ones."""
        which = np.asarray(which)
        some, options = self.images.subset(which), self.options
        found = {name: by_parts(self.clip, some, of.at(which), options) for name, of in self.parts.items()}
        return found | ({TRUE: by_truth(self.clip, some, options.parts)} if TRUE in self.names else {})

    def ranked(
        self, which: Sequence[int] | np.ndarray, found: Mapping[str, Regions], rank: str
    ) -> dict[str, torch.Tensor]:
        """The regions' masks in the order of their importance (`faithfulness.rank_scores`)."""
        embedded = self.clip.embed_images(self.images.subset(which)).cpu()
        texts, masks = self.clip.embed_texts(self.images.bank).cpu(), {}
        for name, of in found.items():
            named = texts[of.descriptors.clamp(min=0)]
            masks[name] = faithfulness.ranked(of.masks, faithfulness.rank_scores(embedded, of.embedded, named, rank))
        return masks


def prepare(given: Given, options: RegionOptions) -> Explainer:
    """The explanations of the given model and images. Raises UserError where baselines cannot be trained."""
    clip, images = given.model, given.images
    models, how, _ = baselines.opened(given, clip, images, options, list(TRAINED.values()))
    found = explain.find_all(clip, images, options, tuple(PARTS.values()), given.seed)
    return Explainer(clip, images, options, models, how, {name: found[key] for name, key in PARTS.items()})
