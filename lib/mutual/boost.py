"""Table 2: classification by description, and what it gains from the concepts that the method finds.

An image's score for a class is its mean similarity to the sentences that join the class with each of its
descriptors (Menon & Vondrick 2023). The paper adds, to each class, descriptors found in the images of the two classes
nearest to it in the language space. Its protocol takes those images from the evaluated set, by their true labels, and
leaves some classes out by a rule that is not given. Beside it stand variants that read fewer labels, and controls.
"""

import numpy as np
import torch
from torch.nn import functional as F

from lib.data import load as load_images
from lib.errors import UserError
from lib.models import heads
from lib.mutual.explain import explain, predictions

VERSION = 1  # raise it when a row's numbers change
PROMPTS = {
    "paper": "how can you identify a {name}. Distinctive and physical features describing it is {descriptor}",
    "has": "{name}, which has {descriptor}.",  # in the manner of Menon & Vondrick
    "caption": "a photo of a {name} with {descriptor}.",  # in the manner of the miniature's captions
    "nameless": "a photo showing {descriptor}",  # the descriptor alone
}
AGGREGATIONS = ("similarities", "embeddings")
SOURCES = ("neighbours", "own")
KEPT = (1, 2, 3, 5, 10, 0)  # how many of a class's finds are handed on, in the sweep; 0 is all
DRAWS = 3  # of the random controls


def prompt_of(data, prompt="auto"):
    """The sentence for a class and a descriptor, with {name} and {descriptor}: str.

    "auto" is the paper's (appendix K), and at the miniature one of its captions' manner: the paper's is longer than
    the miniature's text tower reads, so that the descriptor would be cut off. Raises UserError for another name.
    """
    if prompt == "auto":
        prompt = "caption" if data.name == "bestiary" else "paper"
    if prompt not in PROMPTS:
        raise UserError(f"The prompt '{prompt}' is unknown; choose 'auto' or one of {', '.join(PROMPTS)}.")
    return PROMPTS[prompt]


def sentences(data, sets, prompt):
    """The sentences of each class. sets: descriptor numbers of each class, list of lists -> list of lists of str."""
    bank = data.bank
    return [
        [prompt.format(name=name, descriptor=bank[d]) for d in chosen]
        for name, chosen in zip(data.classes, sets, strict=True)
    ]


def own_sets(data, share=1.0, seed=0):
    """The descriptors that the bank gives each class, as numbers into `data.bank`: list of lists.

    share: only this part of each class's list, drawn at random, one at least: a describer who forgets the rest.
    """
    if not 0 < share <= 1:
        raise UserError(f"share = {share} was given; expected a part of each class's descriptors above 0, up to 1.")
    number = {text: i for i, text in enumerate(data.bank)}
    rng, sets = np.random.default_rng([seed, 51]), []
    for texts in data.descriptors:
        every = [number[text] for text in dict.fromkeys(texts)]
        kept = rng.permutation(len(every))[: max(1, round(share * len(every)))]
        sets.append([every[i] for i in sorted(kept)])
    return sets


def classifier(texts, embeddings, aggregate="similarities"):
    """Classifier float32 [classes, c] of which an image's product is its score.

    texts: list of lists of str; embeddings: dict of text to float32 [c] of norm 1. "similarities": the mean of the
    similarities to a class's sentences, which is the product with their mean; "embeddings": that mean scaled to
    norm 1. Every class needs a sentence.
    """
    if aggregate not in AGGREGATIONS:
        raise UserError(f"Scores were to be aggregated by '{aggregate}'; choose one of {', '.join(AGGREGATIONS)}.")
    weights = torch.stack([torch.stack([embeddings[text] for text in of]).mean(0) for of in texts])
    return F.normalize(weights, dim=1) if aggregate == "embeddings" else weights


def neighbours(by_class, count=2):
    """The `count` classes nearest to each in the language space: int64 [classes, count].

    by_class [classes, c] of norm 1. Paper section 4. Raises UserError when there are not that many other classes.
    """
    if not 1 <= count < len(by_class):
        raise UserError(f"{count} neighbours were asked for among {len(by_class)} classes; give from 1 to one fewer.")
    similarity = by_class @ by_class.T
    similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(count, dim=1).indices.cpu().numpy()


def found_sets(vision_ids, classes_of_images, classes, keep=5):
    """The descriptors found in the images of each class, most frequent first: list of lists of int.

    vision_ids int [n, N], -1 pads; classes_of_images int [n]; keep: at most so many a class, 0 for all. Of equally
    frequent ones the lower number comes first.
    """
    if keep < 0:
        raise UserError(f"keep = {keep} was given; expected a number of descriptors a class, or 0 for all.")
    ids, found = np.asarray(vision_ids), []
    for k in range(classes):
        own = ids[np.asarray(classes_of_images) == k]
        values, counts = np.unique(own[own >= 0], return_counts=True)
        ranked = values[np.lexsort((values, -counts))].tolist()
        found.append(ranked[:keep] if keep else ranked)
    return found


def enlarged(sets, found, sources):
    """Each class's own descriptors and those found for its sources, none twice: list of lists of int.

    sets, found: list of lists; sources int [classes, m]: the classes whose finds a class gets.
    """
    return [
        list(dict.fromkeys([*own, *(d for s in given for d in found[s])]))
        for own, given in zip(sets, np.asarray(sources).tolist(), strict=True)
    ]


def random_sources(nearest, rng):
    """For each class as many other classes, neither itself nor one of its neighbours: int64 like `nearest`."""
    classes, count = nearest.shape
    drawn = []
    for k, near in enumerate(nearest):
        others = np.setdiff1d(np.arange(classes), [k, *near])
        others = others if len(others) >= count else np.setdiff1d(np.arange(classes), [k])
        drawn.append(rng.choice(others, count, replace=False))
    return np.stack(drawn)


def random_additions(sets, larger, bank, rng):
    """As many descriptors added as in `larger`, but drawn from those of the bank that a class lacks."""
    found = []
    for own, grown in zip(sets, larger, strict=True):
        others = np.setdiff1d(np.arange(bank), own)
        found.append([*own, *rng.choice(others, len(grown) - len(own), replace=False).tolist()])
    return found


def gains(base, boosted, labels):
    """Images gained when one class alone is boosted, for each class: int64 [classes].

    base, boosted float [n, classes] (scores); labels int [n]. For the rule that leaves classes out.
    """
    best = base.topk(2, dim=1)
    labels, right = torch.as_tensor(labels), best.indices[:, 0] == torch.as_tensor(labels)
    changes = []
    for k in range(base.shape[1]):
        rival = torch.where(best.indices[:, 0] == k, best.values[:, 1], best.values[:, 0])
        winner = torch.where(best.indices[:, 0] == k, best.indices[:, 1], best.indices[:, 0])
        now = torch.where(boosted[:, k] > rival, k, winner) == labels
        changes.append(int(now.sum() - right.sum()))
    return np.array(changes)


def row(
    clip,
    data,
    prompt="auto",
    aggregate="similarities",
    keep=5,
    nearest=2,
    part_method="kmeans",
    group="label",
    train_images=3,
    share=1.0,
    seed=0,
):
    """One row of Table 2: top-1, top-5 (%) of each variant and its gain in top-1 over "base", image by image.

    "base": the bank's descriptors. "published": and those found in the evaluated images of the `nearest` classes, by
    true label. "tuned": the same, except for classes that it harms on the evaluated images. "tuned_half": except for
    those that it harms on the other half of them. "half": found in the other half of the images. "own": found in the
    class's own images instead. "train": found in `train_images` training images a class, by true label. "label_free":
    found in training images by predicted class, so that no label is read. "random_classes": of random classes;
    "random": as many drawn from the bank (both are means over draws). `share`: see `own_sets`.
    Paper Table 2, section 4.
    """
    data.require_descriptors()
    finds, near, notes = _finds(clip, data, nearest, part_method, group, train_images, seed)
    half, rng, own = _halves(data.labels, seed), np.random.default_rng([seed, 53]), own_sets(data, share, seed)
    chosen = {"base": own} | {name: _given(own, *finds[name], near, keep) for name in finds}
    ids, labels = finds["published"]
    chosen["own"] = _given(own, ids, labels, np.arange(len(own))[:, None], keep)
    chosen |= {f"half{h}": _given(own, ids, np.where(half == h, labels, -1), near, keep) for h in (0, 1)}
    for k in range(DRAWS):
        chosen[f"random_classes#{k}"] = _given(own, ids, labels, random_sources(near, rng), keep)
        chosen[f"random#{k}"] = random_additions(own, chosen["published"], len(data.bank), rng)
    scores = score(clip, data, chosen, prompt_of(data, prompt), aggregate)
    scores |= _by_halves(scores, data.labels, half)
    metrics = _metrics(scores, data.labels) | _prompts(clip, data, own, aggregate)
    for name in finds:
        metrics[f"added_{name}"] = float(np.mean([len(a) - len(b) for a, b in zip(chosen[name], own, strict=True)]))
    return {"metrics": metrics, "arrays": {}, "notes": notes | {"prompt": prompt_of(data, prompt)}}


def sweep(
    clip,
    data,
    prompt="auto",
    aggregate="similarities",
    keep=5,
    nearest=2,
    part_method="kmeans",
    group="label",
    train_images=3,
    share=1.0,
    seed=0,
):
    """Top-1 gain over "base" for every number of descriptors handed on in `KEPT`: metrics gain_<variant>_<number>.

    Variants "published", "label_free" and "random_classes" and the options are those of `row`; `keep` is not used.
    """
    data.require_descriptors()
    finds, near, notes = _finds(clip, data, nearest, part_method, group, train_images, seed)
    rng, own = np.random.default_rng([seed, 54]), own_sets(data, share, seed)
    finds["random_classes"] = finds["published"]
    chosen = {"base": own}
    for name in [n for n in finds if n != "train"]:
        for n in KEPT:
            sources = random_sources(near, rng) if name == "random_classes" else near
            chosen[f"{name}_{n}"] = _given(own, *finds[name], sources, n)
    metrics = _metrics(score(clip, data, chosen, prompt_of(data, prompt), aggregate), data.labels)
    return {"metrics": {k: v for k, v in metrics.items() if k.startswith("gain_")}, "arrays": {}, "notes": notes}


def score(clip, data, chosen, sentence, aggregate="similarities"):
    """Scores of all images under each variant: dict of float32 [n, classes]. chosen: variant -> descriptor sets."""
    texts = {name: sentences(data, sets, sentence) for name, sets in chosen.items()}
    every = sorted({text for variant in texts.values() for of in variant for text in of})
    embedded = dict(zip(every, clip.embed_texts(every), strict=True))
    images = clip.embed_images(data)
    return {name: (images @ classifier(of, embedded, aggregate).T).cpu() for name, of in texts.items()}


def _given(own, ids, classes_of_images, sources, keep):
    return enlarged(own, found_sets(ids, classes_of_images, len(own), keep), sources)


def _finds(clip, data, nearest, part_method, group, train_images, seed):
    """Descriptors of images and the class each image counts for, by variant; each class's neighbours; notes."""
    near = neighbours(heads.classifier(clip, data.classes, data.templates), nearest)
    ids = explain(clip, data, (part_method,), group=group, seed=seed).vision_ids[part_method]
    finds = {"published": (ids, data.labels if group == "label" else predictions(clip, data))}
    try:
        train = load_images(data.name, split="train", seed=seed, images=train_images * len(data.classes))
    except UserError as error:  # a folder of one's own has no training images: these variants have no value then
        return finds, near, {"train": str(error)}
    found = explain(clip, train, (part_method,), group="predicted", seed=seed)
    ids = found.vision_ids[part_method]
    finds |= {"train": (ids, train.labels), "label_free": (ids, found.predicted)}
    return finds, near, {"train": f"{len(train)} images"}


def _halves(labels, seed):
    """Half 0 or 1 of each image, every class split evenly: int64 [n]."""
    order = np.random.default_rng([seed, 52]).permutation(len(labels))
    half, seen = np.zeros(len(labels), np.int64), {}
    for i in order:
        half[i] = seen.get(labels[i], 0) % 2
        seen[labels[i]] = seen.get(labels[i], 0) + 1
    return half


def _by_halves(scores, labels, half):
    """The variants that look at one half of the images and are tried on the other, and the rule tuned on all."""
    crossed = torch.where(torch.from_numpy(half == 0)[:, None], scores.pop("half1"), scores.pop("half0"))
    base, boosted = scores["base"], scores["published"]
    tuned = torch.where(torch.from_numpy(gains(base, boosted, labels) >= 0), boosted, base)
    held_out = base.clone()
    for h in (0, 1):
        seen, other = np.flatnonzero(half == h), np.flatnonzero(half != h)
        keep = torch.from_numpy(gains(base[seen], boosted[seen], labels[seen]) >= 0)
        held_out[other] = torch.where(keep, boosted[other], base[other])
    return {"half": crossed, "tuned": tuned, "tuned_half": held_out}


def _metrics(scores, labels):
    """top1, top5 and gain of each variant, image by image; the draws of a control ("name#draw") averaged."""
    hits = {}
    for name, values in scores.items():
        for k, what in ((1, "top1"), (min(5, values.shape[1]), "top5")):
            right = 100.0 * heads.top_k_hits(values, labels, k).float().numpy()
            hits.setdefault(f"{what}_{name.partition('#')[0]}", []).append(right)
    found = {name: np.mean(values, axis=0) for name, values in hits.items()}
    base = found["top1_base"]
    return found | {f"gain_{n[5:]}": v - base for n, v in found.items() if n.startswith("top1_") and n != "top1_base"}


def _prompts(clip, data, own, aggregate):
    """Top-1 (%) of the bank's descriptors under each sentence, and of the class names alone."""
    found = {}
    for name, sentence in PROMPTS.items():
        right = heads.top_k_hits(score(clip, data, {name: own}, sentence, aggregate)[name], data.labels)
        found[f"prompt_{name}"] = 100.0 * right.float().numpy()
    names = clip.embed_images(data) @ heads.classifier(clip, data.classes, data.templates).T
    return found | {"zero_shot": 100.0 * heads.top_k_hits(names, data.labels).float().cpu().numpy()}
