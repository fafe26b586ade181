"""Table 2: classification by description, and what it gains from the concepts that the method finds.

An image's score for a class is its mean similarity to the sentences that join the class with each of its
descriptors (Menon & Vondrick 2023). The paper adds, to each class, descriptors found in the images of the two classes
nearest to it in the language space. Descriptors are numbers into a bank; a set of them belongs to each class.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from lib import seeds
from lib.errors import UserError, one_of

PROMPTS = {
    "paper": "how can you identify a {name}. Distinctive and physical features describing it is {descriptor}",
    "has": "{name}, which has {descriptor}.",  # in the manner of Menon & Vondrick
    "caption": "a photo of a {name} with {descriptor}.",  # in the manner of the miniature's captions
    "nameless": "a photo showing {descriptor}",  # the descriptor alone
}
Sets = list[list[int]]


def prompt_of(dataset: str, prompt: str = "auto") -> str:
    """The sentence for a class and a descriptor, with {name} and {descriptor}.

    "auto" is the paper's (appendix K), and at the miniature one of its captions' manner: the paper's is longer than
    the miniature's text tower reads. Raises UserError for another name.
    """
    if prompt == "auto":
        prompt = "caption" if dataset == "bestiary" else "paper"
    one_of("prompt", prompt, PROMPTS)
    return PROMPTS[prompt]


def sentences(classes: Sequence[str], bank: Sequence[str], sets: Sets, prompt: str) -> list[list[str]]:
    """The sentences of each class, from its name and its set of descriptors; prompt: from `prompt_of`."""
    return [
        [prompt.format(name=name, descriptor=bank[d]) for d in own] for name, own in zip(classes, sets, strict=True)
    ]


def classifier(
    texts: Sequence[Sequence[str]], embeddings: Mapping[str, torch.Tensor], aggregate: str = "similarities"
) -> torch.Tensor:
    """Classifier float32 [classes, c] of which an image's product is its score.

    texts: the sentences of each class, one at least; embeddings: float32 [c] of norm 1, by text. "similarities": the
    mean of the similarities to a class's sentences, which is the product with their mean; "embeddings": that mean
    scaled to norm 1.
    """
    one_of("aggregate", aggregate, ("similarities", "embeddings"))
    weights = torch.stack([torch.stack([embeddings[text] for text in of]).mean(0) for of in texts])
    return F.normalize(weights, dim=1) if aggregate == "embeddings" else weights


# --- which descriptors a class has


def own_sets(bank: Sequence[str], descriptors: Sequence[Sequence[str]], share: float = 1.0, seed: int = 0) -> Sets:
    """The descriptors that the bank gives each class, as numbers into it.

    share: only this part of each class's list, drawn at random, one at least: a describer who forgets the rest.
    """
    number = {text: i for i, text in enumerate(bank)}
    rng, sets = seeds.rng(seed, "forgotten"), []
    for texts in descriptors:
        every = [number[text] for text in dict.fromkeys(texts)]
        kept = rng.permutation(len(every))[: max(1, round(share * len(every)))]
        sets.append([every[i] for i in sorted(kept)])
    return sets


def neighbours(by_class: torch.Tensor, count: int = 2) -> np.ndarray:
    """The `count` classes nearest to each in the language space: int64 [classes, count].

    by_class [classes, c] of norm 1. Paper section 4. Raises UserError when there are not that many other classes.
    """
    if not 1 <= count < len(by_class):
        raise UserError(f"{count} neighbours were asked for among {len(by_class)} classes; give from 1 to one fewer.")
    similarity = (by_class @ by_class.T).fill_diagonal_(-torch.inf)
    return similarity.topk(count, dim=1).indices.cpu().numpy()


def found_sets(
    vision_ids: np.ndarray | torch.Tensor, classes_of_images: np.ndarray, classes: int, keep: int = 5
) -> Sets:
    """The descriptors found in the images of each class, most frequent first, of equally frequent ones the lower.

    vision_ids int [n, N], -1 pads; classes_of_images int [n], -1 counts for none; keep: at most so many, 0 for all.
    """
    ids, found = np.asarray(vision_ids), []
    for k in range(classes):
        own = ids[np.asarray(classes_of_images) == k]
        values, counts = np.unique(own[own >= 0], return_counts=True)
        found.append(values[np.lexsort((values, -counts))][: keep or None].tolist())
    return found


def enlarged(own: Sets, found: Sets, sources: np.ndarray) -> Sets:
    """Each class's own descriptors and those found for its sources, int [classes, m], none twice."""
    return [
        list(dict.fromkeys([*mine, *(d for s in given for d in found[s])]))
        for mine, given in zip(own, np.asarray(sources).tolist(), strict=True)
    ]


# --- controls


def random_sources(nearest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each class as many other classes, neither itself nor one of its neighbours: int64 like `nearest`."""
    classes, count = nearest.shape
    drawn = []
    for k, near in enumerate(nearest):
        others = np.setdiff1d(np.arange(classes), [k, *near])
        others = others if len(others) >= count else np.setdiff1d(np.arange(classes), [k])
        drawn.append(rng.choice(others, count, replace=False))
    return np.stack(drawn)


def random_additions(own: Sets, larger: Sets, bank: int, rng: np.random.Generator) -> Sets:
    """As many descriptors added as in `larger`, but drawn from those of a `bank` of that size that a class lacks."""
    found = []
    for mine, grown in zip(own, larger, strict=True):
        others = np.setdiff1d(np.arange(bank), mine)
        found.append([*mine, *rng.choice(others, len(grown) - len(mine), replace=False).tolist()])
    return found


def halves(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Half 0 or 1 of each image, every class split evenly: int64 [n]."""
    half = np.zeros(len(labels), np.int64)
    order = seeds.rng(seed, "halves").permutation(len(labels))
    for label in np.unique(labels):
        members = order[np.asarray(labels)[order] == label]
        half[members] = np.arange(len(members)) % 2
    return half


def gains(base: torch.Tensor, boosted: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Images gained when one class alone is boosted, for each class: int64 [classes].

    base, boosted float [n, classes] (scores); labels int [n]. For the rule that leaves classes out.
    """
    best, right_class, changes = base.topk(2, dim=1), torch.as_tensor(labels), []
    right = best.indices[:, 0] == right_class
    for k in range(base.shape[1]):
        other = (best.indices[:, 0] == k).long()[:, None]  # of the two best the first that is not k
        winner, rival = (of.gather(1, other)[:, 0] for of in (best.indices, best.values))
        now = torch.where(boosted[:, k] > rival, k, winner) == right_class
        changes.append(int(now.sum() - right.sum()))
    return np.array(changes)


def tuned(base: torch.Tensor, boosted: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """Scores [n, classes]: `boosted`, but `base` for classes that the boost harms on these same images."""
    return torch.where(torch.from_numpy(gains(base, boosted, labels) >= 0), boosted, base)


def tuned_elsewhere(base: torch.Tensor, boosted: torch.Tensor, labels: np.ndarray, half: np.ndarray) -> torch.Tensor:
    """The same, but each half of the images has the rule that the other half showed. half: from `halves`."""
    scores = base.clone()
    for h in (0, 1):
        seen, judged = np.flatnonzero(half == h), np.flatnonzero(half != h)
        kept = torch.from_numpy(gains(base[seen], boosted[seen], labels[seen]) >= 0)
        scores[judged] = torch.where(kept, boosted[judged], base[judged])
    return scores
