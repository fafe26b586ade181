"""What is seen of one model for the appendix: boxes (A1), matchings (A2), accuracy without the rest (A3), banks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from lib import seeds
from lib.data import ImageDataset, by_chunks
from lib.errors import UserError
from lib.given import Given
from lib.models import Clip, heads
from lib.mutual import appendix, boost, explain, foreground, ground_truth, matching, parts, words
from lib.mutual.observe_boost import scores
from lib.mutual.options import BankOptions, BoostOptions, MaskOptions, Options
from lib.paths import datasets_folder
from lib.store import Seen

DECOMPOSITIONS = {"GDC": ("svd", 1), "PCA": ("pca", 0)}  # the paper's names: method and component
CENTRE = 0.5**0.5  # side of the centred box that covers half of the picture
FINE = (512, 512)  # cells of the masks that look at nothing
BANKS = ("as it is", "half forgotten", "a quarter wrong", "of another class")


def localisation(given: Given, options: Options) -> Seen:
    """How well the foreground is found by each facet of the last layer and each decomposition. Paper, appendix Table 1.

    A line an image and `features`: "Tokens (GDC)" and so on, as in the published table, the first of which is the
    released notebook's; "as in Table 3", where this project reads the foreground (its features, layer, method and
    component are the column `where`); "whole picture" and "central half", a box that covers half of it, which look at
    nothing. Columns: hit (0 or 100: its box overlaps the object's by more than half; their mean is CorLoc), share (% of
    the patches, 100 where none was found), iou (%, with the true animal); nan where that is not known. Without boxes
    the note "reason" says why. A facet that a family lacks has no lines.
    """
    clip, images = given.model, given.images
    folder, notes = given.open_file(str(datasets_folder() / images.name / "boxes")), {}
    try:
        appendix.true_boxes(images, [0], folder)
    except UserError as error:  # most datasets have none on disk; the rest of the page does not need them
        notes["reason"] = str(error)

    def compute(some: ImageDataset) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for members in foreground.groups(some.labels):
            true = [] if notes else appendix.true_boxes(some, members, folder)
            animals = foreground.animals(some, members) if some.name == "bestiary" else None
            for name, mask in _found(clip, some, members, options).items():
                rows = found.setdefault(name, torch.zeros(len(some), 3))
                rows[torch.from_numpy(members)] = _fit(mask.cpu(), true, animals)
        return found

    where = foreground.setting_of(clip, options.foreground)
    key = {"kind": "localisation", "model": clip.decides, "where": where, "boxes": not notes}
    key |= {"spectral": options.spectral, "components": options.components}
    tables = []
    for name, rows in by_chunks(key, images, compute, f"foregrounds of {clip.name}").items():
        hit, share, iou = 100.0 * rows.numpy().T
        tables.append(words.lines(images, features=name, hit=hit, share=share, iou=iou))
    read = f"{where['feature']}, layer {where['layer']}, {where['method']} {where['component'] + 1}"
    return Seen(pd.concat(tables, ignore_index=True).assign(where=read), notes=notes)


def _found(clip: Clip, images: ImageDataset, members: np.ndarray, options: Options) -> dict[str, Tensor]:
    """What each way of looking takes for the foreground of the images of one group: bool [B, h, w] by name."""
    pixels, where = clip.pixels(images.image(i) for i in members), foreground.setting_of(clip, options.foreground)
    masks = {"as in Table 3": foreground.masks(clip, pixels, where, options.spectral, options.components)[1]}
    for facet, (features, grid) in facets_of(clip, pixels).items():
        for name, (method, component) in DECOMPOSITIONS.items():
            how = (component, options.spectral, method, options.components)
            masks[f"{facet} ({name})"] = parts.foreground(features, grid, *how)
    whole, low = torch.ones(len(members), *FINE, dtype=torch.bool), round(FINE[0] * (1 - CENTRE) / 2)
    centre = F.pad(whole[:, low:-low, low:-low], [low] * 4)
    return masks | {"whole picture": whole, "central half": centre}


def _fit(mask: Tensor, true: list[list[appendix.Box]], animals: Tensor | None) -> Tensor:
    """hit, share and iou of masks bool [B, h, w]: float [B, 3], nan where the truth is not known."""
    found = torch.full((len(mask), 3), torch.nan)
    for i, boxes in enumerate(true):
        left, top, right, bottom = np.divide(appendix.box(mask[i]), len(mask[i]))
        found[i, 0] = float(appendix.hit((left, top, right, bottom), boxes))
    found[:, 1] = mask.float().mean((1, 2))
    if animals is not None:
        found[:, 2] = torch.from_numpy(foreground.intersection_over_union(mask, animals))
    return found


def facets_of(clip: Clip, pixels: Tensor, layer: int = -1) -> dict[str, tuple[Tensor, tuple[int, int]]]:
    """Patch features of each facet that the model has, and their grid: (float [n, P, C], (h, w)) by name.

    "Tokens", "Keys", and both side by side, each of norm 1 ("Ensemble"; the paper doesn't define its own). A ConvNeXt
    has no attention and so no keys.
    """
    names = ("Tokens",) if clip.family == "ConvNeXt" else ("Tokens", "Keys")
    read = {name: clip.patch_features(pixels, name.lower(), layer) for name in names}
    if "Keys" in read:
        both = torch.cat([F.normalize(features, dim=-1) for features, _ in read.values()], dim=-1)
        read["Ensemble"] = both, read["Keys"][1]
    return read


def masked(given: Given, options: MaskOptions) -> pd.DataFrame:
    """Accuracy with all but the foreground blurred, or erased (blur = 0).

    A line an image and what is `kept`: "everything"; "patches", the foreground's; "foreground", its largest connected
    patches; "outline", those cut along edges, if `crf`; "true animal" (bestiary only); "the rest" instead of the
    foreground; "nothing". Columns top1 (0 or 100) and share (% of the picture that is kept). Paper, appendix Table 3.
    """
    clip, images = given.model, given.images
    weights, where = words.classifier(clip, images), foreground.setting_of(clip, options.foreground)

    def compute(some: ImageDataset) -> dict[str, Tensor]:
        right = heads.top_k_hits(clip.embed_images(some) @ weights.T, some.labels).float().cpu()
        found = {"everything": torch.stack([right, torch.ones(len(some))], 1)}
        for members in foreground.groups(some.labels):
            pixels = clip.pixels(some.image(i) for i in members)
            for name, mask in _kept(clip, some, members, pixels, options).items():
                shown = clip.embed_pixels(appendix.blurred_outside(pixels, mask, options.blur)) @ weights.T
                right = heads.top_k_hits(shown, some.labels[members]).float().cpu()
                rows = found.setdefault(name, torch.zeros(len(some), 2))
                rows[torch.from_numpy(members)] = torch.stack([right, mask.float().mean((1, 2)).cpu()], 1)
        return found

    key: dict[str, Any] = {k: getattr(options, k) for k in ("spectral", "components", "crf", "blur")}
    key |= {"kind": "masked", "model": clip.decides, "where": where}
    key["words"] = [images.classes, list(images.templates)]
    found = by_chunks(key, images, compute, f"masks of {clip.name}").items()
    tables = [words.lines(images, kept=k, top1=100.0 * of[:, 0], share=100.0 * of[:, 1]) for k, of in found]
    return pd.concat(tables, ignore_index=True)


def _kept(
    clip: Clip, images: ImageDataset, members: np.ndarray, pixels: Tensor, options: MaskOptions
) -> dict[str, Tensor]:
    """What is kept of the images of one group: dict of bool [B, h, w]."""
    where = foreground.setting_of(clip, options.foreground)
    patches = foreground.masks(clip, pixels, where, options.spectral, "all")[1]
    component = parts.connected(patches, options.components)
    kept = {"patches": patches, "foreground": component}
    if options.crf:
        kept["outline"] = parts.dense_crf(pixels, component)
    if images.name == "bestiary":
        kept["true animal"] = foreground.animals(images, members)
    return kept | {"the rest": ~component, "nothing": torch.zeros_like(component)}


def matchings(given: Given, options: Options) -> pd.DataFrame:
    """What each way of matching gives the same parts: a line an image, `parts` method and `matching`.

    Columns: entropy of the image's descriptors (nats); agreement, the share (%) of the optimal transport's descriptors
    that this way finds too; precision, the share (%) of the descriptors that hold, nan where the truth is not known.
    Paper, appendix A.2.
    """
    clip, images, tables = given.model, given.images, []
    known = None
    if images.name == "bestiary":  # only there is known what holds
        known = np.stack([np.isin(images.bank, images.true_descriptors(i)) for i in range(len(images))])
    for method, found in explain.find_all(clip, images, options, seed=given.seed).items():
        named = {m: explain.name_parts(clip, images, found, replace(options, matching=m)) for m in matching.METHODS}
        for name, of in named.items():
            table = words.lines(images, parts=method, matching=name, entropy=matching.entropy(of.part_ids))
            table["agreement"] = 100.0 * matching.agreement(named["transport"].part_ids, of.part_ids)
            listed = ground_truth.members(of.vision_ids.numpy(), len(images.bank))
            table["precision"] = np.nan if known is None else 100.0 * ground_truth.precision(listed, known)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def banks(given: Given, options: BankOptions) -> Seen:
    """Classification by description with the bank as it is, and with banks made worse on purpose.

    A line an image and `bank` of `BANKS`; columns top1, top5 (0 or 100), InterDiv and IntraDiv (of the bank). "half
    forgotten": each class keeps half of its descriptors; "a quarter wrong": a quarter of them are others of the bank;
    "of another class": every class has those of another. Notes: the sentence. Paper, appendix Table 4.
    """
    clip, images = given.model, given.images
    images.require_descriptors()
    worse, texts = worse_banks(images, given.seed), clip.embed_texts(images.bank).cpu()
    tables = []
    for name, logits in scores(clip, images, worse, BoostOptions(prompt=options.prompt)).items():
        top1, top5 = (heads.top_k_hits(logits, images.labels, k).float() for k in (1, min(5, len(images.classes))))
        numbers, classes = zip(*((d, k) for k, ids in enumerate(worse[name]) for d in ids), strict=True)
        inter, intra = appendix.diversity(texts[list(numbers)], classes)
        about = {"top1": 100.0 * top1, "top5": 100.0 * top5, "InterDiv": inter, "IntraDiv": intra}
        tables.append(words.lines(images, bank=name, **about))
    notes = {"prompt": boost.prompt_of(images.name, options.prompt)}
    return Seen(pd.concat(tables, ignore_index=True), notes=notes)


def worse_banks(images: ImageDataset, seed: int = 0) -> dict[str, list[list[int]]]:
    """The descriptors of each class in each of `BANKS`, as numbers into the bank."""
    own, rng, size = boost.own_sets(images.bank, images.descriptors), seeds.rng(seed, "worse banks"), len(images.bank)
    half = boost.own_sets(images.bank, images.descriptors, 0.5, seed)
    erring = [[d if rng.random() > 0.25 else int(rng.integers(size)) for d in ids] for ids in own]
    shift = rng.integers(1, len(own))
    others = [own[(k + shift) % len(own)] for k in range(len(own))]
    return dict(zip(BANKS, (own, half, [[*dict.fromkeys(ids)] for ids in erring], others), strict=True))
