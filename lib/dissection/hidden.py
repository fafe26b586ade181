"""Rows about neurons inside a network: their labels against Network Dissection's truth, and one neuron at a time."""

import numpy as np
import torch

from lib.dissection import activations, evaluation, inputs, matrix
from lib.dissection.final import HELD_OUT
from lib.dissection.setting import Setting, best, constants, functions, named, resampled, scored, shows, stability
from lib.errors import UserError
from lib.report.statistics import of_draws

VERSION = 2  # raise it when rows come out different: it is part of every record's key
SIMILARITY = "soft_wpmi"  # the paper's own, for what is shown for one similarity only


def row(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    layers="auto",
    probe="web",
    other="val",
    concepts="descriptors",
    similarities="all",
    pool="released",
    prompt="{}",
    probe_images=0,
    top_k=0,
    resamples=30,
    quantile=evaluation.NETDISSECT_QUANTILE,
):
    """Every stage or block of a target. Metrics "what/k" or "what/k/similarity" over the neurons of the k-th layer.

    For a similarity: same (%): the label is the concept with the highest IoU of the neuron's map with the true masks of
    the run's images; same_chance: likewise with labels shuffled among neurons; part (%) and part_chance: the label is
    at least about the same part; iou: of the label; correlation and auprc: of the neuron with held-out images that show
    the label; best: the score. For SoftWPMI also stability (%), resamples of the probe with the same label, and between
    (%): the same label with the probe `other`. iou_best, iou_mean: of the best concept, of a random one; detector (%):
    iou_best from 0.04 on. Where the truth is not known: labels, best, stability and between.
    """
    setting = Setting(model, data, clip, "", prompt, probe_images, seed)
    names = inputs.choose_layers(model, layers)
    found, texts = setting.concepts(concepts)
    images, others = setting.images(probe), setting.images(other)
    q, q_other = (inputs.hidden(model, setting.probe(name), names, pool) for name in (probe, other))
    truth = truths(model, setting, found, names, pool, quantile) if setting.known else {}
    metrics, arrays = {}, {}
    for k, layer in enumerate(names, 1):
        metrics[f"dead/{k}"] = float(matrix.dead(q[layer]).sum())
        if truth:
            metrics |= {f"{what}/{k}": value for what, value in _of_truth(truth["iou"][layer]).items()}
            arrays[f"iou/{k}"] = truth["iou"][layer].numpy().astype(np.float32)
        for name in functions(similarities):
            label, score = best(scored(name, images, texts, q[layer], top_k))
            metrics[f"best/{k}/{name}"] = score.numpy()
            arrays[f"label/{k}/{name}"] = label.numpy()
            if truth:
                tested = _against(label, truth["iou"][layer], found, seed)
                held = evaluation.held_out(truth["unseen"][layer], shows(label, truth["shown"]))
                tested |= {what: held[what] for what in ("correlation", "auprc")}
                metrics |= {f"{what}/{k}/{name}": value for what, value in tested.items()}
        label = torch.from_numpy(arrays.get(f"label/{k}/{SIMILARITY}", label.numpy()))
        again = best(scored(SIMILARITY, others, texts, q_other[layer], top_k))[0]
        metrics[f"between/{k}"] = 100.0 * (label == again).double().numpy()
        metrics[f"stability/{k}"] = stability(SIMILARITY, images, texts, q[layer], label, resamples, seed, top_k)
    return {"metrics": metrics, "arrays": arrays, "notes": setting.notes() | {"layers": names, "pool": pool}}


def truths(model, setting, found, names, pool, quantile):
    """What labels of hidden neurons are held against: IoU by layer, activations on held-out images, what these show."""
    held = setting.probe(HELD_OUT)
    maps = activations.maps(model.tower, names, inputs.batches(model, setting.data))
    masks = inputs.masks(setting.data, found)
    return {
        "iou": {layer: evaluation.iou(maps.pop(layer), masks, quantile) for layer in names},
        "unseen": inputs.hidden(model, held, names, pool),
        "shown": inputs.present(held, found),
    }


def _of_truth(iou):
    highest = iou.amax(1)
    detector = 100.0 * (highest >= evaluation.NETDISSECT_IOU).double()
    return {"iou_best": highest.numpy(), "iou_mean": iou.mean(1).numpy(), "detector": detector.numpy()}


def _against(label, iou, found, seed):
    """Labels against the concepts of highest IoU: dict of [neurons]. A dead neuron is never right."""
    right = iou.argmax(1)
    parts = np.array([inputs.part_of().get(text, text) for text in found])
    shuffled = label[torch.from_numpy(np.random.default_rng(seed).permutation(len(label)))]
    alive = (label >= 0).numpy()
    return {
        "same": 100.0 * (label == right).double().numpy(),
        "same_chance": 100.0 * (shuffled == right).double().numpy(),
        "part": 100.0 * (alive & (parts[label.clamp(min=0)] == parts[right])),
        "part_chance": 100.0 * ((shuffled >= 0).numpy() & (parts[shuffled.clamp(min=0)] == parts[right])),
        "iou": np.where(alive, iou.gather(1, label.clamp(min=0)[:, None])[:, 0].numpy(), 0.0),
    }


# --- one neuron


def neuron(
    model,
    data,
    seed=0,
    clip="ViT-B-16",
    layer="last",
    unit=-1,
    probe="web",
    concepts="descriptors",
    similarities="all",
    pool="released",
    prompt="{}",
    probe_images=0,
    top_k=0,
    resamples=30,
    shown=10,
):
    """One neuron by every similarity, and its layer by SoftWPMI: the row of the page that looks one up.

    layer: "final" for the logits, "last" for the last stage or block, or a name. unit: -1 for the neuron with the
    highest SoftWPMI score. Metrics "what/similarity" of the neuron: best (its interval over resampled probes),
    stability (%), correlation and auprc on held-out images (theirs over resampled such images). Arrays: top (places in
    the probe of its `shown` top images), activation, and of the whole layer label, score and stability. Notes: words
    (three best a similarity), layer_words, layer, unit. Raises UserError for a unit not in the layer, or a dead one.
    """
    setting = Setting(model, data, clip, "", prompt, probe_images, seed)
    found, texts = setting.concepts(concepts)
    images, held = setting.images(probe), setting.probe(HELD_OUT) if setting.known else None
    name, q = _activations(setting, layer, probe, pool)
    whole = scored(SIMILARITY, images, texts, q, top_k)
    label, score = best(whole)
    unit = _unit(unit, q, score, name)
    metrics, words = {}, {}
    for function in functions(similarities):
        scores = whole if function == SIMILARITY else scored(function, images, texts, q, top_k)
        own, top = best(scores)
        words[function] = [found[k] for k in scores[unit].nan_to_num(nan=-torch.inf).topk(min(3, len(found))).indices]
        again = resampled(function, images, texts, q, resamples, seed, top_k)
        kept = torch.stack([label for label, _ in again]) == own
        metrics[f"best/{function}"] = of_draws(top[unit], [score[unit] for _, score in again], len(q))
        metrics[f"stability/{function}"] = 100.0 * kept[:, unit].double().numpy()
        if function == SIMILARITY:
            layer_stability = 100.0 * kept.double().mean(0).numpy()
        if setting.known:
            unseen = _activations(setting, layer, HELD_OUT, pool)[1][:, [unit]].numpy()
            present = shows(own[[unit]], inputs.present(held, found)).numpy()
            drawn = [evaluation.held_out(unseen[i], present[i]) for i in evaluation.resampled(len(unseen), 300, seed)]
            tested = evaluation.held_out(unseen, present)
            for what in ("correlation", "auprc"):
                draws = [d[what][0] for d in drawn]
                metrics[f"{what}/{function}"] = of_draws(tested[what][0], draws, len(unseen))
    order = matrix.top_images(q[:, [unit]], min(shown, len(q)))[:, 0]
    arrays = {
        "top": order.numpy(),
        "activation": q[order, unit].numpy(),
        "label": label.numpy(),
        "score": score.numpy(),
    }
    if SIMILARITY in words:
        arrays["stability"] = layer_stability
    notes = {"layer": name, "unit": unit, "words": words, "layer_words": named(label, found), "neurons": q.shape[1]}
    notes["constants"] = {f: constants(f, len(q), top_k) for f in words}
    return {"metrics": metrics, "arrays": arrays, "notes": notes | setting.notes()}


def _activations(setting, layer, probe, pool):
    """The layer's name and its activations on a probe."""
    if layer == "final":
        return "final", setting.final(probe)
    name = inputs.choose_layers(setting.model, layer)[0]
    return name, inputs.hidden(setting.model, setting.probe(probe), [name], pool)[name]


def _unit(unit, q, score, layer):
    if not -1 <= unit < q.shape[1]:
        raise UserError(f"{layer} has no neuron {unit}; it has {q.shape[1]}, from 0 to {q.shape[1] - 1}.")
    if unit == -1:
        return int(score.nan_to_num(nan=-torch.inf).argmax())
    if matrix.dead(q)[unit]:
        alive = (~matrix.dead(q)).nonzero().ravel().tolist()
        some = f"; alive are {', '.join(map(str, alive[:8]))}, ..." if alive else ""
        value = float(q[0, unit])
        raise UserError(
            f"Neuron {unit} of {layer} is dead: {value:g} on all {len(q)} images, so it has no label{some}."
        )
    return unit
