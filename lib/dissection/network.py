"""The neurons of a model's layers, and what they do on images."""

import re
from collections.abc import Iterator
from typing import Any

import torch

from lib.data import ImageDataset, by_chunks
from lib.dissection import activations
from lib.errors import UserError
from lib.models import heads

FINAL = "final"  # the name of the logits
STAGES = r"(visual\.)?(layer[1-4]|transformer\.resblocks\.\d+|trunk\.stages\.\d)|encoder\.layers\.encoder_layer_\d+"


def activity(
    model: Any,
    images: ImageDataset,
    layer: str,
    classes: ImageDataset,
    pool: str = "released",
    channels: str = "auto",
) -> torch.Tensor:
    """What the neurons of a layer do on images: float32 [images, neurons], on the model's device.

    "final" is the logits of a classifier, or of a CLIP's zero-shot one on the words of `classes`. Hidden layers are
    kept a chunk of images at a time; pool, channels: see `activations.collect`. Raises UserError.
    """
    if layer == FINAL:
        weight, bias = heads.head(model, classes)
        return model.embed_images(images) @ weight.T + bias
    activations.check_layers(model.tower, [layer])
    usual = _stages(model)
    computed = usual if layer in usual else [layer]  # one pass for all that other pages will want

    def compute(part: ImageDataset) -> dict[str, torch.Tensor]:
        return activations.collect(model.tower, computed, batches(model, part), pool, channels)

    about = {"model": model.decides, "layers": computed, "pool": pool, "channels": channels, "resize": model.resize}
    kept = by_chunks({"kind": "activations", **about}, images, compute, f"layers of {model.name}")
    return kept[layer].to(model.device)


def batches(model: Any, images: ImageDataset, size: int = 64) -> Iterator[torch.Tensor]:
    """Images as a model's tower takes them: float32 [b, 3, S, S], on its device."""
    for start in range(0, len(images), size):
        yield model.normalised(model.pixels(images.subset(range(start, min(start + size, len(images))))))


def choose(model: Any, wanted: str) -> list[str]:
    """Names of layers, first to last.

    wanted: "auto" for every stage of a ResNet or block of a ViT, "last" for the last of these, or names with commas
    ("final" for the logits). Raises UserError for an unknown one, and where a model has no such stages.
    """
    if wanted in ("auto", "last"):
        found = _stages(model)
        if not found:
            raise UserError(f"{model.name} has no stages or blocks that are known here; name its layers.")
        return found if wanted == "auto" else found[-1:]
    chosen = [name.strip() for name in wanted.split(",")]
    activations.check_layers(model.tower, [name for name in chosen if name != FINAL])
    return chosen


def _stages(model: Any) -> list[str]:
    return [name for name in activations.layers(model.tower) if re.fullmatch(STAGES, name)]
