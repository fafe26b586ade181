"""What every row of this wing begins with: a target network, a probing CLIP, probes, concept sets, and scores."""

from pathlib import Path

import numpy as np
import torch

from lib import models
from lib.dissection import evaluation, inputs, similarity
from lib.errors import UserError, nearest
from lib.report.statistics import of_draws

FUNCTIONS = tuple(similarity.FUNCTIONS)
SHARE = 0.25  # of a probe that may be among a neuron's top images: small probes get a smaller top_k
WEB = 6.25  # images of the bestiary's web probe for each of val: 2400 in all, 50 a class, as many as ImageNet's val has


class Setting:
    """A target, the probing CLIP and the judge, with their embeddings of probes and concepts.

    model: the target; data: the images of the run. clip: name of a CLIP; judge: of another, the folder of a sentence
    encoder (see `inputs.SentenceEncoder`), or "" for none. prompt: with {}, for concepts; the paper takes the bare
    words. probe_images: of each further probe, 0 for all; in the bestiary 0 gives the web probe 6.25 times, and a shift
    as many images as the run has. Raises UserError for a model that reads no text.
    """

    def __init__(self, model, data, clip, judge="", prompt="{}", probe_images=0, seed=0):
        self.model, self.data, self.seed, self.prompt = model, data, seed, prompt
        self.known = data.name == "bestiary"  # whether the truth about images is known
        self.probe_images = probe_images
        self.clip, self.judge = self._load(clip), self._load_judge(judge) if judge else None
        self._probes = {}

    def _load(self, name):
        found = models.load(name, dataset=self.data.name, device=str(self.model.device), seed=self.seed)
        if not hasattr(found, "tokenizer"):
            raise UserError(f"{name} reads no text; the probing model and the judge must be CLIP models.")
        return found

    def _load_judge(self, name):
        return inputs.SentenceEncoder(name, self.model.device) if Path(name).is_dir() else self._load(name)

    def probe(self, name):
        """Probing images by name, see `inputs.probe`: ImageDataset."""
        if name not in self._probes:
            self._probes[name] = probe_of(self.data, name, self.probe_images, self.seed)
        return self._probes[name]

    def images(self, name):
        """The probing CLIP's embeddings of a probe: float32 [images, c], on the CPU."""
        return self.clip.embed_images(self.probe(name)).cpu()

    def final(self, name):
        """The target's logits on a probe: float32 [images, classes]."""
        return inputs.final(self.model, self.probe(name), self.data)

    def concepts(self, name):
        """A concept set and its embeddings by the probing CLIP: (list of str, float32 [concepts, c])."""
        found = inputs.concepts(name, self.data)
        return found, self.texts(found)

    def texts(self, texts, judge=False):
        """Embeddings of texts in the prompt, by the probing CLIP or by the judge: float32 [m, c], on the CPU."""
        return inputs.embed_concepts(self.judge if judge else self.clip, texts, self.prompt).cpu()

    def notes(self):
        """What a record keeps about the setting."""
        about = {"clip": self.clip.name, "judge": self.judge.name if self.judge else "", "prompt": self.prompt}
        return about | {"probes": {name: len(probe) for name, probe in self._probes.items()}}


def probe_of(data, name, probe_images=0, seed=0):
    """A probe of the usual size, ImageDataset. Arguments as of `Setting`."""
    wide = "web" in name or "habitat" in name
    usual = int(len(data) * (WEB if wide else 1)) if data.name == "bestiary" else 0
    return inputs.probe(name, data, probe_images or usual, seed)


def functions(names):
    """Names of similarity functions: "all", or several with commas. Raises UserError for another one."""
    chosen = FUNCTIONS if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in FUNCTIONS:
            raise UserError(
                f"There is no similarity function '{name}'; there are {', '.join(FUNCTIONS)}.{nearest(name, FUNCTIONS)}"
            )
    return list(chosen)


def listed(names):
    """A parameter that names several things with commas: list of str."""
    return [name.strip() for name in names.split(",") if name.strip()]


def constants(name, n, top_k=0):
    """Constants of a similarity function for n probing images: dict.

    The paper's, but with top images no more than a quarter of the probe, and two at least to put into an order.
    top_k: for SoftWPMI; 0 is the paper's 100.
    """
    if name == "rank_reorder":
        return {"top_fraction": max(0.05, 2.5 / n)}
    usual = {"wpmi": 28, "soft_wpmi": top_k or 100}.get(name)
    return {} if usual is None else {"top_k": max(1, min(usual, int(SHARE * n)))}


def scored(name, images, texts, q, top_k=0, ties="first", **options):
    """Scores [neurons, concepts] by a similarity function: in float64 where that is cheap, else in float32.

    images [n, c], texts [m, c], q [n, neurons].
    """
    precision = "double" if len(images) * len(texts) <= similarity.SMALL else "single"
    given = constants(name, len(q), top_k) | ({} if name.startswith("cos") else {"ties": ties})
    return similarity.FUNCTIONS[name]((images, texts), q, precision=precision, **given, **options)


def best(scores):
    """Label (DEAD for a dead neuron) and best score (nan there): int64 and float64 [neurons]."""
    top, label = similarity.first_best(scores.double().nan_to_num(nan=-torch.inf))
    there = top > -torch.inf
    return torch.where(there, label, similarity.DEAD), torch.where(there, top, torch.nan)


def named(label, found):
    """The words of labels: list of str, "(dead)" for a dead neuron."""
    return [found[k] if k >= 0 else "(dead)" for k in torch.as_tensor(label).tolist()]


def rows_of(label, embeddings):
    """The rows of labels, nan for dead neurons: [neurons, c]."""
    chosen = embeddings[label.clamp(min=0)].clone()
    chosen[label < 0] = torch.nan
    return chosen


def shows(label, shown):
    """Whether images show a neuron's label: bool [images, neurons]. shown: bool [images, concepts]."""
    return shown[:, label.clamp(min=0)] & (label >= 0)


def stability(name, images, texts, q, label, resamples, seed=0, top_k=0, ties="first"):
    """Per cent of resamples of the probe in which a neuron keeps its label: float64 [neurons]."""
    again = [found for found, _ in resampled(name, images, texts, q, resamples, seed, top_k, ties)]
    return 100.0 * evaluation.stability(label, torch.stack(again)).numpy()


def resampled(name, images, texts, q, resamples, seed=0, top_k=0, ties="first"):
    """Labels and best scores from resampled probes: list of (int64 [neurons], float64 [neurons])."""
    draws = evaluation.resampled(len(q), resamples, seed)
    return [best(scored(name, images[i], texts, q[i], top_k, ties)) for i in draws]


def auc_interval(score, right, seed=0, resamples=500):
    """AUC of a score as a sign of a right label, with a bootstrap interval over neurons: (value, low, high, n)."""
    score, right = np.asarray(score), np.asarray(right)
    drawn = np.random.default_rng(seed).integers(len(score), size=(resamples, len(score)))
    values = evaluation.auc(score[drawn], right[drawn])
    return of_draws(evaluation.auc(score, right), values, len(score))
