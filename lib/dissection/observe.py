"""What is seen of one target: a line a neuron (or an image) under each condition. Shares are 100 or 0, in per cent."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lib.data import spread
from lib.dissection import evaluation, network, truth
from lib.dissection.judging import held_out, of_class, of_places, right_concept
from lib.dissection.options import Options, listed
from lib.dissection.setting import Setting, Words, named
from lib.dissection.similarity import DEAD, leading
from lib.dissection.top_images import active, dead
from lib.given import Given
from lib.models import heads
from lib.progress import progress
from lib.seeds import rng
from lib.store import Seen

SOFT = "soft_wpmi"  # the paper's own, for what is shown for one similarity only


def neurons(given: Given, options: Options) -> Seen:
    """Neurons with their labels and how right these are: Tables 1 and 3, and hidden layers.

    Lines: layer, depth, probe, concepts, similarity, unit, label, score, dead, active (see `top_images.active`);
    correlation, auprc, auc of the neuron with held-out images that show the label, where these are known. Of last
    neurons the columns of `judging.of_class`, of hidden ones those of `judging.of_places`. notes: accuracy of the
    target on the run's images. Paper, section 4.2.
    """
    setting = Setting(given, options, judged=network.FINAL in listed(options.layers))
    for about, words, q, images in setting.each():
        layer, unit = about["layer"], setting.units(about["layer"], q)
        count = active(q).cpu()[unit]
        for name in options.functions():
            scores = setting.scores(name, q, images, words.clip)[unit]
            label, score = found(scores)
            line, label = labelled(words, label, score), label[:, 0]
            line |= held_out(setting, layer, words, label, unit)
            final = layer == network.FINAL
            line |= of_class(setting, words, scores, label) if final else of_places(setting, layer, words, label)
            setting.add({**about, "similarity": name, "unit": unit, "active": count, **line})
    if network.FINAL in setting.layers:
        right = setting.activity(network.FINAL, "val").argmax(1).cpu().numpy() == setting.images.labels
        setting.notes["accuracy"] = 100.0 * float(right.mean())
    return setting.seen()


def found(scores: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best concepts of each neuron, best first, and the highest score: int64 [neurons, k], float64 [neurons]."""
    label, score = leading(scores, k)
    return label.cpu(), score[:, 0].cpu()


def labelled(words: Words, label: torch.Tensor, score: torch.Tensor) -> dict[str, Any]:
    """Columns label (and second, third), score and dead, of what `found` gives."""
    places = {("label", "second", "third")[k]: named(column, words.texts) for k, column in enumerate(label.T)}
    return places | {"score": score, "dead": label[:, 0] == DEAD}


def labels(given: Given, options: Options) -> Seen:
    """Labels from a probe, and from as many images drawn from it with replacement: how stable are they?

    Lines: layer, depth, probe, concepts, similarity, unit, draw (0 for the probe itself), label, second, third, score,
    dead, active; kept: the label is that of draw 0; right: it is the class name (of last neurons, where that is a
    concept).
    """
    return _drawn(Setting(given, options))


def evidence(given: Given, options: Options) -> Seen:
    """The same, and the neuron on held-out images that show the label of draw 0, these images drawn again too.

    Further columns: correlation, auprc, auc, where it is known what images show.
    """
    return _drawn(Setting(given, options), tested=True)


def _drawn(setting: Setting, tested: bool = False) -> Seen:
    options, seed = setting.options, setting.given.seed
    for about, words, q, images in setting.each():
        unit = setting.units(about["layer"], q)
        own = right_concept(setting, words) if about["layer"] == network.FINAL else None
        for name in options.functions():
            for draw in progress(range(options.resamples + 1), f"{name} again"):
                some = evaluation.drawn(len(q), draw, seed)
                label, score = found(setting.scores(name, q[some], images[some], words.clip)[unit], 3)
                if draw == 0:
                    first = label[:, 0]
                line = labelled(words, label, score) | {"kept": 100.0 * (label[:, 0] == first)}
                line["active"] = active(q[some]).cpu()[unit]
                line["right"] = np.nan if own is None else 100.0 * (label[:, 0] == own)
                line |= held_out(setting, about["layer"], words, first, unit, draw) if tested else {}
                setting.add({**about, "similarity": name, "unit": unit, "draw": draw, **line})
    return setting.seen()


def sizes(given: Given, options: Options) -> Seen:
    """How many probing images does a similarity need? The smaller probes are parts of the larger ones.

    Lines: probe, per_class (images a class), similarity, unit, class, label, right. The concepts are the class names.
    """
    setting = Setting(given, options)
    own, words = setting.own, setting.names
    for probe in setting.probes:
        images, q = setting.embedded(probe), setting.activity(network.FINAL, probe)
        for m in map(int, listed(options.per_class)):
            few = torch.from_numpy(spread(setting.probe(probe).labels, m * len(own), given.seed))
            for name in options.functions():
                label, _ = found(setting.scores(name, q[few], images[few], words.clip)[own])
                about = {"probe": probe, "per_class": m, "similarity": name, "unit": own}
                setting.add(about | _named_right(setting, label[:, 0]))
    return setting.seen()


def _named_right(setting: Setting, label: torch.Tensor) -> dict[str, Any]:
    """Columns class, label and right of last neurons whose concepts are the class names."""
    classes = np.array(setting.images.classes)[setting.own]
    texts = named(label, setting.images.classes)
    return {"class": classes, "label": texts, "right": 100.0 * (classes == np.array(texts))}


def against_netdissect(given: Given, options: Options) -> Seen:
    """CLIP-Dissect and Network Dissection on the same last neurons, probe and concepts: Table 2.

    The concepts hold more than the class names, as Broden's do. Lines: layer, depth, probe, concepts, way
    ("clip_dissect", by SoftWPMI, or "netdissect", which sees the labels of the probe, where these are known), unit,
    label, score, dead, and the columns of `judging.of_class`. Paper, section 4.2.
    """
    setting = Setting(given, options, judged=True)
    for about, words, q, images in setting.each():
        for way, every in _ways(setting, about["probe"], words, q, images):
            scores = every[setting.own]
            label, score = found(scores)
            line = labelled(words, label, score) | of_class(setting, words, scores, label[:, 0])
            setting.add({**about, "way": way, "unit": setting.own, **line})
    return setting.seen()


def _ways(
    setting: Setting, probe: str, words: Words, q: torch.Tensor, images: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, scores [neurons, concepts]) by CLIP-Dissect, and by Network Dissection where it can be run."""
    yield "clip_dissect", setting.scores(SOFT, q, images, words.clip)
    shown = truth.present(setting.probe(probe), words.texts)
    if shown is not None:  # each image is a map of one place
        scores = evaluation.iou(q.float()[:, :, None, None], shown.to(q.device)[:, :, None, None])
        scores[dead(q)] = torch.nan
        yield "netdissect", scores


def missing(given: Given, options: Options) -> Seen:
    """Labels of last neurons when the images or the name of their class are missing: section 4.5 and beyond.

    The concepts are the class names. Lines: probe, similarity, missing ("nothing"; "images": those of the class, a
    fifth of the classes at a time; "word": the class's name), unit, class, label, score, right, shared (traits that the
    label has in common with the class), random_shared (that a random other class has), sibling (in the miniature: the
    label is the species that differs in two traits).
    """
    setting = Setting(given, options)
    own, texts = setting.own, setting.names.clip
    fold = torch.from_numpy(rng(given.seed, "folds").permutation(len(setting.images.classes)) % 5)
    shared = truth.shared_traits(setting.images.descriptors)
    random = (shared.sum(1) - shared.diagonal()) / (len(shared) - 1)
    for probe in setting.probes:
        images, q = setting.embedded(probe), setting.activity(network.FINAL, probe)
        shown = torch.from_numpy(truth.classes_of(setting.probe(probe), setting.images.classes))
        turn = torch.where(shown < 0, -1, fold[shown])  # the fold of each image; a class that is not asked for has none
        for name in options.functions():
            whole = setting.scores(name, q, images, texts)
            absent, nameless = whole.clone(), whole.clone().fill_diagonal_(-torch.inf)
            for k in range(5):
                kept = turn != k
                absent[fold == k] = setting.scores(name, q[kept], images[kept], texts)[fold == k]
            for what, scores in {"nothing": whole, "images": absent, "word": nameless}.items():
                label, score = found(scores[own])
                label = label[:, 0]
                about = {"probe": probe, "similarity": name, "missing": what, "unit": own}
                line = _named_right(setting, label) | {"score": score}
                line |= {"shared": shared[own, label.clamp(min=0)], "random_shared": random[own]}
                line["sibling"] = 100.0 * (label == own ^ 1) if setting.known else np.nan
                setting.add(about | line)
    return setting.seen()


def descriptions(given: Given, options: Options) -> Seen:
    """The class that is read from the description of the unit that weighs most: appendix A.6.

    Units are the coordinates of what the head reads, and then their opposites (a coordinate may speak by being
    negative). An image is described by the label of the unit with the largest weight x activation for the predicted
    class. Lines: probe, concepts, way ("clip_dissect", by SoftWPMI, "netdissect", "random": labels of other units),
    image, class, predicted, unit, label, said (the class that the label is most like); same_true, same_predicted: that
    is the image's class, the predicted one; holds: the predicted class has the trait. notes: accuracy of the target.
    """
    setting = Setting(given, options, judged=True)
    data, classes = setting.images, np.array(setting.images.classes)
    weight, bias = heads.head(setting.target, data)
    weight, h = both_signs(weight, cut=False), both_signs(setting.target.embed_images(data))
    predicted = (h @ weight.T + bias).argmax(1)
    share = (weight[predicted] * h).cpu()
    predicted = predicted.cpu()
    setting.notes["accuracy"] = 100.0 * float((predicted.numpy() == data.labels).mean())
    for words in map(setting.words, listed(options.concepts)):
        said = class_said(setting, words)
        for probe in setting.probes:
            q = both_signs(setting.target.embed_images(setting.probe(probe)))
            every = _ways(setting, probe, words, q, setting.embedded(probe))
            ways = {way: found(scores)[0][:, 0] for way, scores in every}
            ways["random"] = ways["clip_dissect"][rng(given.seed, "other units").permutation(q.shape[1])]
            for way, label in ways.items():
                unit = share.masked_fill(label < 0, -torch.inf).argmax(1)
                texts, read = named(label[unit], words.texts), said[label[unit]].numpy()
                about = {"probe": probe, "concepts": words.name, "way": way, "image": range(len(data))}
                line = {"class": classes[data.labels], "predicted": classes[predicted], "unit": unit.numpy()}
                line |= {"label": texts, "said": classes[read], "same_true": 100.0 * (read == data.labels)}
                line["same_predicted"] = 100.0 * (read == predicted.numpy())
                line["holds"] = 100.0 * truth.holds(texts, [data.descriptors[c] for c in predicted])
                setting.add(about | line)
    return setting.seen()


def both_signs(coordinates: torch.Tensor, cut: bool = True) -> torch.Tensor:
    """How far each coordinate is above zero, then how far below: [n, c] -> [n, 2 c]; cut: never less than 0."""
    both = torch.cat([coordinates, -coordinates], 1)
    return both.clamp(min=0) if cut else both


def class_said(setting: Setting, words: Words) -> torch.Tensor:
    """The class that each concept is most like, by the paper's 3 x clip + judge cosine of texts: int64 [concepts]."""
    near = 3 * words.clip @ setting.names.clip.T
    if words.judge is not None and setting.names.judge is not None:
        near += words.judge @ setting.names.judge.T
    return near.argmax(1).cpu()
