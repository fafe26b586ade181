"""One row of Table 3: accuracy, mutual knowledge (MI) and its dynamics (AUC) of one model, beside what chance gives."""

import numpy as np

from lib.errors import UserError
from lib.mutual import foreground, information
from lib.mutual.explain import explain, find

VERSION = 1  # raise it when a row's numbers change: records of another version are computed anew
NULL_DRAWS = 20
# The switches between paper and released code, as the released notebook has them (page "method" says what each does).
SWITCHES = {
    "top_u": 0,
    "parts": 5,
    "per_part": 3,
    "measure": "released",
    "removal": "dummy",
    "setting": "default",
    "scope": "class",
    "components": "released",
    "candidate_rule": "intersection",
    "relevance_rule": "released",
    "matching_method": "transport",
    "top": 500,
    "group": "label",
    "crf": False,
}


def language_size(data, top_u=0):
    """How many descriptors the language side lists: `top_u`, or for 0 the default of this bank.

    50 in the released notebook, for a bank of thousands. A small bank would be half used up by 50: there it is the
    number of descriptors that an average class has.
    """
    if top_u:
        return top_u
    return 50 if len(data.bank) >= 500 else round(np.mean([len(texts) for texts in data.descriptors]))


def wrong_classes(predicted, classes, draws, rng):
    """For each image `draws` classes that were not predicted: int64 [draws, n]."""
    return (predicted + rng.integers(1, classes, (draws, len(predicted)))) % classes


def random_lists(ids, bank, rng):
    """Each image's list replaced by as many distinct descriptors drawn from the bank: int64 like `ids`, -1 pads."""
    width = ids.shape[1]
    drawn = rng.permuted(np.tile(np.arange(bank), (len(ids), 1)), axis=1)[:, :width]
    drawn = np.pad(drawn, ((0, 0), (0, width - drawn.shape[1])), constant_values=-1)  # a bank smaller than the lists
    return np.where(np.asarray(ids) >= 0, drawn, -1)


def scores(vision_ids, language_ids, measure, removal, length):
    """MI and AUC of each image: (float [n], float [n])."""
    return information.image_scores(information.curves(vision_ids, language_ids, measure, removal), length)


def nulls(found, ids, top_u, measure, removal, length, seed):
    """What chance gives each image, averaged over draws: dict of float [n].

    "wrong_class": the image's own descriptors against the language side of a class that was not predicted.
    "random": as many descriptors drawn from the bank against the predicted class. For each the mi, the auc, the
    matches and the rank of the last one.
    """
    rng = np.random.default_rng([seed, 31])
    language, ids = found.language_ids(top_u), np.asarray(ids)
    classes = wrong_classes(found.predicted, len(found.language_scores), NULL_DRAWS, rng)
    pairs = {
        "wrong_class": [(ids, found.language_ids(top_u, c)) for c in classes],
        "random": [(random_lists(ids, len(found.bank), rng), language) for _ in classes],
    }
    chance = {}
    for name, drawn in pairs.items():
        values = [(*scores(*pair, measure, removal, length), *counts(*pair)) for pair in drawn]
        keys = ("mi", "auc", "matches", "last_hit")
        chance |= {f"{key}_{name}": mean for key, mean in zip(keys, np.mean(values, axis=0), strict=True)}
    return chance


def counts(vision_ids, language_ids):
    """Matches of each image and the rank of the last one: (int [n], int [n])."""
    return information.overlap_counts(vision_ids, language_ids)[2], information.last_hit(vision_ids, language_ids)


def row(
    clip,
    data,
    top_u=0,
    measure="released",
    removal="dummy",
    parts=5,
    per_part=3,
    setting="default",
    seed=0,
    **options,
):
    """Everything Table 3 says about `clip`, and what it leaves out.

    `measure` and `removal`: see `information`; `options`: see `explain`; `setting`: read the foreground where it
    localises best ("default") or where the released notebook does ("published"). Metrics are given image by image, so
    that the record can resample them: top1, top5; for pca and kmeans the mi, auc, their chance levels, the overlap k,
    whether there was any match, and the rank of the last one. Arrays: the curves. Paper Table 3, section 3.3.
    """
    if setting not in ("default", "published"):
        raise UserError(f"The foreground setting '{setting}' is unknown; choose 'default' or 'published'.")
    read_at = foreground.setting_of(clip, published=setting == "published")
    found = explain(clip, data, parts=parts, per_part=per_part, setting=read_at, seed=seed, **options)
    top_u = min(language_size(data, top_u), len(found.bank))
    language, length = found.language_ids(top_u), parts * per_part + 1
    metrics = {"top1": 100.0 * (found.predicted == found.labels), "top5": 100.0 * found.top5}
    arrays = {"predicted": found.predicted, "labels": found.labels, "language": np.asarray(language)}
    for name, ids in found.vision_ids.items():
        curves = information.curves(ids, language, measure, removal)
        mi, auc = information.image_scores(curves, length)
        n, _, k = information.overlap_counts(ids, language)
        values = {"mi": mi, "auc": auc, "concepts": n, "matches": k, "hit": 100.0 * (k > 0)}
        values["last_hit"] = information.last_hit(ids, language)
        values["few_candidates"] = 100.0 * found.few_candidates[name]
        chance = nulls(found, ids, top_u, measure, removal, length, seed)
        values |= chance
        arrays |= {f"{key}_{name}": chance[key].astype(np.float32) for key in ("mi_wrong_class", "auc_wrong_class")}
        metrics.update({f"{key}_{name}": value for key, value in values.items()})
        arrays[f"curves_{name}"] = information.padded(curves, length).astype(np.float32)
        arrays[f"ids_{name}"] = np.asarray(ids)
    for key in ("mi", "auc"):
        metrics[key] = np.mean([metrics[f"{key}_{name}"] for name in found.vision_ids], axis=0)
    arrays["curves"] = np.mean([arrays[f"curves_{name}"] for name in found.vision_ids], axis=0)
    metrics["foreground"] = 100.0 * found.foreground
    metrics["no_foreground"] = 100.0 * (found.foreground == 1)
    if data.name == "bestiary":  # only there is the true animal known
        where = {key: options[key] for key in ("scope", "components", "group", "crf") if key in options}
        maps = find(clip, data, next(iter(found.vision_ids)), parts, setting=read_at, seed=seed, **where).label_maps
        iou = foreground.intersection_over_union(maps >= 0, foreground.animals(data, range(len(data))))
        published = foreground.setting_of(clip, published=True)
        metrics["foreground_iou"] = 100.0 * iou
        metrics["foreground_iou_published"] = 100.0 * foreground.localisation(clip, data, published)
    notes = {
        "top_u": top_u,
        "bank": len(found.bank),
        "foreground": read_at,
        "measure": measure,
        "removal": removal,
    }
    return {"metrics": metrics, "arrays": arrays, "notes": notes}


def seed_spread(
    clip, data, seeds=3, top_u=0, measure="released", removal="dummy", parts=5, per_part=3, seed=0, **options
):
    """MI and AUC by K-means under `seeds` seeds: each one's mean, and the range over seeds.

    The paper reports a range of 0.03 for the MI of its ResNets over two more seeds (checklist). Options as in `row`.
    """
    setting = foreground.setting_of(clip, published=options.pop("setting", "default") == "published")
    size, metrics, means = min(language_size(data, top_u), len(data.bank)), {}, {"mi": [], "auc": []}
    for k in range(seeds):
        found = explain(
            clip, data, ("kmeans",), parts=parts, per_part=per_part, setting=setting, seed=seed + k, **options
        )
        values = scores(found.vision_ids["kmeans"], found.language_ids(size), measure, removal, parts * per_part + 1)
        for name, images in zip(("mi", "auc"), values, strict=True):
            metrics[f"{name}_seed{seed + k}"] = images
            means[name].append(images.mean())
    metrics.update({f"{name}_range": float(np.ptp(found)) for name, found in means.items()})
    return {"metrics": metrics, "arrays": {}, "notes": {"seeds": seeds}}


def by_measure(arrays, measures=information.MEASURES, removal="dummy", parts="kmeans"):
    """MI and AUC of the same explanations under each information measure: dict of measure to (mi [n], auc [n])."""
    ids, language = arrays[f"ids_{parts}"], arrays["language"]
    return {m: scores(ids, language, m, removal, ids.shape[1] + 1) for m in measures}
