"""One row of Table 1: the insertion and deletion of five explanations, and of controls, for one model.

The published five are parts by PCA and by K-means, the attention of MM-CBM's and MM-ProtoSim's strongest descriptors,
and Feature Maps. The controls are ours: for each of them random regions of the same area, and where the truth is
known, the animal's true parts.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lib.data import spread
from lib.models import heads
from lib.mutual import baselines, bottlenecks, explain, faithfulness, foreground

VERSION = 2  # raise it when a row's numbers change: records of another version are computed anew
TRAINED, OURS = ("mm_cbm", "mm_protosim", "feature_maps"), ("pca", "kmeans")
TRUE = "true_parts"
# which way is good: a higher value (+1) or a lower one (-1)
MEASURES = {"deletion": -1, "insertion": 1, "acc_drop": -1, "acc_inc": 1}
CHUNK = 32  # images whose steps are in memory together


@dataclass
class Regions:
    """The regions of an explanation in n images, and what is said about each.

    masks: bool [n, L, h, w], empty where an image has fewer. embedded: float32 [n, L, c], the region's red-circle
    prompts. descriptors: int64 [n, L], the descriptor of each region, -1 for none.
    """

    masks: torch.Tensor
    embedded: torch.Tensor
    descriptors: torch.Tensor

    def shown(self):
        """How many regions each image has: int64 [n]."""
        return self.masks.flatten(2).any(2).sum(1).numpy()

    def at(self, indices):
        """Those of the images at `indices`."""
        return Regions(self.masks[indices], self.embedded[indices], self.descriptors[indices])


# --- the explanations


def by_parts(clip, data, method, parts, setting, group, seed):
    """Parts by "pca" or "kmeans" with the first descriptor of each: `Regions`."""
    read_at = foreground.setting_of(clip, published=setting == "published")
    found = explain.find(clip, data, method, parts, setting=read_at, group=group, seed=seed)
    ids, _, _ = explain.name_parts(clip, data, found, per_part=1)
    return Regions(one_each(found.label_maps, parts) & found.present[:, :, None, None], found.embedded, ids[:, :, 0])


def one_each(label_maps, count):
    """Label maps int [n, h, w], -1 outside, as one mask for each label: bool [n, count, h, w]."""
    return label_maps[:, None] == torch.arange(count)[:, None, None]


def by_baseline(clip, data, method, model, parts, how, threshold):
    """What a trained baseline looks at, with the descriptor that it names there: `Regions`."""
    masks, descriptors, embedded = [], [], []
    for start in range(0, len(data), 8 * CHUNK):
        pixels = clip.pixels(data.image(i) for i in range(start, min(start + 8 * CHUNK, len(data))))
        features, grid = clip.patch_features(pixels, how["feature"], how["layer"])
        name = name_channels if method == "feature_maps" else name_attention
        found, named = name(model, features, parts, threshold)
        masks.append(found.unflatten(2, grid).cpu())
        descriptors.append(named.cpu())
        embedded.append(embed_regions(clip, pixels, masks[-1]).cpu())
    return Regions(torch.cat(masks), torch.cat(embedded), torch.cat(descriptors))


def name_attention(model, features, parts, threshold):
    """Where the descriptors that add most to the predicted class look: masks bool [n, L, P], descriptors int64 [n, L].

    The paper does not say how attention becomes a region: here as in Feature Maps, near its maximum over the patches.
    """
    amounts, _, attention = bottlenecks.contributions(model, features)
    chosen = amounts.topk(min(parts, amounts.shape[1]), dim=1).indices
    maps = attention.gather(1, chosen[:, :, None].expand(-1, -1, attention.shape[2]))
    return bottlenecks.near_maximum(maps, threshold), chosen


def name_channels(model, features, parts, threshold):
    """The strongest channels' regions and what the labeler calls them: as `name_attention`."""
    masks, _ = bottlenecks.prominent_channels(features, min(parts, features.shape[2]), threshold)
    with torch.inference_mode():
        return masks, model(bottlenecks.masked_mean(features.float(), masks)).argmax(2)


def embed_regions(clip, pixels, masks):
    """Joint embedding of regions that may overlap: bool [n, L, h, w] -> float32 [n, L, c], zero for an empty one.

    Regions of an image that are the same, as when several descriptors look at one place, are embedded once.
    """
    image, mask, where = faithfulness.distinct(masks)
    return explain.embed_parts(clip, pixels[image], mask.long() - 1, 1)[0][:, 0][torch.from_numpy(where)]


def by_truth(clip, data, parts):
    """The largest visible parts of each animal, each with the descriptor nearest to it: `Regions` (bestiary only)."""
    maps = torch.stack([largest_parts(data.part_masks(i), parts) for i in range(len(data))])
    embedded = []
    for start in range(0, len(data), 8 * CHUNK):
        span = range(start, min(start + 8 * CHUNK, len(data)))
        embedded.append(explain.embed_parts(clip, clip.pixels(data.image(i) for i in span), maps[span], parts)[0].cpu())
    embedded = torch.cat(embedded)
    nearest = (embedded.to(clip.device) @ baselines.queries(clip, data).T).argmax(2).cpu()
    return Regions(one_each(maps, parts), embedded, nearest)


def largest_parts(masks, count):
    """Label map int64 [H, W] of the `count` largest of the named masks bool [H, W], -1 elsewhere."""
    found = sorted(masks.values(), key=lambda mask: -mask.sum())[:count]
    label_map = torch.full(next(iter(masks.values())).shape, -1)
    for k, mask in enumerate(found):
        label_map[torch.from_numpy(mask)] = k
    return label_map


def explanations(
    clip, data, train, how, parts=5, setting="default", group="label", threshold=0.9, seed=0, indices=None
):
    """The regions of all five explanations: dict of name to `Regions`.

    train, how: `baselines.train_split` and `recipe`. indices: only those of some images; parts are found among all.
    """
    indices, found = np.arange(len(data)) if indices is None else indices, {}
    for method in TRAINED:
        model = baselines.load(method, clip, train, how)
        found[method] = by_baseline(clip, data.subset(indices), method, model, parts, how, threshold)
    for method in OURS:
        found[method] = by_parts(clip, data, method, parts, setting, group, seed).at(indices)
    return found


# --- their evaluation


def order(clip, data, regions, rank):
    """The masks of each explanation in the order in which they are blurred: dict of name to bool [n, L, h, w]."""
    image, texts = clip.embed_images(data).cpu(), clip.embed_texts(data.bank).cpu()
    scores = {
        name: faithfulness.rank_scores(image, r.embedded, texts[r.descriptors.clamp(min=0)], rank)
        for name, r in regions.items()
    }
    return {name: faithfulness.ranked(r.masks, scores[name])[0] for name, r in regions.items()}


def steps_of(masks, start="whole"):
    """Where the image is blurred in deletion and in insertion, for each explanation: dict of name to two masks.

    masks: from `order`. The result is what `follow` takes.
    """
    return {name: faithfulness.blur_masks(faithfulness.cumulative(m), start) for name, m in masks.items()}


def follow(clip, data, steps, blur=1.2, batch_size=64):
    """Deletion and insertion of each explanation, dict of name to (Path, Path); and the Path of its two ends.

    steps: dict of name to two masks bool [n, L + 1, h, w], see `steps_of`. Images are read once, `CHUNK` at a time.
    """
    weights = heads.classifier(clip, data.classes, data.templates)
    targets, kernel = explain.predictions(clip, data), faithfulness.kernel_width(clip.image_size, blur)
    pieces = []
    for begin in range(0, len(data), CHUNK):
        span = range(begin, min(begin + CHUNK, len(data)))
        pixels = clip.pixels(data.image(i) for i in span).to(clip.device)
        masks = [torch.tensor([False, True]).view(1, 2, 1, 1).expand(len(span), -1, -1, -1)]
        masks += [mask[span] for pair in steps.values() for mask in pair]
        pieces.append(
            faithfulness.follow(
                pixels,
                masks,
                lambda x: clip.embed_pixels(x, batch_size) @ weights.T,
                targets[span],
                kernel,
                clip.logit_scale,
                batch_size,
            )
        )
    whole = [
        faithfulness.Path(*map(np.concatenate, zip(*map(values, p), strict=True))) for p in zip(*pieces, strict=True)
    ]
    return dict(zip(steps, zip(whole[1::2], whole[2::2], strict=True), strict=True)), whole[0]


def values(path):
    return path.score, path.probability, path.winner


def measures(paths, shown, data, targets, score="cosine", short="hold", correct="label"):
    """Deletion, insertion, accuracy drop and accuracy increase of one explanation: dict of float [n].

    paths: (Path, Path) from `follow`. score: "cosine" (2.5 x cosine) or "probability". correct: accuracy against the
    "label", or against what the model "predicted" of the intact image, which needs no labels.
    """
    faithfulness.require(score=score, correct=correct)
    wanted = data.labels if correct == "label" else targets
    curves = [p.score if score == "cosine" else p.probability for p in paths] + [p.correct(wanted) for p in paths]
    keys = ("deletion", "insertion", "acc_drop", "acc_inc")
    return {key: faithfulness.area(curve, shown, short) for key, curve in zip(keys, curves, strict=True)}


def row(
    clip,
    data,
    parts=5,
    rank="product",
    score="cosine",
    blur=1.2,
    start="whole",
    short="hold",
    correct="label",
    threshold=0.9,
    random_regions="shifted",
    setting="default",
    group="label",
    train_data="",
    train_limit=0,
    seed=0,
    **options,
):
    """Table 1 for `clip`, image by image: the four `MEASURES` of each explanation, and of random regions of its areas.

    The options are those of `faithfulness`, `measures` and `explain.find`; of the trained ones, `baselines.recipe`.
    Metrics NAME_of EXPLANATION ("deletion_pca"), of its control ("deletion_pca_random"), how much better it is than
    that ("deletion_pca_gain", positive is good), the share of the image that it covers (%) and its number of regions.
    Arrays: the curves, the covered shares, and the regions of the first images. Paper Table 1, appendix E.
    """
    chosen = {"rank": rank, "score": score, "start": start, "short": short, "correct": correct}
    faithfulness.require(**chosen, random_regions=random_regions)
    if group == "label" or correct == "label":
        baselines.require_labels(data)
    train, how = trained_on(clip, data, setting, train_data, train_limit, seed, options)
    prepared = explanations(clip, data, train, how, parts, setting, group, threshold, seed)
    if data.name == "bestiary":  # only there are they known
        prepared[TRUE] = by_truth(clip, data, parts)
    masks = order(clip, data, prepared, rank)
    random = {f"{name}_random": faithfulness.control(m, random_regions, seed) for name, m in masks.items()}
    paths, ends = follow(clip, data, steps_of(masks | random, start), blur)
    targets = explain.predictions(clip, data)
    metrics = {"intact_score": ends.score[:, 0], "blurred_score": ends.score[:, 1]}
    hits = np.where(np.asarray(data.labels)[:, None] >= 0, 100.0 * ends.correct(data.labels), np.nan)
    metrics |= {"top1": hits[:, 0], "blurred_top1": hits[:, 1]}
    arrays = {"ends": ends.score, "ends_correct": ends.correct(data.labels)}
    for name in masks:
        shown, covered = prepared[name].shown(), faithfulness.covered_share(masks[name]).numpy()
        for kind in (name, f"{name}_random"):
            found = measures(paths[kind], shown, data, targets, score, short, correct)
            metrics |= {f"{key}_{kind}": value for key, value in found.items()}
            for what, path in zip(("deletion", "insertion"), paths[kind], strict=True):
                arrays[f"{what}_{kind}"] = path.score.astype(np.float32)
                arrays[f"{what}_correct_{kind}"] = path.correct(data.labels).astype(np.float32)
        for key, good in MEASURES.items():
            metrics[f"{key}_{name}_gain"] = good * (metrics[f"{key}_{name}"] - metrics[f"{key}_{name}_random"])
        metrics |= {f"area_{name}": 100.0 * covered[:, -1], f"shown_{name}": shown.astype(float)}
        arrays |= {f"covered_{name}": covered, f"regions_{name}": masks[name][:4].numpy()}
    metrics |= {f"{key}_ours_above": ours_above(metrics, key) for key in MEASURES}
    metrics["insertion_trained_above"] = -ours_above(metrics, "insertion", max)
    kernel = faithfulness.kernel_width(clip.image_size, blur)
    return {"metrics": metrics, "arrays": arrays, "notes": {"kernel": kernel, "image_size": clip.image_size}}


def trained_on(clip, data, setting, train_data, train_limit, seed, options):
    """What the baselines are trained on, and how: (ImageDataset, recipe)."""
    data.require_descriptors(every_class=False)
    train = baselines.train_split(data, train_data, train_limit, seed)
    return train, baselines.recipe(clip, train, facet=setting, seed=seed, **options)


def ours_above(metrics, key, chosen=min):
    """By how much the worse of `OURS` (with `chosen` max the better) beats the best of `TRAINED`: float [n]."""
    good = MEASURES[key]
    mean = {name: good * metrics[f"{key}_{name}"].mean() for name in (*TRAINED, *OURS)}
    ours, theirs = chosen(OURS, key=mean.get), max(TRAINED, key=mean.get)
    return good * (metrics[f"{key}_{ours}"] - metrics[f"{key}_{theirs}"])


# --- how much hangs on the definitions

DEFAULTS = {
    "blur": 1.2,
    "start": "whole",
    "rank": "product",
    "threshold": 0.9,
    "score": "cosine",
    "short": "hold",
    "correct": "label",
}
CHANGES = {
    "default": {},
    "blur 0.15": {"blur": 0.15},
    "blur 0.6": {"blur": 0.6},
    "insertion from blurred parts": {"start": "parts"},
    "ranked by the part alone": {"rank": "part"},
    "regions at half the maximum": {"threshold": 0.5},
    "probability instead of cosine": {"score": "probability"},
    "curves stop at the last part": {"short": "stop"},
    "accuracy against the prediction": {"correct": "predicted"},
}
VARIANTS = {name: DEFAULTS | changes for name, changes in CHANGES.items()}


def definitions(
    clip, data, images=48, parts=5, setting="default", group="label", train_data="", train_limit=0, seed=0, **options
):
    """The four measures under each of `VARIANTS`, on `images` of the data: metrics "deletion_pca@VARIANT" and so on.

    Options as in `row`. The parts are found among all images of a class, also where few are evaluated.
    """
    baselines.require_labels(data)
    train, how = trained_on(clip, data, setting, train_data, train_limit, seed, options)
    indices = spread(data.labels, images, seed) if 0 < images < len(data) else np.arange(len(data))
    some, shown, steps = data.subset(indices), {}, {}
    for threshold in dict.fromkeys(asked["threshold"] for asked in VARIANTS.values()):
        found = explanations(clip, data, train, how, parts, setting, group, threshold, seed, indices)
        shown[threshold] = {name: regions.shown() for name, regions in found.items()}
        for variant, asked in VARIANTS.items():
            if asked["threshold"] == threshold:  # all variants of a blur are followed together
                pairs = steps_of(order(clip, some, found, asked["rank"]), asked["start"])
                steps.setdefault(asked["blur"], {}).update({(variant, name): pair for name, pair in pairs.items()})
    targets, metrics = explain.predictions(clip, some), {}
    for blur, pairs in steps.items():
        for (variant, name), paths in follow(clip, some, pairs, blur)[0].items():
            asked = VARIANTS[variant]
            said = (asked["score"], asked["short"], asked["correct"])
            values = measures(paths, shown[asked["threshold"]][name], some, targets, *said)
            metrics |= {f"{measure}_{name}@{variant}": value for measure, value in values.items()}
    return {"metrics": metrics, "arrays": {}, "notes": {"images": len(some)}}
