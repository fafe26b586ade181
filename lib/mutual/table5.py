"""One row of Table 5: how well the bottlenecks classify, beside a plain classifier on the same features."""

import numpy as np
import torch

from lib.models import heads
from lib.mutual import baselines, bottlenecks

VERSION = 1  # raise it when a row's numbers change: records of another version are computed anew
METHODS = (
    "zero_shot",
    "standard",
    "standard_embedding",
    "lf_cbm",
    "mm_cbm",
    "mm_protosim",
    "mm_cbm_random",
    "mm_protosim_random",
)
# (better, worse) by top-1, as published; and against queries that know no word, a control of ours
PAIRS = (
    ("mm_cbm", "standard"),
    ("mm_protosim", "standard"),
    ("mm_protosim", "mm_cbm"),
    ("mm_cbm", "lf_cbm"),
    ("mm_cbm", "mm_cbm_random"),
    ("mm_protosim", "mm_protosim_random"),
)


def logits(method, clip, data, train, how, features):
    """What a baseline says of the images of `data`: [n, classes]. features: `baselines.patch_features` of them."""
    if method == "zero_shot":
        return clip.embed_images(data) @ heads.classifier(clip, data.classes, data.templates).T
    model = baselines.load(method, clip, train, how)
    if method == "lf_cbm":
        return bottlenecks.label_free_logits(model, baselines.pooled(features).to(clip.device))
    if method == "standard_embedding":
        return bottlenecks.predict(model, clip.embed_images(data))
    return bottlenecks.predict(model, baselines.pooled(features) if method == "standard" else features)


def row(clip, data, train_data="", train_limit=0, seed=0, **options):
    """Table 5 for `clip`: top-1 and top-5 of each of `METHODS`, image by image, in per cent.

    train_data, train_limit: see `baselines.train_split`; options: see `baselines.recipe`. Further metrics: the
    differences of `PAIRS`, in points; of the Feature Maps' labeler, the share of a class's descriptors among its
    first ones, as many as the class has ("top_all"), and among its first ten. Paper, appendix Table 5 and D.2.
    """
    baselines.require_labels(data)
    train = baselines.train_split(data, train_data, train_limit, seed)
    how = baselines.recipe(clip, train, seed=seed, **options)
    features, _ = baselines.patch_features(clip, data, how)
    metrics, five = {}, min(5, len(data.classes))
    for method in METHODS:
        found = logits(method, clip, data, train, how, features)
        for k in (1, five):
            hits = heads.top_k_hits(found, data.labels, k).float()
            metrics[f"{'top1' if k == 1 else 'top5'}_{method}"] = 100.0 * hits.cpu().numpy()
    for better, worse in PAIRS:
        metrics[f"{better}_above_{worse}"] = metrics[f"top1_{better}"] - metrics[f"top1_{worse}"]
    metrics |= labeler_quality(baselines.load("feature_maps", clip, train, how), features, data)
    sparse = baselines.load("lf_cbm", clip, train, how)
    notes = {key: how[key] for key in ("feature", "layer", "steps", "inner", "batch", "rates")}
    notes |= {"train": len(train), "bank": len(data.bank), "lf_cbm_concepts": int(sparse["kept"].sum())}
    notes["lf_cbm_weights_a_class"] = float((sparse["weight"] != 0).sum(0).float().mean())
    return {"metrics": metrics, "arrays": {}, "notes": notes}


def labeler_quality(model, features, data):
    """Share of a class's descriptors that the labeler puts first, in per cent, image by image: dict of float [n]."""
    wanted = baselines.descriptor_targets(data)[torch.as_tensor(data.labels)]
    order = bottlenecks.predict(model, baselines.pooled(features)).argsort(1, descending=True).cpu()
    there = wanted.gather(1, order).cumsum(1).numpy()
    count = wanted.sum(1).numpy().astype(int)
    rows = np.arange(len(there))
    found = {"labeler_top_all": there[rows, np.maximum(count, 1) - 1], "labeler_top_10": there[:, :10].max(1)}
    return {key: np.where(count > 0, 100.0 * hits / np.maximum(count, 1), np.nan) for key, hits in found.items()}
