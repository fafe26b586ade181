"""Columns of observations that say how right labels are. label: int64 [neurons], an index into the words' texts."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from lib.dissection import activations, evaluation, network, truth
from lib.dissection.setting import Setting, Words, named

HELD_OUT = "v2"  # the miniature's split on which neurons are tested with their labels


def of_class(setting: Setting, words: Words, scores: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
    """Labels of last neurons (those of the classes in the run) against their classes. scores [neurons, concepts].

    class; right, top5, rank: of the class name, where it is a concept; true: the class has the trait that the label
    names; cosine, judge_cosine: of label and class name in the text spaces of the CLIP and of the judge; random_cosine,
    judge_random_cosine: what a random label gets.
    """
    data, own = setting.images, right_concept(setting, words)
    line: dict[str, Any] = {"class": np.array(data.classes)[setting.own]}
    line |= dict.fromkeys(("right", "top5", "rank", "true", "judge_cosine", "judge_random_cosine"), np.nan)
    if own is not None:
        rank = evaluation.ranks(scores, own.to(scores.device)).cpu().numpy()
        line |= {"right": 100.0 * (label == own).numpy(), "top5": 100.0 * (rank <= 5), "rank": rank.astype(float)}
    if set(data.bank) & set(words.texts):
        line["true"] = 100.0 * truth.holds(named(label, words.texts), [data.descriptors[c] for c in setting.own])
    spaces = {"": (words.clip, setting.names.clip), "judge_": (words.judge, setting.names.judge)}
    for prefix, (space, names) in spaces.items():
        if space is not None and names is not None:
            space, names = normalize(space, dim=1), normalize(names, dim=1)[setting.own]
            said = (space[label.clamp(min=0)] * names).sum(1).cpu().masked_fill(label < 0, torch.nan)
            random = (names @ space.mean(0)).cpu()
            line |= {f"{prefix}cosine": said, f"{prefix}random_cosine": random}
    return line


def right_concept(setting: Setting, words: Words) -> torch.Tensor | None:
    """The concept that is right for each last neuron that is looked at: int64 [k]; None where it isn't there."""
    if words.name == "imagenet_labels" and len(words.texts) == len(setting.images.classes):
        return setting.own  # the same classes in the same order, by longer names
    names = [setting.images.classes[c] for c in setting.own]
    return torch.tensor([words.texts.index(name) for name in names]) if set(names) <= set(words.texts) else None


def of_places(setting: Setting, layer: str, words: Words, label: torch.Tensor) -> dict[str, Any]:
    """Labels of hidden neurons against the places where these are active in the run's images; nan where not known.

    best, best_iou: the concept whose masks the neuron's map overlaps with most, and its intersection over union; iou:
    of the label; same: the label is that concept; part: it is at least about the same part; same_chance, part_chance:
    likewise for labels shuffled among the neurons of the layer.
    """
    if not setting.known:
        return dict.fromkeys(("best", "best_iou", "iou", "same", "same_chance", "part", "part_chance"), np.nan)
    overlaps = setting.once("iou", words.name, make=lambda: _overlaps(setting, words.texts))
    iou, texts = overlaps[layer], named(label, words.texts)
    own = torch.where(label < 0, 0, iou.gather(1, label.clamp(min=0)[:, None])[:, 0])
    best = named(iou.argmax(1), words.texts)
    line = {"best": best, "best_iou": iou.amax(1).numpy(), "iou": own.numpy()}
    parts = [[truth.part_of().get(text, text) for text in found] for found in (texts, best)]
    for what, (found, right) in {"same": (texts, best), "part": parts}.items():
        line[what] = 100.0 * (np.array(found) == np.array(right))
        line[f"{what}_chance"] = 100.0 * evaluation.by_chance(found, right)
    return line


def _overlaps(setting: Setting, texts: list[str]) -> dict[str, torch.Tensor]:
    """Layer -> intersection over union of its neurons' maps with each concept's masks: float64, on the CPU."""
    wanted, target = [name for name in setting.layers if name != network.FINAL], setting.target
    masks, batches = truth.masks(setting.images, texts).to(target.device), network.batches(target, setting.images)
    maps = activations.maps(target.tower, wanted, batches, setting.options.channels)
    return {name: evaluation.iou(maps.pop(name).to(target.device), masks).cpu() for name in wanted}


def held_out(
    setting: Setting, layer: str, words: Words, label: torch.Tensor, unit: torch.Tensor, draw: int = 0
) -> dict[str, Any]:
    """Columns correlation, auprc, auc: neurons `unit` on images that nothing else has seen, see `evaluation.held_out`.

    nan where it is not known what images show, or none shows a concept. draw: a resample of these images, 0 for all.
    """
    shown = None
    if setting.known:
        shown = setting.once("shown", words.name, make=lambda: truth.present(setting.probe(HELD_OUT), words.texts))
    if shown is None:
        return {"correlation": np.nan, "auprc": np.nan, "auc": np.nan}
    q = setting.once("unseen", layer, make=lambda: setting.activity(layer, HELD_OUT).cpu())
    some = evaluation.drawn(len(q), draw, setting.given.seed)
    present = shown[some][:, label.clamp(min=0)] & (label >= 0)
    return evaluation.held_out(q[some][:, unit].numpy(), present.numpy())
