"""What every observation of this wing begins with: a target, the CLIP that names, probes, words, activations."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.data import ImageDataset
from lib.dissection import inputs, network, similarity
from lib.dissection.options import Options, listed
from lib.given import Given
from lib.store import Seen


@dataclass
class Words:
    """A concept set: its name, its texts, and their embeddings [m, c] by "clip", which names, and "judge" (or None)."""

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
        self._made: dict[tuple, Any] = {}
        self._tables: list[pd.DataFrame] = []

    def add(self, columns: Mapping[str, Any]) -> None:
        """Add lines to what is seen: columns by name, numbers or lists."""
        self._tables.append(pd.DataFrame(columns))

    def seen(self) -> Seen:
        """All lines so far, and the notes."""
        return Seen(pd.concat(self._tables, ignore_index=True), notes=self.notes)

    def once(self, *key: str, make: Callable[[], Any]) -> Any:
        """What `make` makes, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def probe(self, name: str) -> ImageDataset:
        """Probing images by name, see `inputs.probe`."""
        found = self.once("probe", name, make=lambda: inputs.probe(self.given, name, self.options.probe_images))
        self.notes["probes"][name] = len(found)
        return found

    def embedded(self, probe: str) -> torch.Tensor:
        """The CLIP's embeddings of a probe: float32 [images, c], on its device."""
        return self.clip.embed_images(self.probe(probe))

    def activity(self, layer: str, probe: str) -> torch.Tensor:
        """What a layer's neurons do on a probe: float32 [images, neurons], on the target's device."""
        options = self.options
        return network.activity(self.target, self.probe(probe), layer, self.images, options.pool, options.channels)

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
        """Scores by a similarity function, float64 [neurons, concepts], on the CLIP's device. q [n, neurons]."""
        return similarity.scores(name, q, images, texts, **self.options.constants(name))

    def each(self) -> Iterator[tuple[dict[str, Any], Words, torch.Tensor, torch.Tensor]]:
        """Probe by probe, layer by layer, set by set: (their names, the words, activations, embeddings)."""
        sets = [self.words(name) for name in listed(self.options.concepts)]
        for probe in self.probes:
            images = self.embedded(probe)
            for depth, layer in enumerate(self.layers, 1):
                q = self.activity(layer, probe)
                for words in sets:
                    about = {"layer": layer, "depth": depth, "probe": probe, "concepts": words.name}
                    yield about, words, q, images


def named(label: torch.Tensor, texts: list[str]) -> list[str]:
    """The words of labels; "" for a dead neuron."""
    return [texts[k] if k >= 0 else "" for k in label.tolist()]
