"""What every observation of this wing begins with: a target, the CLIP that names, probes, words, activations."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lib.data import ImageDataset
from lib.dissection import evaluation, inputs, network, similarity, truth
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
    """Everything that is opened for one target, each thing once. Raises UserError for a model that reads no text.

    notes: JSON facts for a record: sizes of probes and concept sets, and how many concepts come twice.
    """

    def __init__(self, given: Given, options: Options, judged: bool = False):
        self.given, self.options = given, options
        self.known = given.dataset == "bestiary"  # whether the truth about images is known
        self.clip = inputs.reader(given, options.clip)
        self.judge = inputs.judge(given, options.judge) if judged and options.judge else None
        self.target, self.images = given.model, given.images
        self.layers = network.choose(self.target, options.layers)
        self.probes = options.probe_names(given.dataset)
        self.notes: dict[str, Any] = {"probes": {}, "concepts": {}, "duplicates": {}}
        self._opened: dict[str, ImageDataset] = {}

    def probe(self, name: str) -> ImageDataset:
        """Probing images by name, see `inputs.probe`."""
        if name not in self._opened:
            self._opened[name] = inputs.probe(self.given, name, self.options.probe_images)
            self.notes["probes"][name] = len(self._opened[name])
        return self._opened[name]

    def seen(self, probe: str) -> torch.Tensor:
        """The CLIP's embeddings of a probe: float32 [images, c], on its device."""
        return self.clip.embed_images(self.probe(probe))

    def activity(self, layer: str, probe: str) -> torch.Tensor:
        """What a layer's neurons do on a probe: float32 [images, neurons]."""
        return network.activity(self.target, self.probe(probe), layer, self.images, self.options.pool)

    def units(self, layer: str, q: torch.Tensor) -> torch.Tensor:
        """The neurons that are looked at, of all that are scored together: last ones whose class is in the run."""
        return self.own if layer == network.FINAL else torch.arange(q.shape[1])

    @cached_property
    def own(self) -> torch.Tensor:
        """Classes with images in the run: int64 [k]."""
        return torch.from_numpy(np.unique(self.images.labels))

    def words(self, name: str) -> Words:
        """A concept set by name. Raises UserError."""
        texts = inputs.concepts(self.given, name)
        self.notes["concepts"][name], self.notes["duplicates"][name] = len(texts), inputs.check_concepts(texts)
        prompts = [self.options.prompt.format(text) for text in texts]
        judged = self.judge.embed_texts(prompts).to(self.clip.device) if self.judge else None
        return Words(name, texts, self.clip.embed_texts(prompts), judged)

    @cached_property
    def names(self) -> Words:
        """The class names, with which labels of last neurons are compared."""
        return self.words("classes")

    def scores(self, name: str, q: torch.Tensor, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scores by a similarity function, float64 [neurons, concepts], on the CPU. q [n, neurons]."""
        return similarity.scores(name, q, images, texts, **self.options.constants(name)).cpu()

    def each(self) -> Iterator[tuple[dict[str, Any], Words, torch.Tensor, torch.Tensor]]:
        """Probe by probe, layer by layer, set by set: (their names, the words, activations, embeddings)."""
        sets = [self.words(name) for name in listed(self.options.concepts)]
        for probe in self.probes:
            images = self.seen(probe)
            for depth, layer in enumerate(self.layers, 1):
                q = self.activity(layer, probe)
                for words in sets:
                    about = {"layer": layer, "depth": depth, "probe": probe, "concepts": words.name}
                    yield about, words, q, images


class HeldOut:
    """Tests neurons with their labels on images that nothing else has seen, where it is known what these show."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.shown: dict[str, torch.Tensor | None] = {}
        self.activity: dict[str, torch.Tensor] = {}

    def test(self, layer: str, words: Words, label: torch.Tensor, unit: torch.Tensor, draw: int = 0) -> dict:
        """Columns correlation, auprc, auc of neurons `unit` with labels `label`; draw: of these images, 0 for all."""
        setting = self.setting
        if setting.known and words.name not in self.shown:
            self.shown[words.name] = truth.present(setting.probe(HELD_OUT), words.texts)
        shown = self.shown.get(words.name)
        if shown is None:
            return {"correlation": np.nan, "auprc": np.nan, "auc": np.nan}
        if layer not in self.activity:
            self.activity[layer] = setting.activity(layer, HELD_OUT).cpu()
        some = slice(None) if not draw else evaluation.drawn(len(shown), draw, setting.given.seed)
        present = shown[some][:, label.clamp(min=0)] & (label >= 0)
        return evaluation.held_out(self.activity[layer][some][:, unit].numpy(), present.numpy())


def named(label: torch.Tensor, texts: list[str]) -> list[str]:
    """The words of labels; "" for a dead neuron."""
    return [texts[k] if k >= 0 else "" for k in label.tolist()]


def rows_of(label: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """The rows of labels, nan for dead neurons: [neurons, c]."""
    chosen = embeddings[label.clamp(min=0).to(embeddings.device)].clone()
    chosen[label < 0] = torch.nan
    return chosen
