"""MI and AUC of a model under each switch between paper and code: which conclusions hang on a choice?

One switch is turned at a time, away from `BASE`. Those that only read the parts anew (`READINGS`) are turned on all
images; those that find the parts anew (`FINDINGS`) cost as much as a row of Table 3 and are turned on the images of
some classes, beside the base on the same images.
"""

import numpy as np

from lib.errors import UserError
from lib.models import heads
from lib.mutual import foreground, information
from lib.mutual.explain import Parts, find, find_all, name_parts
from lib.mutual.table3 import language_size

VERSION = 1  # raise it when a row's numbers change
NAMING = {
    "per_part": 3,
    "top": 500,
    "candidate_rule": "intersection",
    "relevance_rule": "released",
    "method": "transport",
}
COUNTING = {"size": 1.0, "measure": "released", "removal": "dummy", "classes": "predicted"}
BASE = NAMING | COUNTING | {"parts_by": "kmeans"}
# Name of a switch -> what it changes in BASE. "size" is a multiple of the base's number of language-side descriptors;
# "top" below 1 is a share of the bank, since 500 is more than a small bank holds.
READINGS = {
    "parts by PCA": {"parts_by": "pca"},
    "1 descriptor a part": {"per_part": 1},
    "5 descriptors a part": {"per_part": 5},
    "half as long a language list": {"size": 0.5},
    "twice as long a language list": {"size": 2.0},
    "true class's language list": {"classes": "true"},
    "candidates: a quarter of the bank": {"top": 0.25},
    "candidates: of any part": {"top": 0.25, "candidate_rule": "union"},
    "relevance: median + 0.02": {"relevance_rule": "paper"},
    "relevance: no filter": {"relevance_rule": "none"},
    "matching: nearest candidates": {"method": "nearest"},
    "matching: nearest of the bank": {"method": "top"},
    "removal shortens the list": {"removal": "drop"},
    "ln(NM/K), as written": {"measure": "definition"},
    "ln K, consistent": {"measure": "consistent"},
}
FINDINGS = {
    "foreground: released default": {"setting": "published"},
    "decomposed image by image": {"scope": "image"},
    "largest component only": {"components": "largest"},
    "3 parts": {"parts": 3},
    "8 parts": {"parts": 8},
    "groups by prediction": {"group": "predicted"},
    "K-means, another seed": {"seed": 1},
    "keys without their bias": {"feature": "keys_no_bias"},
    "outline by the CRF": {"crf": True},
}
SUBSET = "base, subset"
QUANTITIES = ("mi", "auc", "matches", "above_chance")


def key(switch):
    """A switch's name within a metric's name: letters, digits and "_"."""
    return "".join(c if c.isalnum() else "_" for c in switch.lower())


def row(clip, data, classes=5, parts=5, crf=False, seed=0):
    """mi, auc, matches and above_chance of each image under every switch: metrics <quantity>_<key of the switch>.

    classes: of how many classes, drawn by the seed, the images serve for the switches that find the parts anew (0: of
    all); without a class there the whole data serve. crf: turn that switch too (needs pydensecrf2). A switch that does
    not apply to the model has no value. Also top1.
    """
    base = find_all(clip, data, parts=parts, seed=seed, keep_maps=False)
    world = _World(clip, data)
    metrics = {"top1": 100.0 * (world.predicted == data.labels)}
    for switch, change in ({"base": {}} | READINGS).items():
        options = BASE | change
        metrics |= _named(switch, world.scores(base[options.pop("parts_by")], parts, **options))
    members = subset(data.labels, classes, seed)
    few = data.subset(members)
    world = _World(clip, few)
    own = Parts(*(v if v is None else v[members] for v in vars(base["kmeans"]).values()))
    metrics |= _named(SUBSET, world.scores(own, parts, **NAMING, **COUNTING))
    for switch, change in FINDINGS.items():
        if (change.get("crf") and not crf) or not (options := finding(clip, change, parts, seed)):
            continue
        found = find(clip, few, "kmeans", **options, keep_maps=False)
        metrics |= _named(switch, world.scores(found, options["parts"], **NAMING, **COUNTING))
    return {"metrics": metrics, "arrays": {}, "notes": {"subset": len(few), "size": world.size}}


def finding(clip, change, parts=5, seed=0):
    """Options of `find` for a switch of `FINDINGS`, or None where it does not apply to the model."""
    setting = foreground.setting_of(clip, published=change.get("setting") == "published")
    if change.get("setting") == "published" and setting == foreground.setting_of(clip):
        return None
    if "feature" in change:
        if setting["feature"] != "keys":  # only there is a bias to leave out
            return None
        setting = setting | {"feature": change["feature"]}
    rest = {k: v for k, v in change.items() if k not in ("setting", "feature", "seed")}
    return {"setting": setting, "parts": parts, "seed": seed + change.get("seed", 0)} | rest


def subset(labels, classes, seed=0):
    """Indices of all images of `classes` classes drawn by the seed, 0 for every class: int64, ascending."""
    there = np.unique(labels)
    if classes < 0:
        raise UserError(f"classes = {classes} was given; expected a number of classes, or 0 for all.")
    drawn = np.random.default_rng([seed, 81]).permutation(there)[: classes or None]
    return np.flatnonzero(np.isin(labels, drawn))


class _World:
    """What all switches share: a model's view of the words and of the images' classes."""

    def __init__(self, clip, data):
        self.clip, self.data, self.size = clip, data, min(language_size(data), len(data.bank))
        by_class = heads.classifier(clip, data.classes, data.templates)
        concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
        self.words = (by_class @ concepts.T).cpu()
        self.predicted = (clip.embed_images(data) @ by_class.T).argmax(1).cpu().numpy()

    def scores(self, found, parts, per_part, size, measure, removal, classes, top, **naming):
        """`QUANTITIES` of each image, dict of float [n]."""
        bank = len(self.data.bank)
        top = max(1, round(top * bank)) if top < 1 else top
        _, ids, _ = name_parts(self.clip, self.data, found, per_part=per_part, top=top, **naming)
        size = min(max(1, round(size * self.size)), bank)
        language = information.language_concepts(self.words, np.arange(len(self.words)), size)
        asked = self.predicted if classes == "predicted" else self.data.labels
        curves = information.curves(ids, language[asked], measure, removal)
        mi, auc = information.image_scores(curves, parts * min(per_part, bank) + 1)
        k, chance = shared(ids, language, asked, bank)
        return {"mi": mi, "auc": auc, "matches": k, "above_chance": k - chance}


def shared(ids, language, classes, bank):
    """Matches of each image with its class's language list, and their mean over all other classes: float [n] twice.

    ids int [n, N], -1 pads; language int [classes, M]; classes int [n].
    """
    ids = np.asarray(ids)
    lists = np.zeros((len(language), bank + 1), np.float32)
    np.put_along_axis(lists, np.asarray(language), 1, axis=1)
    counts = np.stack([lists[:, image].sum(1) for image in np.where(ids < 0, bank, ids)]).astype(float)
    own = counts[np.arange(len(ids)), classes]
    return own, (counts.sum(1) - own) / max(len(language) - 1, 1)


def _named(switch, scores):
    return {f"{quantity}_{key(switch)}": values for quantity, values in scores.items()}
