"""Rows about neurons whose truth is known: those of the last layer, each of which stands for a class."""

import numpy as np
import torch

from lib.data import spread
from lib.dissection import evaluation, inputs, matrix, similarity
from lib.dissection.setting import (
    Setting,
    auc_interval,
    best,
    constants,
    functions,
    listed,
    rows_of,
    scored,
    shows,
    stability,
)
from lib.models import heads

VERSION = 1  # raise it when rows come out different: it is part of every record's key
CLASSES = ("species", "classes", "imagenet_labels")  # concept sets in the order of the classes
HELD_OUT = "v2"  # the split of the bestiary on which neurons are tested with their labels


def row(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    judge="ViT-L-14",
    probes="val,web,habitat,sketch",
    concepts="species,descriptors,words",
    similarities="all",
    prompt="{}",
    probe_images=0,
    top_k=0,
    ties="first",
    resamples=30,
):
    """A row of Tables 1 and 3. Metrics are named "what/probe/concepts/similarity".

    top1, top5 (%) and rank: of the class name, where the concepts are the class names; auc: of the best score as a sign
    of a right label; true (%): whether the class has the described trait; clip_cos and judge_cos: cosine of label and
    class name in the text space of the probing CLIP and of the judge; correlation and auprc: of the neuron with images
    held out that show its label; stability (%): resamples of the probe "web" with the same label; dead: neurons without
    a label. floor/concepts and judge_floor/concepts: the cosine of a random label. Paper, section 4.2.
    """
    setting = Setting(model, data, clip, judge, prompt, probe_images, seed)
    metrics, arrays, notes = {}, {}, {"concepts": {}, "duplicates": {}, "constants": {}}
    for concept_set in listed(concepts):
        words = _words(setting, concept_set)
        notes["concepts"][concept_set] = len(words["found"])
        notes["duplicates"][concept_set] = inputs.check_concepts(words["found"])
        metrics |= {f"{floor}/{concept_set}": words[floor] for floor in ("floor", "judge_floor") if floor in words}
        for probe in listed(probes):
            images, q = setting.images(probe), setting.final(probe)
            for name in functions(similarities):
                at = f"{probe}/{concept_set}/{name}"
                notes["constants"][f"{probe}/{name}"] = constants(name, len(q), top_k)
                scores = scored(name, images, words["clip"], q, top_k, ties)
                label, score = best(scores)
                found = _metrics(setting, concept_set, words, scores, label, score)
                if resamples and probe == "web" and concept_set != "words":
                    given = (resamples, seed, top_k, ties)
                    found["stability"] = stability(name, images, words["clip"], q, label, *given)
                metrics |= {f"{what}/{at}": value for what, value in found.items()}
                arrays |= {f"label/{at}": label.numpy(), f"score/{at}": score.numpy()}
    metrics["accuracy"] = 100.0 * (setting.final(data.split).argmax(1).numpy() == data.labels)
    return {"metrics": metrics, "arrays": arrays, "notes": notes | setting.notes()}


def _words(setting, concept_set):
    """A concept set with what labels from it are held against: embeddings, floors, presence in held-out images."""
    found, texts = setting.concepts(concept_set)
    classes = setting.texts(setting.data.classes)
    words = {"found": found, "clip": texts, "classes": classes, "floor": evaluation.cosine_floor(texts, classes)}
    if setting.judge:
        judged = {"judge": setting.texts(found, judge=True), "judged": setting.texts(setting.data.classes, judge=True)}
        words |= judged | {"judge_floor": evaluation.cosine_floor(judged["judge"], judged["judged"])}
    if setting.known:
        shown = inputs.present(setting.probe(HELD_OUT), found)
        words |= {"shown": shown} if shown.any() else {}
    return words


def _metrics(setting, concept_set, words, scores, label, score):
    """Metrics of one probe, concept set and similarity: dict of float or [neurons]."""
    data, own = setting.data, torch.arange(len(label))
    metrics = {"dead": float((label < 0).sum()), "best": score.numpy()}
    metrics["clip_cos"] = evaluation.text_cosine(rows_of(label, words["clip"]), words["classes"]).numpy()
    if "judge" in words:
        metrics["judge_cos"] = evaluation.text_cosine(rows_of(label, words["judge"]), words["judged"]).numpy()
    if concept_set in CLASSES and scores.shape[1] == len(data.classes):
        right = (label == own).numpy()
        metrics["top1"] = 100.0 * right
        metrics["top5"] = 100.0 * evaluation.hits(scores, own, min(5, scores.shape[1])).numpy()
        metrics["rank"] = evaluation.ranks(scores, own).double().numpy()
        metrics["auc"] = auc_interval(score, right, setting.seed)
    if concept_set == "descriptors":
        metrics["true"] = 100.0 * holds(label, words["found"], data)
    if "shown" in words:
        tested = evaluation.held_out(setting.final(HELD_OUT), shows(label, words["shown"]))
        metrics |= {what: tested[what] for what in ("correlation", "auprc")}
    return metrics


def holds(label, found, data, classes=None):
    """Whether a label is a descriptor of a class: bool array. classes: int, by default each neuron's own."""
    classes = range(len(label)) if classes is None else classes
    pairs = zip(torch.as_tensor(label).tolist(), classes, strict=True)
    return np.array([k >= 0 and found[k] in data.descriptors[c] for k, c in pairs])


def sizes(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    probe="web",
    per_class="3,6,12,25,50",
    similarities="all",
    prompt="{}",
    top_k=0,
):
    """How many probing images does a similarity need? Metrics "top1/m/similarity": class names (%), m images a class.

    The smaller probes are parts of the larger ones.
    """
    setting = Setting(model, data, clip, "", prompt, seed=seed)
    images, q, texts = setting.images(probe), setting.final(probe), setting.texts(data.classes)
    metrics, own = {}, torch.arange(len(data.classes))
    for m in map(int, listed(per_class)):
        few = spread(setting.probe(probe).labels, min(len(q), m * len(own)), seed)
        for name in functions(similarities):
            label, _ = best(scored(name, images[few], texts, q[few], top_k))
            metrics[f"top1/{m}/{name}"] = 100.0 * (label == own).numpy()
    return {"metrics": metrics, "notes": setting.notes()}


# --- Table 2


def netdissect(q, shown):
    """Network Dissection of neurons without places, a map of one pixel each: IoU float64 [neurons, concepts].

    q float [images, neurons]; shown bool [images, concepts].
    """
    return evaluation.iou(q[:, :, None, None], shown[:, :, None, None])


def against_netdissect(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    judge="ViT-L-14",
    probe="web",
    concepts="species+descriptors",
    prompt="{}",
    probe_images=0,
    top_k=0,
):
    """A row of Table 2: CLIP-Dissect and Network Dissection on the same neurons, probe and concepts.

    The concepts hold more than the class names, as Broden's do. Metrics top1, top5 (%), clip_cos, judge_cos for each of
    "clip_dissect" (SoftWPMI) and "netdissect", which sees the labels of the probe. Paper, section 4.2.
    """
    setting = Setting(model, data, clip, judge, prompt, probe_images, seed)
    found, texts = setting.concepts(concepts)
    q, own = setting.final(probe), torch.tensor([found.index(name) for name in data.classes])
    ways = {
        "clip_dissect": scored("soft_wpmi", setting.images(probe), texts, q, top_k),
        "netdissect": netdissect(q, inputs.present(setting.probe(probe), found)),
    }
    spaces = {"clip_cos": texts, "judge_cos": setting.texts(found, judge=True)}
    metrics, arrays = {}, {}
    for way, scores in ways.items():
        label, _ = best(scores)
        metrics[f"top1/{way}"] = 100.0 * (label == own).numpy()
        metrics[f"top5/{way}"] = 100.0 * evaluation.hits(scores, own, 5).numpy()
        for space, embeddings in spaces.items():
            metrics[f"{space}/{way}"] = evaluation.text_cosine(rows_of(label, embeddings), embeddings[own]).numpy()
        arrays[f"label/{way}"] = label.numpy()
    return {"metrics": metrics, "arrays": arrays, "notes": setting.notes()}


# --- section 4.5: what if images or words of the concept are missing


def missing(
    model, data, seed=0, clip="ViT-B-16", probe="web", similarities="all", prompt="{}", probe_images=0, top_k=0
):
    """A row of the missing-concepts exhibit. Metrics "what/similarity", over neurons:

    present and absent: top-1 (%) among the class names when the probe holds images of the neuron's class, and when they
    are all taken out (a fifth of the classes at a time, so that each is absent once). kin: how many traits the label
    shares with the class when the class's own name is not among the concepts; kin_chance: for a random other class;
    sibling (%): the label is the class's sibling, which differs in two traits. score_word and score_no_word: the best
    score with and without the right word; auc: of that score as a sign that the right word is there.
    """
    setting = Setting(model, data, clip, "", prompt, probe_images, seed)
    texts, images, q = setting.texts(data.classes), setting.images(probe), setting.final(probe)
    labels, own = torch.as_tensor(setting.probe(probe).labels), torch.arange(len(data.classes))
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(own)) % 5)
    shared = torch.from_numpy(shared_traits(data))
    metrics, arrays = {}, {"fold": fold.numpy()}
    for name in functions(similarities):
        scores = scored(name, images, texts, q, top_k)
        label, score = best(scores)
        absent = torch.full_like(label, similarity.DEAD)
        for k in range(5):
            kept = fold[labels] != k
            without = best(scored(name, images[kept], texts, q[kept], top_k))[0]
            absent[fold == k] = without[fold == k]
        others = scores.clone()
        others[own, own] = -torch.inf
        other, lower = best(others)
        metrics |= {
            f"present/{name}": 100.0 * (label == own).numpy(),
            f"absent/{name}": 100.0 * (absent == own).numpy(),
            f"kin/{name}": shared[own, other.clamp(min=0)].double().numpy(),
            f"sibling/{name}": 100.0 * (other == own ^ 1).numpy(),
            f"score_word/{name}": score.numpy(),
            f"score_no_word/{name}": lower.numpy(),
            f"auc/{name}": auc_interval(torch.cat([score, lower]), np.repeat([True, False], len(own)), seed),
        }
        arrays |= {
            f"label/{name}": label.numpy(),
            f"absent_label/{name}": absent.numpy(),
            f"other/{name}": other.numpy(),
        }
    metrics["kin_chance"] = (shared.sum(1) - shared.diagonal()).double().numpy() / (len(own) - 1)
    return {"metrics": metrics, "arrays": arrays, "notes": setting.notes()}


def shared_traits(data):
    """How many descriptors two classes have in common: int64 array [classes, classes]."""
    sets = [set(texts) for texts in data.descriptors]
    return np.array([[len(a & b) for b in sets] for a in sets])


def word_sets(
    model, data, seed=0, clip="ViT-B-16", judge="ViT-L-14", probe="web", prompt="{}", probe_images=0, top_k=0
):
    """SoftWPMI with ever larger concept sets: a further row of the missing-concepts exhibit.

    The sets: common words; those and the descriptors; those and the class names. Metrics "what/set": clip_cos and
    judge_cos (see `row`), floor, judge_floor, and best, the best score.
    """
    setting = Setting(model, data, clip, judge, prompt, probe_images, seed)
    images, q, metrics, arrays = setting.images(probe), setting.final(probe), {}, {}
    for concept_set in ("words", "words+descriptors", "words+descriptors+species"):
        words = _words(setting, concept_set)
        label, score = best(scored("soft_wpmi", images, words["clip"], q, top_k))
        found = _metrics(setting, concept_set, words, None, label, score)
        kept = {what: found[what] for what in ("clip_cos", "judge_cos", "best")}
        kept |= {floor: words[floor] for floor in ("floor", "judge_floor")}
        metrics |= {f"{what}/{concept_set}": value for what, value in kept.items()}
        arrays[f"label/{concept_set}"] = label.numpy()
    return {"metrics": metrics, "arrays": arrays, "notes": setting.notes()}


# --- appendix A.6: the class from a description of its most important neuron


def describe(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    judge="ViT-L-14",
    probe="web",
    concepts="descriptors",
    prompt="{}",
    probe_images=0,
    top_k=0,
):
    """A row of the exhibit on descriptions of classes: for each image, the words of the unit that weighs most.

    Units are the coordinates of what the head reads, and their opposites (a coordinate may speak by being negative).
    The description of an image is the label of the unit with the largest weight x activation for the predicted class;
    the class said by it has the largest 3 x clip + judge cosine to it, the paper's sum. Metrics "what/way" over images,
    for the ways "clip_dissect" (SoftWPMI), "netdissect" and "random" (labels of other units): same_true, same_predicted
    (%): the class said is the image's, the predicted one; holds (%): the predicted class has the described trait.
    """
    setting = Setting(model, data, clip, judge, prompt, probe_images, seed)
    found, texts = setting.concepts(concepts)
    weight, bias = (x.cpu() for x in heads.head(model, data))
    units, signed = torch.cat([weight, -weight], 1), model.embed_images(setting.probe(probe)).cpu()
    q = torch.cat([signed, -signed], 1).clamp(min=0)
    ways = {
        "clip_dissect": best(scored("soft_wpmi", setting.images(probe), texts, q, top_k))[0],
        "netdissect": _alive(netdissect(q, inputs.present(setting.probe(probe), found)).argmax(1), q),
    }
    shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(len(units[0])))
    ways["random"] = ways["clip_dissect"][shuffled]
    said = class_said(setting, found, texts)
    h = model.embed_images(data).cpu()
    h = torch.cat([h, -h], 1).clamp(min=0)
    predicted = (h @ units.T + bias).argmax(1)
    metrics, arrays = {}, {"predicted": predicted.numpy()}
    for way, label in ways.items():
        top = (units[predicted] * h).masked_fill(label < 0, -torch.inf).argmax(1)
        words = label[top]
        metrics |= {
            f"same_true/{way}": 100.0 * (said[words].numpy() == data.labels),
            f"same_predicted/{way}": 100.0 * (said[words] == predicted).numpy(),
            f"holds/{way}": 100.0 * holds(words, found, data, predicted.tolist()),
        }
        arrays |= {f"unit/{way}": top.numpy(), f"label/{way}": words.numpy(), f"said/{way}": said[words].numpy()}
    metrics["accuracy"] = 100.0 * (predicted.numpy() == data.labels)
    return {"metrics": metrics, "arrays": arrays, "notes": setting.notes()}


def class_said(setting, found, texts):
    """The class that each concept is most like, by 3 x clip + judge cosine of texts: int64 [concepts]."""
    near = 3 * texts @ setting.texts(setting.data.classes).T
    if setting.judge:
        near = near + setting.texts(found, judge=True) @ setting.texts(setting.data.classes, judge=True).T
    return near.argmax(1)


def _alive(label, q):
    return torch.where(matrix.dead(q), similarity.DEAD, label)
