"""What every observation of this wing begins with: a target, the CLIP that names, probes, words, scores and labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lib.data import ImageDataset
from lib.dissection import evaluation, inputs, layers, similarity, truth
from lib.dissection.options import Options, listed
from lib.given import Given

HELD_OUT = "v2"  # the miniature's split on which neurons are tested with their labels


@dataclass
class Words:
    """A concept set: its name, its texts, and their embeddings by the CLIP that names and by the judge, [m, c]."""

    name: str
    texts: list[str]
    clip: torch.Tensor
    judge: torch.Tensor | None


class Setting:
    """Everything that is opened for one target, each thing once. Raises UserError for a model that reads no text."""

    def __init__(self, given: Given, options: Options, judged: bool = False):
        self.given, self.options = given, options
        self.known = given.dataset == "bestiary"  # whether the truth about images is known
        self.clip = inputs.reader(given, options.clip)
        self.judge = inputs.judge(given, options.judge) if judged and options.judge else None
        self.target, self.images = given.model, given.images
        self.sizes: dict[str, int] = {}
        self._probes: dict[str, ImageDataset] = {}

    def probe(self, name: str) -> ImageDataset:
        """Probing images by name, see `inputs.probe`."""
        if name not in self._probes:
            self._probes[name] = inputs.probe(self.given, name, self.options.probe_images)
            self.sizes[name] = len(self._probes[name])
        return self._probes[name]

    @property
    def probes(self) -> list[str]:
        """Names of the probes."""
        return self.options.probe_names(self.given.dataset)

    def seen(self, probe: str) -> torch.Tensor:
        """The CLIP's embeddings of a probe: float32 [images, c], on its device."""
        return self.clip.embed_images(self.probe(probe))

    @cached_property
    def layers(self) -> list[str]:
        """Names of the layers that are looked into."""
        return layers.choose(self.target, self.options.layers)

    def does(self, layer: str, probe: str) -> torch.Tensor:
        """What a layer's neurons do on a probe: float32 [images, neurons]."""
        if layer == layers.FINAL:
            return layers.final(self.target, self.probe(probe), self.images)
        wanted = [name for name in self.layers if name != layers.FINAL]
        return layers.hidden(self.target, self.probe(probe), wanted, self.options.pool)[layer]

    def words(self, name: str, texts: list[str] | None = None) -> Words:
        """A concept set by name, or `texts` under that name. Raises UserError."""
        texts = inputs.concepts(self.given, name) if texts is None else texts
        inputs.check_concepts(texts)
        prompts = [self.options.prompt.format(text) for text in texts]
        judged = self.judge.embed_texts(prompts).to(self.clip.device) if self.judge else None
        return Words(name, texts, self.clip.embed_texts(prompts), judged)

    @cached_property
    def names(self) -> Words:
        """The class names, against which labels of last neurons are held."""
        return self.words("classes")

    @cached_property
    def own(self) -> torch.Tensor:
        """Classes with images in the run, whose last neurons are looked at: int64 [k]."""
        return torch.from_numpy(np.unique(self.images.labels))

    def scores(self, name: str, images: torch.Tensor, texts: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Scores [neurons, concepts] by a similarity function. images [n, c], texts [m, c], q [n, neurons]."""
        given: dict[str, Any] = self.options.constants(name, len(q))
        given |= {} if name.startswith("cos") else {"ties": self.options.ties}
        given |= {"prior": self.options.prior} if name.endswith("wpmi") else {}
        return similarity.FUNCTIONS[name]((images, texts), q.to(images.device), **given)

    def each(self) -> Iterator[tuple[dict[str, str], Words, torch.Tensor, torch.Tensor]]:
        """Layer by layer, probe by probe, set by set: (their names, the words, embeddings, activations)."""
        sets = [self.words(name) for name in listed(self.options.concepts)]
        for probe in self.probes:
            images = self.seen(probe)
            for layer in self.layers:
                q = self.does(layer, probe)
                for words in sets:
                    yield {"layer": layer, "probe": probe, "concepts": words.name}, words, images, q

    def notes(self) -> dict[str, Any]:
        """JSON facts for a record: sizes of probes and concept sets, and how many concepts come twice."""
        sets = {name: inputs.concepts(self.given, name) for name in listed(self.options.concepts)}
        return {
            "probes": self.sizes,
            "concepts": {name: len(texts) for name, texts in sets.items()},
            "duplicates": {name: inputs.check_concepts(texts) for name, texts in sets.items()},
        }


def best(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Label (DEAD for a dead neuron) and best score (nan there): int64 and float64 [neurons], on the CPU."""
    top, label = similarity.first_best(scores.double().nan_to_num(nan=-torch.inf))
    there = top > -torch.inf
    return torch.where(there, label, similarity.DEAD).cpu(), torch.where(there, top, torch.nan).cpu()


def named(label: torch.Tensor, texts: list[str]) -> list[str]:
    """The words of labels; "" for a dead neuron."""
    return [texts[k] if k >= 0 else "" for k in label.tolist()]


def rows_of(label: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """The rows of labels, nan for dead neurons: [neurons, c]."""
    chosen = embeddings[label.clamp(min=0).to(embeddings.device)].clone()
    chosen[label < 0] = torch.nan
    return chosen


def found_in(label: torch.Tensor, shown: torch.Tensor, q: torch.Tensor) -> dict[str, np.ndarray]:
    """`evaluation.held_out` of neurons with their labels. q [images, neurons]; shown bool [images, concepts]."""
    return evaluation.held_out(q.cpu().numpy(), (shown[:, label.clamp(min=0)] & (label >= 0)).numpy())
