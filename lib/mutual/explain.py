"""Explains a CLIP's view of images: which descriptors its parts show, and which its class name stands for.

The pipeline of the paper (section 3): parts (`finding`) -> candidates -> relevance -> descriptors by optimal transport
(`matching`) beside the descriptors of the predicted class (`information`). Here the steps meet a model and images.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lib.data import ImageDataset
from lib.models import Clip, heads
from lib.mutual import information, matching, words
from lib.mutual.finding import Parts, embed_parts, find, find_all, find_chunks  # noqa: F401  one door
from lib.mutual.options import DEFAULTS, Options

BATCH = 64  # images whose similarities with the whole bank are in memory together


@dataclass
class Named:
    """The descriptors of n images by one part method.

    part_ids: int64 [n, parts, per_part], numbers into the bank, best first, -1 pads. vision_ids: int64
    [n, parts x per_part], the same without repetition, most relevant to the image first. few_candidates: bool [n],
    fewer candidate descriptors than parts, so that some parts share theirs or go without.
    """

    part_ids: torch.Tensor
    vision_ids: torch.Tensor
    few_candidates: torch.Tensor


@dataclass
class Explanations:
    """What `explain` finds for n images.

    bank: the descriptors. named: part method -> `Named`. language_scores: float32 [classes, bank], similarity of class
    and descriptor texts. predicted: int64 [n]. top5: bool [n]. foreground: share of patches, float32 [n], 1 where none
    was found and the whole image stands in.
    """

    bank: list[str]
    named: dict[str, Named]
    language_scores: torch.Tensor
    predicted: np.ndarray
    top5: np.ndarray
    foreground: np.ndarray

    def language_ids(self, top_u: int, classes: np.ndarray | None = None) -> np.ndarray:
        """The `top_u` descriptors nearest to each image's predicted class (or to `classes`): int64 [n, top_u]."""
        classes = self.predicted if classes is None else classes
        return information.language_concepts(self.language_scores, classes, top_u)


def explain(
    clip: Clip, images: ImageDataset, options: Options = DEFAULTS, seed: int = 0, methods: tuple[str, ...] = ()
) -> Explanations:
    """Vision-side and language-side descriptors of every image. seed: of K-means. methods: those of the options.

    A chunk of whole classes at a time, so that memory does not grow with the images. Raises UserError when the images
    have no descriptors.
    """
    images.require_descriptors(every_class=False)
    methods, embedded = methods or options.methods, clip.embed_images(images)
    logits = embedded @ words.classifier(clip, images).T
    order: list[np.ndarray] = []
    share: list[torch.Tensor] = []
    pieces: dict[str, list[Named]] = {m: [] for m in methods}
    for indices, found in find_chunks(clip, images, options, methods, seed):
        order.append(indices)
        share.append(found[methods[0]].foreground)
        for method, of in found.items():
            pieces[method].append(name_parts(clip, images, of, options, embedded[torch.from_numpy(indices)]))
    back = np.argsort(np.concatenate(order))
    return Explanations(
        bank=images.bank,
        named={method: _joined(of, back) for method, of in pieces.items()},
        language_scores=words.language_scores(clip, images),
        predicted=logits.argmax(1).cpu().numpy(),
        top5=heads.top_k_hits(logits, images.labels, min(5, len(images.classes))).cpu().numpy(),
        foreground=torch.cat(share).numpy()[back],
    )


def _joined(pieces: list[Named], order: np.ndarray | slice = slice(None)) -> Named:
    return Named(**{name: torch.cat([vars(piece)[name] for piece in pieces])[order] for name in vars(pieces[0])})


def name_parts(
    clip: Clip,
    images: ImageDataset,
    found: Parts,
    options: Options = DEFAULTS,
    embedded: torch.Tensor | None = None,
) -> Named:
    """The descriptors of each of the parts `found` in `images`.

    embedded: float32 [n, c] of the images that `found` is about, by default all of `images`. Raises UserError when the
    images have no descriptors.
    """
    images.require_descriptors(every_class=False)
    concepts, pieces = words.concepts(clip, images), []
    fit = (clip.embed_images(images) if embedded is None else embedded) @ clip.embed_texts(images.bank).T
    per_part = min(options.per_part, len(images.bank))
    for start in range(0, len(fit), BATCH):
        chunk = slice(start, start + BATCH)
        present = found.present[chunk].to(clip.device)
        similarity = found.embedded[chunk].to(clip.device) @ concepts.T
        candidate = matching.candidates(similarity, present, options.top, options.candidates)
        candidate = matching.relevant(fit[chunk], candidate, options.relevance)
        ids = matching.match(similarity, present, candidate, options.matching, per_part)
        few = candidate.sum(1) < present.sum(1)
        pieces.append(Named(ids.cpu(), matching.vision_concepts(ids, fit[chunk]).cpu(), few.cpu()))
    return _joined(pieces)
