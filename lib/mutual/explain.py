"""Explains a CLIP's view of images: which descriptors its parts show, and which its class name stands for.

The pipeline of the paper (section 3), a class at a time and batched within it: patch features -> foreground ->
parts -> red-circle prompts -> descriptors by optimal transport. Each step is a pure function of `parts`,
`prompts` and `matching`; here they meet a model and a dataset.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from lib import store
from lib.errors import UserError
from lib.models import heads
from lib.mutual import foreground, information, matching, prompts
from lib.mutual import parts as part_finding

PART_METHODS = ("pca", "kmeans")
CHUNK = 512  # images whose parts are kept in one file: an interrupted run goes on from the last whole one


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
    label_maps: torch.Tensor | None


@dataclass
class Explanations:
    """What `explain` finds for n images.

    vision_ids: part method -> int64 [n, parts x per_part], numbers into `bank`, most relevant to the image first,
    -1 pads. part_ids: part method -> int64 [n, parts, per_part], the same by part, best first. language_scores:
    float32 [classes, bank], similarity of class and descriptor texts. predicted, labels: int64 [n]. top5: bool [n].
    foreground: share of patches, float32 [n], 1 where none was found and the whole image stands in. parts_shown:
    part method -> int64 [n]. few_candidates: part method -> bool [n], fewer candidate descriptors than parts, so
    that some parts share theirs or go without.
    """

    bank: list
    vision_ids: dict
    part_ids: dict
    language_scores: torch.Tensor
    predicted: np.ndarray
    labels: np.ndarray
    top5: np.ndarray
    foreground: np.ndarray
    parts_shown: dict
    few_candidates: dict

    def language_ids(self, top_u, classes=None):
        """The `top_u` descriptors nearest to each image's predicted class (or to `classes`): int64 [n, top_u]."""
        classes = self.predicted if classes is None else classes
        return information.language_concepts(self.language_scores, classes, top_u)


def find_parts(features, mask, method, count, seed):
    """Label maps int64 [B, h, w] of the foreground's parts by "pca" or "kmeans", -1 outside."""
    if method == "pca":
        return part_finding.pca_parts(features, mask, count)
    if method == "kmeans":
        return part_finding.kmeans_parts(features, mask, count, seed)
    raise UserError(f"Parts by '{method}' were asked for; choose among {', '.join(PART_METHODS)}.")


def cut_out(label_maps, outline):
    """Label maps int64 [B, h, w] at pixel level, -1 outside the `outline` bool [B, S, S]: int64 [B, S, S]."""
    grown = torch.nn.functional.interpolate(label_maps[:, None].float(), outline.shape[1:])[:, 0].long()
    return grown.masked_fill(~outline, -1)


def embed_parts(clip, pixels, label_maps, count, batch_size=256):
    """Joint embedding of each part: the mean over the three red-circle variants (appendix F).

    pixels uint8 [B, 3, S, S], label_maps int [B, h, w] -> float32 [B, count, c], bool [B, count] (part is shown).
    """
    drawn, image_index, part_index = prompts.red_circles(pixels, label_maps)
    embedded = clip.embed_pixels(drawn.flatten(0, 1), batch_size).view(*drawn.shape[:2], -1).mean(1)
    return matching.by_image(embedded, image_index, part_index, len(pixels), count)


def find(clip, data, method="kmeans", parts=5, **options):
    """The parts of every image of `data` and their embeddings: `Parts`. Options as in `find_all`."""
    return find_all(clip, data, (method,), parts, **options)[method]


def find_all(
    clip,
    data,
    methods=PART_METHODS,
    parts=5,
    setting=None,
    scope="class",
    components="released",
    group="label",
    crf=False,
    seed=0,
    batch_size=256,
    keep_maps=True,
):
    """The parts of every image by each method, dict of method to `Parts`, kept in the cache.

    keep_maps: False leaves the label maps out. The other options are those of `explain`.
    """
    if group not in ("label", "predicted"):
        raise UserError(f"Images were to be grouped by '{group}'; choose 'label' or 'predicted'.")
    setting = setting or foreground.setting_of(clip)
    labels = data.labels if group == "label" else predictions(clip, data, batch_size)
    about = {"setting": setting, "parts": parts, "scope": scope, "components": components, "crf": crf}
    found = {method: {} for method in methods}
    for members in _chunks(foreground.groups(labels)):
        every = np.concatenate(members)
        key = {"kind": "parts", "model": clip.decides, **about, "n": len(every)}
        key |= {"images": data.subset(every).fingerprint, "groups": store.digest({"sizes": [*map(len, members)]})}
        where = (setting, scope, components, crf)
        for method, chunk in _find_chunk(clip, data, members, methods, key, where, parts, seed, batch_size).items():
            for name in chunk if keep_maps else chunk.keys() - {"label_maps"}:
                values = chunk[name]
                found[method].setdefault(name, values.new_zeros(len(data), *values.shape[1:]))[every] = values
    return {
        method: Parts(v["embedded"], v["present"], v["foreground"], v.get("label_maps")) for method, v in found.items()
    }


def _find_chunk(clip, data, members, methods, key, where, parts, seed, batch_size):
    """What `Parts` holds of some groups, by each method, from the cache or found now: dict of method to tensors."""

    @lru_cache(len(members) if len(methods) > 1 else 1)  # the methods share what is read of a group
    def read(k):
        return _read_group(clip, data, members[k], *where)

    def compute(method):
        rows = [_find_group(clip, *read(k), method, parts, seed, batch_size) for k in range(len(members))]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    found = {}
    for method in methods:
        by = {"method": method, "seed": seed if method == "kmeans" else None}
        found[method] = store.tensors(key | by, partial(compute, method))
    return found


def _read_group(clip, data, members, setting, scope, components, crf):
    """What all methods start from: the pixels of a group, its patch features, its foreground, and that as pixels."""
    pixels = clip.pixels(data.image(i) for i in members)
    features, mask = foreground.masks(clip, pixels, setting, scope, components)
    return pixels, features, mask, part_finding.dense_crf(pixels, mask) if crf else None


def _find_group(clip, pixels, features, mask, outline, method, parts, seed, batch_size):
    """What `Parts` holds of the images of one group, a dict of tensors."""
    label_maps = find_parts(features, mask, method, parts, seed)
    if outline is not None:
        label_maps = cut_out(label_maps, outline)
    embedded, present = embed_parts(clip, pixels, label_maps, parts, batch_size)
    share = mask.float().mean((1, 2))
    return {"embedded": embedded, "present": present, "foreground": share, "label_maps": label_maps.to(torch.int8)}


def _chunks(groups):
    """Groups put together until they hold `CHUNK` images: a list of lists."""
    found, size = [], CHUNK
    for members in groups:
        if size >= CHUNK:
            found.append([])
            size = 0
        found[-1].append(members)
        size += len(members)
    return found


def predictions(clip, data, batch_size=256):
    """The zero-shot class of each image: int64 [n]."""
    by_class = heads.classifier(clip, data.classes, data.templates)
    return (clip.embed_images(data, batch_size=batch_size) @ by_class.T).argmax(1).cpu().numpy()


def name_parts(
    clip,
    data,
    found,
    method="transport",
    per_part=3,
    top=500,
    candidate_rule="intersection",
    relevance_rule="released",
    offset=0.02,
    batch_size=64,
):
    """The descriptors of each of the `Parts` found in `data`: see `matching.match` for the options.

    Returns part ids int64 [n, parts, per_part] and vision ids int64 [n, parts x per_part], both as in
    `Explanations`, and bool [n]: fewer candidates than parts. Raises UserError when the data have no descriptors.
    """
    data.require_descriptors(every_class=False)
    bank = data.bank
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in bank])
    fits = clip.embed_images(data) @ clip.embed_texts(bank).T
    rules, per_part = (candidate_rule, relevance_rule, offset), min(per_part, len(bank))
    part_ids, vision_ids, few = [], [], []
    for start in range(0, len(data), batch_size):
        chunk = slice(start, start + batch_size)
        similarity, present = found.embedded[chunk].to(clip.device) @ concepts.T, found.present[chunk].to(clip.device)
        ids = matching.match(similarity, fits[chunk], present, method, per_part, top, *rules)
        candidates = matching.candidates(similarity, present, top, candidate_rule)
        candidates = matching.relevant(fits[chunk], candidates, relevance_rule, offset)
        part_ids.append(ids.cpu())
        vision_ids.append(matching.vision_concepts(ids, fits[chunk]).cpu())
        few.append((candidates.sum(1) < present.sum(1)).cpu())
    return torch.cat(part_ids), torch.cat(vision_ids), torch.cat(few).numpy()


def explain(
    clip,
    data,
    part_methods=PART_METHODS,
    parts=5,
    per_part=3,
    setting=None,
    scope="class",
    components="released",
    matching_method="transport",
    top=500,
    candidate_rule="intersection",
    relevance_rule="released",
    offset=0.02,
    group="label",
    crf=False,
    seed=0,
    batch_size=256,
):
    """Vision-side and language-side descriptors of every image of `data`: `Explanations`.

    `setting`: where the foreground is read (None: `foreground.setting_of`). `group`: images that are decomposed
    together share their "label" (released code) or the model's prediction ("predicted", which needs no labels).
    `crf`: cut the parts to the foreground's outline at pixel level (`parts.dense_crf`; the released code does). The
    other options are those of `parts`, `prompts` and `matching`; the defaults are the released notebook's. Raises
    UserError when the data have no descriptors.
    """
    data.require_descriptors(every_class=False)
    by_class = heads.classifier(clip, data.classes, data.templates)
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
    scores = clip.embed_images(data, batch_size=batch_size) @ by_class.T
    rules = {"top": top, "candidate_rule": candidate_rule, "relevance_rule": relevance_rule, "offset": offset}
    where = {"setting": setting, "scope": scope, "components": components, "group": group, "crf": crf}
    ids, by_part, shown, few = {}, {}, {}, {}
    every = find_all(clip, data, part_methods, parts, **where, seed=seed, batch_size=batch_size, keep_maps=False)
    for name, found in every.items():
        by_part[name], ids[name], few[name] = name_parts(clip, data, found, matching_method, per_part, **rules)
        shown[name] = found.present.sum(1).numpy()
    return Explanations(
        bank=data.bank,
        vision_ids=ids,
        part_ids=by_part,
        language_scores=(by_class @ concepts.T).cpu(),
        predicted=scores.argmax(1).cpu().numpy(),
        labels=np.asarray(data.labels),
        top5=heads.top_k_hits(scores, data.labels, min(5, len(data.classes))).cpu().numpy(),
        foreground=found.foreground.numpy(),
        parts_shown=shown,
        few_candidates=few,
    )
