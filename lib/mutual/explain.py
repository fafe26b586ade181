"""Explains a CLIP's view of images: which descriptors its parts show, and which its class name stands for.

The pipeline of the paper (section 3), a class at a time and batched within it: patch features -> foreground ->
parts -> red-circle prompts -> descriptors by optimal transport. Each step is a pure function of `parts`,
`prompts` and `matching`; here they meet a model and a dataset.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lib import zeroshot
from lib.errors import UserError
from lib.mutual import foreground, information, matching, prompts
from lib.mutual import parts as part_finding

PART_METHODS = ("pca", "kmeans")


@dataclass
class Explanations:
    """What `explain` finds for n images.

    vision_ids: part method -> int64 [n, parts x per_part], numbers into `bank`, most relevant to the image first,
    -1 pads. language_scores: float32 [classes, bank], similarity of class and descriptor texts. predicted, labels:
    int64 [n]. top5: bool [n]. foreground: share of patches, float32 [n], 1 where none was found
    and the whole image stands in. parts_shown: part method -> int64 [n]. few_candidates: part method -> bool [n],
    fewer candidate descriptors than parts, so that some parts share theirs or go without.
    """

    bank: list
    vision_ids: dict
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
    if group not in ("label", "predicted"):
        raise UserError(f"Images were to be grouped by '{group}'; choose 'label' or 'predicted'.")
    setting, bank = setting or foreground.setting_of(clip), data.bank
    per_part = min(per_part, len(bank))
    by_class = zeroshot.classifier(clip, data.classes, data.templates)
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in bank])
    plain = clip.embed_texts(bank)
    whole = clip.embed_images(data, batch_size=batch_size)
    scores = whole @ by_class.T
    predicted = scores.argmax(1).cpu().numpy()
    ids = {m: torch.full((len(data), parts * per_part), -1) for m in part_methods}
    shown = {m: np.zeros(len(data), np.int64) for m in part_methods}
    few = {m: np.zeros(len(data), bool) for m in part_methods}
    share = np.zeros(len(data), np.float32)
    for members in foreground.groups(data.labels if group == "label" else predicted):
        pixels = clip.pixels(data.image(i) for i in members)
        features, mask = foreground.masks(clip, pixels, setting, scope, components)
        outline = part_finding.dense_crf(pixels, mask) if crf else None
        share[members] = mask.float().mean((1, 2)).cpu().numpy()
        relevance = whole[members] @ plain.T
        for name in part_methods:
            label_maps = find_parts(features, mask, name, parts, seed)
            if crf:
                label_maps = cut_out(label_maps, outline)
            embedded, present = embed_parts(clip, pixels, label_maps, parts, batch_size)
            similarity = embedded @ concepts.T
            rules = {"top": top, "candidate_rule": candidate_rule, "relevance_rule": relevance_rule, "offset": offset}
            found = matching.match(similarity, relevance, present, matching_method, per_part, **rules)
            candidates = matching.candidates(similarity, present, top, candidate_rule)
            candidates = matching.relevant(relevance, candidates, relevance_rule, offset)
            few[name][members] = (candidates.sum(1) < present.sum(1)).cpu().numpy()
            ids[name][members] = matching.vision_concepts(found, relevance).cpu()
            shown[name][members] = present.sum(1).cpu().numpy()
    return Explanations(
        bank=bank,
        vision_ids=ids,
        language_scores=(by_class @ concepts.T).cpu(),
        predicted=predicted,
        labels=np.asarray(data.labels),
        top5=zeroshot.top_k_hits(scores, data.labels, min(5, len(data.classes))).cpu().numpy(),
        foreground=share,
        parts_shown=shown,
        few_candidates=few,
    )
