"""What is seen of one model for Table 3 and Figure 3: how much its two encoders share."""

import numpy as np
import pandas as pd

from lib.data import ImageDataset
from lib.given import Given
from lib.mutual import explain, foreground, information, words
from lib.mutual.explain import Explanations
from lib.mutual.options import Options
from lib.seeds import rng
from lib.store import Seen

DRAWS = 20  # of each null model


def table3(given: Given, options: Options) -> Seen:
    """How much of what an image's parts show is also what its class stands for. Paper Table 3, section 3.3.

    A line for each image, `parts` method ("pca", "kmeans") and what its descriptors are held `against`: the
    "predicted class" (published), the "true class", a "wrong class" (not predicted), and, with the predicted class,
    "random descriptors" in place of the image's own; the last two averaged over `DRAWS`.
    Columns: image (number in the run's images), class, predicted; top1, top5 (0 or 100), foreground (share of patches,
    %, 100 where none was found), few_candidates (0 or 100: fewer candidates than parts); descriptors (N), matches (K),
    hit (0 or 100: any match), last_hit (rank of the last match, 0 without), mi and auc in nats. Tensors: curves_<parts>
    float32 [n, points], named_<parts> int [n, N] and language int [classes, M], numbers into the bank, -1 pads.
    """
    clip, images = given.model, given.images
    found = explain.explain(clip, images, options, given.seed)
    size = words.language_size(images, options.top_u)
    every = np.arange(len(images.classes))
    tensors = {"language": found.language_ids(size, every).astype(np.int32), "predicted": found.predicted}
    tables, about = [], _about(images, found)
    for method, named in found.named.items():
        ids = named.vision_ids.numpy()
        about["few_candidates"] = 100.0 * named.few_candidates.numpy()
        for against, (listed, language) in _pairs(found, ids, images.labels, size, given.seed).items():
            tables.append(about.assign(parts=method, against=against, **_measured(listed, language, options)))
        curves = information.curves(ids, found.language_ids(size), options.information, options.removal)
        tensors[f"curves_{method}"] = information.padded(curves, ids.shape[1] + 1).astype(np.float32)
        tensors[f"named_{method}"] = ids.astype(np.int32)
    notes = {"top_u": size, "bank": len(found.bank), "read": foreground.setting_of(clip, options.foreground)}
    return Seen(pd.concat(tables, ignore_index=True), tensors, notes)


def _about(images: ImageDataset, found: Explanations) -> pd.DataFrame:
    """What does not depend on the parts: a line an image."""
    return words.lines(
        images,
        predicted=np.array(images.classes)[found.predicted],
        top1=100.0 * (found.predicted == images.labels),
        top5=100.0 * found.top5,
        foreground=100.0 * found.foreground,
    )


def _pairs(found: Explanations, ids: np.ndarray, labels: np.ndarray, size: int, seed: int) -> dict[str, tuple]:
    """Vision lists and the language lists that they are held against: [draws, n, N] and [draws, n, M]."""
    stream, language = rng(seed, "nulls"), found.language_ids(size)
    wrong = information.wrong_classes(found.predicted, len(found.language_scores), DRAWS, stream)
    random = np.stack([information.random_lists(ids, len(found.bank), stream) for _ in wrong])
    same, again = np.broadcast_to(ids, random.shape), np.broadcast_to(language, (DRAWS, *language.shape))
    return {
        "predicted class": (ids[None], language[None]),
        "true class": (ids[None], found.language_ids(size, labels)[None]),
        "wrong class": (same, found.language_ids(size, wrong)),
        "random descriptors": (random, again),
    }


def _measured(ids: np.ndarray, language: np.ndarray, options: Options) -> dict[str, np.ndarray]:
    """What is counted of each image, averaged over the draws: dict of float [n]."""
    draws, places = ids.shape[0], ids.shape[2]
    ids, language = ids.reshape(-1, places), language.reshape(-1, language.shape[2])
    hits = information.matches(ids, language)
    n, m, k = (ids >= 0).sum(1), (language >= 0).sum(1), hits.sum(1)
    curves = information.curves_of(hits, n, m, options.information, options.removal)
    mi, auc = information.image_scores(curves, places + 1)
    last = information.last_of(hits)
    counted = {"descriptors": n, "matches": k, "hit": 100.0 * (k > 0), "last_hit": last, "mi": mi, "auc": auc}
    return {name: values.reshape(draws, -1).mean(0) for name, values in counted.items()}
