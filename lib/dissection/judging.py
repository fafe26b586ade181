"""Columns of observations that say how right labels are: of last neurons by their class, of hidden ones by place."""

from typing import Any

import numpy as np
import torch

from lib.dissection import evaluation, network, truth
from lib.dissection.setting import Setting, Words, named, rows_of

COLUMNS = ("best", "best_iou", "iou", "same", "same_chance", "part", "part_chance")


def of_class(setting: Setting, words: Words, scores: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
    """Labels of the last neurons that are looked at, against their classes. scores [k, concepts], label int [k].

    class; right, top5, rank: of the class name, where it is a concept; true: the class has the trait that the label
    names; cosine, judge_cosine: of label and class name in the text spaces of the CLIP and of the judge; random_cosine,
    judge_random_cosine: what a random label gets.
    """
    data, missing = setting.images, np.full(len(label), np.nan)
    line: dict[str, Any] = {"class": np.array(data.classes)[setting.own]}
    line |= dict.fromkeys(("right", "top5", "rank", "true"), missing)
    own = right_concept(setting, words)
    if own is not None:
        rank = evaluation.ranks(scores, own).numpy()
        line |= {"right": 100.0 * (label == own).numpy(), "top5": 100.0 * (rank <= 5), "rank": rank.astype(float)}
    if set(data.bank) & set(words.texts):
        line["true"] = 100.0 * truth.holds(named(label, words.texts), [data.descriptors[c] for c in setting.own])
    for prefix, space, names in (
        ("", words.clip, setting.names.clip),
        ("judge_", words.judge, setting.names.judge),
    ):
        both = (f"{prefix}cosine", f"{prefix}random_cosine")
        if space is None or names is None:
            line |= dict.fromkeys(both, missing)
            continue
        found = evaluation.text_cosine(rows_of(label, space), names[setting.own])
        floor = evaluation.random_cosine(space, names[setting.own])
        line |= dict(zip(both, (found.cpu().numpy(), floor.cpu().numpy()), strict=True))
    return line


def right_concept(setting: Setting, words: Words) -> torch.Tensor | None:
    """The concept that is right for each last neuron that is looked at: int64 [k]; None where it isn't there."""
    if words.name == "imagenet_labels" and len(words.texts) == len(setting.images.classes):
        return setting.own  # the same classes in the same order, by longer names
    names = [setting.images.classes[c] for c in setting.own]
    return torch.tensor([words.texts.index(name) for name in names]) if set(names) <= set(words.texts) else None


class Places:
    """Holds labels of hidden neurons against the places where these are active in the run's images."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.iou: dict[tuple[str, str], torch.Tensor] = {}

    def compare(self, layer: str, words: Words, label: torch.Tensor) -> dict[str, Any]:
        """Columns about the labels int [neurons] of a layer; nan where the truth is not known.

        best, best_iou: the concept whose masks the neuron's map overlaps with most, and its intersection over union;
        iou: of the label; same: the label is that concept; part: it is at least about the same part; same_chance,
        part_chance: likewise for labels shuffled among the neurons of the layer.
        """
        if not self.setting.known:
            return dict.fromkeys(COLUMNS, np.nan)
        if (layer, words.name) not in self.iou:
            masks = truth.masks(self.setting.images, words.texts)
            wanted = [name for name in self.setting.layers if name != network.FINAL]
            maps = network.maps(self.setting.target, self.setting.images, wanted)
            self.iou |= {(name, words.name): evaluation.iou(maps.pop(name), masks) for name in wanted}
        iou, texts = self.iou[layer, words.name], named(label, words.texts)
        best_iou, best = iou.max(1)
        best_texts, own = named(best, words.texts), iou.gather(1, label.clamp(min=0)[:, None])[:, 0]
        line = {"best": best_texts, "best_iou": best_iou.numpy(), "iou": torch.where(label < 0, 0, own).numpy()}
        part = [[truth.part_of().get(text, text) for text in found] for found in (texts, best_texts)]
        for what, (found, right) in {"same": (texts, best_texts), "part": part}.items():
            line[what] = 100.0 * (np.array(found) == np.array(right))
            line[f"{what}_chance"] = 100.0 * evaluation.by_chance(found, right)
        return line
