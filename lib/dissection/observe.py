"""What is seen of one target: a line a neuron (or an image) under each condition. Shares are 100 or 0, in per cent."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.data import spread
from lib.dissection import evaluation, layers, matrix, similarity, truth
from lib.dissection.options import Options, listed
from lib.dissection.setting import HELD_OUT, Setting, Words, best, found_in, named, rows_of
from lib.given import Given
from lib.models import heads
from lib.progress import progress
from lib.seeds import rng
from lib.store import Seen

SOFT = "soft_wpmi"  # the paper's own, for what is shown for one similarity only


def neurons(given: Given, options: Options) -> Seen:
    """Neurons with their labels and what speaks for them: Tables 1 and 3, hidden layers, single neurons.

    Lines: layer, depth, unit, probe, concepts, similarity, label, second, third, score, dead; correlation, auprc, auc
    of the neuron with held-out images that show the label, where these are known. Of last neurons also the columns of
    `_of_class`, of hidden ones those of `_of_places`. notes: accuracy of the target on the run's images. Paper, section
    4.2.
    """
    setting = Setting(given, options, judged=layers.FINAL in listed(options.layers))
    unseen, places, tables = _unseen(setting), _places(setting), []
    for about, words, images, q in setting.each():
        final = about["layer"] == layers.FINAL
        unit = setting.own if final else torch.arange(q.shape[1])
        for name in options.functions():
            scores = setting.scores(name, images, words.clip, q)[unit].cpu()
            label, score = best(scores)
            line = _labelled(words, scores, score) | unseen(about["layer"], words, label, unit)
            line |= _of_class(setting, words, scores, label) if final else places(about["layer"], words, label)
            depth = setting.layers.index(about["layer"]) + 1
            tables.append(pd.DataFrame({**about, "depth": depth, "similarity": name, "unit": unit.numpy(), **line}))
    notes = setting.notes()
    if layers.FINAL in setting.layers:
        right = setting.does(layers.FINAL, "val").argmax(1).cpu().numpy() == setting.images.labels
        notes["accuracy"] = 100.0 * float(right.mean())
    return Seen(pd.concat(tables, ignore_index=True), notes=notes)


def _labelled(words: Words, scores: torch.Tensor, score: torch.Tensor) -> dict[str, Any]:
    """Columns label, second, third, score, dead. scores: [neurons, concepts]."""
    left, line = scores.double().nan_to_num(nan=-torch.inf), {}
    for place in ("label", "second", "third")[: len(words.texts)]:
        label, _ = best(left)
        line[place] = named(label, words.texts)
        left = left.scatter(1, label.clamp(min=0)[:, None], -torch.inf)
    return line | {"score": score.numpy(), "dead": scores.isnan().all(1).numpy()}


def _of_class(setting: Setting, words: Words, scores: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
    """Last neurons' labels against their classes.

    class; right, top5, rank: of the class name, where it is a concept; true: the class has the trait that the label
    names; cosine, judge_cosine: of label and class name in the text spaces of the CLIP and of the judge; random_cosine,
    judge_random_cosine: what a random label gets.
    """
    names, texts = np.array(setting.images.classes)[setting.own], named(label, words.texts)
    line: dict[str, Any] = {"class": names, "right": np.nan, "top5": np.nan, "rank": np.nan, "true": np.nan}
    own = _right(setting, words)
    if own is not None:
        rank = evaluation.ranks(scores, own).numpy()
        line |= {"right": 100.0 * (label == own).numpy(), "rank": rank, "top5": 100.0 * (rank <= 5)}
    if set(setting.images.bank) & set(words.texts):
        line["true"] = 100.0 * truth.holds(texts, [setting.images.descriptors[c] for c in setting.own])
    return line | _cosines(setting, words, label)


def _right(setting: Setting, words: Words) -> torch.Tensor | None:
    """The concept that is right for each last neuron: int64 [k]; None where it is not among the concepts."""
    if words.name == "imagenet_labels" and len(words.texts) == len(setting.images.classes):
        return setting.own  # the same classes in the same order, by longer names
    names = [setting.images.classes[c] for c in setting.own]
    if not set(names) <= set(words.texts):
        return None
    return torch.tensor([words.texts.index(name) for name in names])


def _cosines(setting: Setting, words: Words, label: torch.Tensor) -> dict[str, np.ndarray]:
    found = {}
    for prefix in ("", "judge_"):
        space = words.judge if prefix else words.clip
        truths = setting.names.judge if prefix else setting.names.clip
        if space is not None and truths is not None:
            names = truths[setting.own]
            found[f"{prefix}cosine"] = evaluation.text_cosine(rows_of(label, space), names).cpu().numpy()
            found[f"{prefix}random_cosine"] = evaluation.random_cosine(space, names).cpu().numpy()
    return found


def _unseen(setting: Setting) -> Callable[..., dict[str, Any]]:
    """A function that tests neurons with their labels on held-out images, each thing about these made once."""
    shown: dict[str, torch.Tensor | None] = {}
    does: dict[str, torch.Tensor] = {}

    def columns(layer: str, words: Words, label: torch.Tensor, unit: torch.Tensor) -> dict[str, Any]:
        if setting.known and words.name not in shown:
            shown[words.name] = truth.present(setting.probe(HELD_OUT), words.texts)
        there = shown.get(words.name)
        if there is None:
            return {"correlation": np.nan, "auprc": np.nan, "auc": np.nan}
        if layer not in does:
            does[layer] = setting.does(layer, HELD_OUT)
        return found_in(label, there, does[layer][:, unit])

    return columns


def _places(setting: Setting) -> Callable[..., dict[str, Any]]:
    """A function that holds labels of hidden neurons against the places where these are active in the run's images.

    best, best_iou: the concept whose masks the neuron's map overlaps with most, and its intersection over union; iou: of
    the label; same: the label is that concept; part: it is at least about the same part; same_chance, part_chance: the
    same for labels shuffled among the neurons of the layer. No column where the truth is not known.
    """
    known: dict[tuple[str, str], torch.Tensor] = {}

    def columns(layer: str, words: Words, label: torch.Tensor) -> dict[str, Any]:
        if not setting.known:
            return {}
        if (layer, words.name) not in known:
            masks, maps = truth.masks(setting.images, words.texts), None
            wanted = [name for name in setting.layers if name != layers.FINAL]
            maps = layers.maps(setting.target, setting.images, wanted)
            known.update({(name, words.name): evaluation.iou(maps.pop(name), masks) for name in wanted})
        iou, texts = known[layer, words.name], named(label, words.texts)
        best_iou, right = iou.max(1)
        best_texts = named(right, words.texts)
        part, best_part = ([truth.part_of().get(t, t) for t in found] for found in (texts, best_texts))
        own = iou.gather(1, label.clamp(min=0)[:, None])[:, 0]
        return {
            "best": best_texts,
            "best_iou": best_iou.numpy(),
            "iou": torch.where(label < 0, 0, own).numpy(),
            "same": 100.0 * (np.array(texts) == np.array(best_texts)),
            "same_chance": 100.0 * evaluation.by_chance(texts, best_texts),
            "part": 100.0 * (np.array(part) == np.array(best_part)),
            "part_chance": 100.0 * evaluation.by_chance(part, best_part),
        }

    return columns


def labels(given: Given, options: Options) -> Seen:
    """Labels from a probe, and from as many images drawn from it with replacement: how stable are they?

    Lines: layer, depth, unit, probe, concepts, similarity, draw (0 for the probe itself), label, score, dead, kept (the
    label is that of draw 0).
    """
    setting, tables = Setting(given, options), []
    for about, words, images, q in setting.each():
        unit = setting.own if about["layer"] == layers.FINAL else torch.arange(q.shape[1])
        depth = setting.layers.index(about["layer"]) + 1
        for name in options.functions():
            first, drawn = None, [slice(None), *evaluation.resampled(len(q), options.resamples, given.seed)]
            for draw, some in enumerate(progress(drawn, f"{name} again")):
                label, score = (x[unit] for x in best(setting.scores(name, images[some], words.clip, q[some])))
                first = label if first is None else first
                line = {**about, "depth": depth, "similarity": name, "unit": unit.numpy(), "draw": draw}
                line |= {"label": named(label, words.texts), "score": score.numpy(), "dead": (label < 0).numpy()}
                tables.append(pd.DataFrame({**line, "kept": 100.0 * (label == first).numpy()}))
    return Seen(pd.concat(tables, ignore_index=True), notes=setting.notes())


def sizes(given: Given, options: Options) -> Seen:
    """How many probing images does a similarity need? The smaller probes are parts of the larger ones.

    Lines: unit, class, probe, per_class (images a class), similarity, label, right. The concepts are the class names.
    """
    setting, tables = Setting(given, options), []
    classes, own = setting.images.classes, setting.own
    for probe in setting.probes:
        images, q = setting.seen(probe), setting.does(layers.FINAL, probe)
        for m in map(int, listed(options.per_class)):
            few = torch.from_numpy(spread(setting.probe(probe).labels, min(len(q), m * len(own)), given.seed))
            for name in options.functions():
                label = best(setting.scores(name, images[few], setting.names.clip, q[few]))[0][own]
                line = {"unit": own.numpy(), "class": np.array(classes)[own], "probe": probe, "per_class": m}
                line |= {"similarity": name, "label": named(label, classes), "right": 100.0 * (label == own).numpy()}
                tables.append(pd.DataFrame(line))
    return Seen(pd.concat(tables, ignore_index=True), notes=setting.notes())


def against_netdissect(given: Given, options: Options) -> Seen:
    """CLIP-Dissect and Network Dissection on the same last neurons, probe and concepts: Table 2.

    The concepts hold more than the class names, as Broden's do. Lines: unit, probe, concepts, way ("clip_dissect", by
    SoftWPMI, or "netdissect", which sees the labels of the probe, where these are known), label, and the columns of
    `_of_class`. Paper, section 4.2.
    """
    setting, tables = Setting(given, options, judged=True), []
    for about, words, images, q in setting.each():
        for way, scores in _ways(setting, about["probe"], words, images, q):
            label, _ = best(scores := scores[setting.own].cpu())
            line = {**about, "unit": setting.own.numpy(), "way": way, "label": named(label, words.texts)}
            tables.append(pd.DataFrame(line | _of_class(setting, words, scores, label)))
    return Seen(pd.concat(tables, ignore_index=True), notes=setting.notes())


def _ways(
    setting: Setting, probe: str, words: Words, images: torch.Tensor, q: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, scores [neurons, concepts]) by CLIP-Dissect, and by Network Dissection where it can be run."""
    yield "clip_dissect", setting.scores(SOFT, images, words.clip, q)
    shown = truth.present(setting.probe(probe), words.texts)
    if shown is not None:
        scores = evaluation.iou_of_images(q.cpu().float(), shown)
        scores[matrix.dead(q).cpu()] = torch.nan
        yield "netdissect", scores


def missing(given: Given, options: Options) -> Seen:
    """Labels of last neurons when the images or the name of their class are missing: section 4.5 and beyond.

    The concepts are the class names. Lines: unit, class, probe, similarity, missing ("nothing"; "images": those of the
    class, a fifth of the classes at a time; "word": the class's name), label, score, right, shared (traits that the
    label has in common with the class), random_shared (a random other class), sibling (the label is the species that
    differs in two traits, in the miniature).
    """
    setting, tables = Setting(given, options), []
    own, classes, texts = setting.own, setting.images.classes, setting.names.clip
    fold = torch.from_numpy(rng(given.seed, "folds").permutation(len(classes)) % 5)
    shared = truth.shared_traits(setting.images.descriptors)
    random = (shared.sum(1) - shared.diagonal()) / (len(classes) - 1)
    for probe in setting.probes:
        images, q, of = setting.seen(probe), setting.does(layers.FINAL, probe), fold[setting.probe(probe).labels]
        for name in options.functions():
            scores = {"nothing": setting.scores(name, images, texts, q).cpu()}
            scores["images"], scores["word"] = (scores["nothing"].clone() for _ in range(2))
            for k in range(5):
                kept = of != k
                scores["images"][fold == k] = setting.scores(name, images[kept], texts, q[kept]).cpu()[fold == k]
            scores["word"].fill_diagonal_(-torch.inf)
            for what, found in scores.items():
                label, score = (x[own] for x in best(found))
                line = {"unit": own.numpy(), "class": np.array(classes)[own], "probe": probe, "similarity": name}
                line |= {"missing": what, "label": named(label, classes), "score": score.numpy()}
                line |= {"right": 100.0 * (label == own).numpy(), "shared": shared[own, label.clamp(min=0)]}
                line |= {"random_shared": random[own], "sibling": 100.0 * (label == own ^ 1).numpy()}
                tables.append(pd.DataFrame(line if setting.known else line | {"sibling": np.nan}))
    return Seen(pd.concat(tables, ignore_index=True), notes=setting.notes())


def descriptions(given: Given, options: Options) -> Seen:
    """The class that is read from the description of the unit that weighs most: appendix A.6.

    Units are the coordinates of what the head reads, and their opposites (a coordinate may speak by being negative);
    the number of a unit's opposite is higher by the number of coordinates. An image is described by the label of the
    unit with the largest weight x activation for the predicted class. Lines: image, class, predicted, probe, concepts,
    way ("clip_dissect", by SoftWPMI, "netdissect", "random": labels of other units), unit, label, said (the class that
    the label is most like), same_true, same_predicted (that is the image's, the predicted one), holds (the predicted
    class has the trait).
    """
    setting, tables = Setting(given, options, judged=True), []
    data, classes = setting.images, np.array(setting.images.classes)
    weight, bias = heads.head(setting.target, data)
    weight = torch.cat([weight, -weight], 1)
    h = both_signs(setting.target.embed_images(data))
    predicted = (h @ weight.T + bias).argmax(1).cpu()
    share = weight[predicted.to(weight.device)] * h
    for words in map(setting.words, listed(options.concepts)):
        said = class_said(setting, words)
        for probe in setting.probes:
            q = both_signs(setting.target.embed_images(setting.probe(probe)))
            ways = {way: best(s)[0] for way, s in _ways(setting, probe, words, setting.seen(probe), q)}
            ways["random"] = ways["clip_dissect"][rng(given.seed, "other units").permutation(q.shape[1])]
            for way, label in ways.items():
                unit = share.masked_fill((label < 0).to(share.device), -torch.inf).argmax(1).cpu()
                texts, class_of = named(label[unit], words.texts), said[label[unit]]
                line = {"image": range(len(data)), "class": classes[data.labels], "predicted": classes[predicted]}
                line |= {"probe": probe, "concepts": words.name, "way": way, "unit": unit.numpy(), "label": texts}
                line |= {"said": classes[class_of], "same_true": 100.0 * (class_of.numpy() == data.labels)}
                line["same_predicted"] = 100.0 * (class_of == predicted).numpy()
                line["holds"] = 100.0 * truth.holds(texts, [data.descriptors[c] for c in predicted])
                tables.append(pd.DataFrame(line))
    accuracy = 100.0 * float((predicted.numpy() == data.labels).mean())
    return Seen(pd.concat(tables, ignore_index=True), notes=setting.notes() | {"accuracy": accuracy})


def both_signs(embeddings: torch.Tensor) -> torch.Tensor:
    """How far each coordinate is above zero, then how far below: [n, c] -> [n, 2 c]."""
    return torch.cat([embeddings, -embeddings], 1).clamp(min=0)


def class_said(setting: Setting, words: Words) -> torch.Tensor:
    """The class that each concept is most like, by the paper's 3 x clip + judge cosine of texts: int64 [concepts]."""
    near = 3 * words.clip @ setting.names.clip.T
    if words.judge is not None and setting.names.judge is not None:
        near = near + words.judge @ setting.names.judge.T
    return near.argmax(1).cpu()
