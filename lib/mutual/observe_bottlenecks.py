"""Table 5: how well trained bottlenecks classify, beside a plain classifier on the same features."""

from typing import Any

import pandas as pd
import torch

from lib import data
from lib.data import ImageDataset
from lib.given import Given
from lib.models import heads
from lib.mutual import baselines, bottlenecks, words
from lib.mutual.options import Training
from lib.store import Seen

CLASSIFIERS = {
    "Zero-shot CLIP": "",
    "Standard (MLP on vision features)": "standard",
    "MLP on the image embedding": "standard_embedding",
    "LF-CBM": "lf_cbm",
    "MM-CBM": "mm_cbm",
    "MM-ProtoSim": "mm_protosim",
    "MM-CBM, random queries": "mm_cbm_random",
    "MM-ProtoSim, random queries": "mm_protosim_random",
}


def table5(given: Given, options: Training) -> Seen:
    """Whether each of `CLASSIFIERS` has the class first, or among its first five, in per cent: a line for each image.

    notes: what was trained, and on what. Paper, appendix Table 5.
    """
    clip, images = given.model, given.images
    models, how, train = baselines.opened(given, clip, images, options)
    by_class = words.classifier(clip, images)

    def compute(some: ImageDataset) -> dict[str, torch.Tensor]:
        features, embedded, hits = baselines.patch_features(clip, some, how)[0], clip.embed_images(some), {}
        for name, key in CLASSIFIERS.items():
            found = logits(key, models[key], features, embedded) if key else embedded @ by_class.T
            both = [heads.top_k_hits(found, some.labels, min(k, len(by_class))) for k in (1, 5)]
            hits[name] = 100.0 * torch.stack(both, 1).float()
        return hits

    key = {"kind": "bottleneck_hits", "model": clip.decides, "how": how}
    found = data.by_chunks(key, images, compute, f"bottlenecks of {clip.name}")
    tables = [words.lines(images, top1=hit[:, 0], top5=hit[:, 1], classifier=name) for name, hit in found.items()]
    sparse = models["lf_cbm"]
    notes = {key: how[key] for key in ("feature", "layer", "steps", "inner", "batch", "rates")}
    notes |= {"train": len(train), "bank": len(images.bank), "lf_cbm_concepts": int(sparse["kept"].sum())}
    notes["lf_cbm_weights_a_class"] = float((sparse["weight"] != 0).sum(0).float().mean())
    return Seen(pd.concat(tables, ignore_index=True), notes=notes)


def logits(method: str, model: Any, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """What a baseline says of images: [n, classes], from their patch features [n, P, C] and embeddings [n, c]."""
    if method == "lf_cbm":
        return bottlenecks.label_free_logits(model, baselines.pooled(features).to(embedded.device))
    if method == "standard_embedding":
        return bottlenecks.predict(model, embedded)
    return bottlenecks.predict(model, baselines.pooled(features) if method == "standard" else features)


def labeler(given: Given, options: Training) -> pd.DataFrame:
    """Share (%) of a class's descriptors that the Feature Maps' labeler puts first, a line for each image.

    first: among as many as the class has; ten: among the first ten. Paper, appendix D.2.
    """
    clip, images = given.model, given.images
    models, how, _ = baselines.opened(given, clip, images, options, ["feature_maps"])
    wanted = baselines.descriptor_targets(images)

    def compute(some: ImageDataset) -> dict[str, torch.Tensor]:
        vectors = baselines.pooled(baselines.patch_features(clip, some, how)[0])
        return named_first(bottlenecks.predict(models["feature_maps"], vectors).cpu(), wanted[some.labels])

    key = {"kind": "labeler", "model": clip.decides, "how": how}
    return words.lines(images, **data.by_chunks(key, images, compute, f"labeler of {clip.name}"))


def named_first(scores: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """Share (%) of the wanted descriptors, 0 or 1 [n, D], that `scores` [n, D] put first, as in `labeler`."""
    there, count = wanted.gather(1, scores.argsort(1, descending=True)).cumsum(1), wanted.sum(1)
    as_many = there.gather(1, count.long().clamp(min=1)[:, None] - 1)[:, 0]
    return {"first": 100 * as_many / count, "ten": 100 * there[:, :10].amax(1) / count}
