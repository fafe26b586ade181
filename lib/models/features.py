"""Features of patches, by family of vision tower: normalised pixels [n, 3, S, S] -> [n, h, w, C]."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from torch import nn
from torch.nn import functional as F

from lib.errors import UserError

ATTENTION = ("keys", "keys_no_bias", "queries", "values")
FEATURES = {"ViT": ("tokens", *ATTENTION), "ResNet": ("tokens", *ATTENTION), "ConvNeXt": ("tokens",)}


def family_of(visual: nn.Module) -> str:
    """ "ViT", "ResNet" (OpenAI's, with its attention pool), "ConvNeXt" or "other"."""
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return "ViT"
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return "ResNet"
    return "ConvNeXt" if "convnext" in type(getattr(visual, "trunk", None)).__name__.lower() else "other"


def extractor(name: str, visual: Any, family: str, feature: str, layer: int | None) -> Callable:
    """The function that reads a feature at a layer. Raises UserError for one that the tower `name` lacks."""
    if feature not in FEATURES.get(family, ()):
        known = ", ".join(FEATURES.get(family, ("none",)))
        raise UserError(f"{name} ({family}) has no patch features '{feature}'; it has {known}.")
    count = 5 if family == "ResNet" else len(visual.transformer.resblocks if family == "ViT" else visual.trunk.stages)
    layer = -1 if layer is None else int(layer)
    if not -count <= layer < count:
        raise UserError(f"{name} has no layer {layer}; it has {count}, from 0 to {count - 1}.")
    if family == "ResNet" and feature != "tokens" and layer % count != count - 1:
        raise UserError(f"{name} has {feature} only at its last layer; leave `layer` at -1.")
    read = {"ViT": _vit, "ResNet": _resnet, "ConvNeXt": _convnext}[family]
    return lambda x: read(visual, x, feature, layer % count)


def _vit(visual: Any, x: torch.Tensor, feature: str, layer: int) -> torch.Tensor:
    block, seen = visual.transformer.resblocks[layer], []
    hook = block.ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        out = visual.forward_intermediates(
            x, indices=[layer], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
    finally:
        hook.remove()
    tokens = out["image_intermediates"][0]
    if feature != "tokens":  # the attention sees the layer-normed input; position 0 is the class token
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        tokens = _projected(seen[0][:, 1:], feature, list(zip(weights, biases, strict=True)))
    return tokens.unflatten(1, visual.grid_size)


def _resnet(visual: Any, x: torch.Tensor, feature: str, layer: int) -> torch.Tensor:
    out = visual.forward_intermediates(x, indices=[layer], intermediates_only=True)["image_intermediates"][0]
    grid = out.permute(0, 2, 3, 1)
    if feature == "tokens":
        return grid
    pool = visual.attnpool  # position 0 of its embedding belongs to the mean
    tokens = grid.flatten(1, 2) + pool.positional_embedding[1:]
    projections = [(p.weight, p.bias) for p in (pool.q_proj, pool.k_proj, pool.v_proj)]
    return _projected(tokens, feature, projections).unflatten(1, grid.shape[1:3])


def _convnext(visual: Any, x: torch.Tensor, feature: str, layer: int) -> torch.Tensor:
    out = visual.forward_intermediates(x, indices=[layer], stop_early=True, intermediates_only=True)
    return out["image_intermediates"][0].permute(0, 2, 3, 1)


def _projected(x: torch.Tensor, feature: str, projections: list) -> torch.Tensor:
    """x [n, p, C] through one of the (weight, bias) of queries, keys, values: [n, p, C]."""
    kind, _, without = feature.partition("_")
    weight, bias = dict(zip(("queries", "keys", "values"), projections, strict=True))[kind]
    return F.linear(x, weight, None if without else bias)


@contextmanager
def unprojected(name: str, visual: Any, family: str) -> Iterator[None]:
    """While it lasts, the tower ends before its last projection. Raises UserError where it has none."""
    owner: Any = visual
    instead: nn.Module | None = None
    if family == "ViT" and visual.proj is not None:
        attribute = "proj"
    elif family == "ResNet":  # the attention pool's output projection; an identity leaves its heads as they are
        owner, attribute, old = visual.attnpool, "c_proj", visual.attnpool.c_proj
        same = nn.Linear(old.in_features, old.in_features, device=old.weight.device)
        nn.init.eye_(same.weight), nn.init.zeros_(same.bias)
        instead = same
    elif family == "ConvNeXt":
        attribute, instead = "head", nn.Identity()
    else:
        raise UserError(f"{name} has no projection into a joint space; leave `projected` at True.")
    before = getattr(owner, attribute)
    setattr(owner, attribute, instead)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@contextmanager
def unprojected_texts(name: str, model: Any) -> Iterator[None]:
    """While it lasts, the text tower of a CLIP ends before its projection. Raises UserError where it has none."""
    before = getattr(model, "text_projection", None)
    if before is None:
        raise UserError(f"{name} has no projection of texts into a joint space; leave `projected` at True.")
    model.text_projection = None
    try:
        yield
    finally:
        model.text_projection = before
