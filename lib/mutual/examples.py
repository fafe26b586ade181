"""One image, explained: its parts and what they are called, what the class stands for, what the two share.

And the same for a second class: why not that? `choose` picks the images of a page by a rule, successes and failures.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lib import store
from lib.errors import UserError, nearest
from lib.models import heads
from lib.mutual import foreground, information, prompts
from lib.mutual.explain import find, name_parts
from lib.mutual.sensitivity import shared
from lib.mutual.table3 import language_size

VERSION = 1  # raise it when a row's numbers change
EXAMPLES = {"shares most": 6, "wrong and sure": 3, "right, shares least": 3}


@dataclass
class Side:
    """A class as the language side of an image: its name, probability, descriptors (nearest first), those that the
    image names too, the MI curve as the image's descriptors are taken away, and its AUC as in Table 3 (padded)."""

    name: str
    probability: float
    descriptors: list
    shared: list
    curve: np.ndarray
    auc: float


@dataclass
class View:
    """An image and its explanation.

    picture: RGB array [S, S, 3]. label: its class, or None for a file. label_map: int [h, w], -1 outside. parts: number
    of a part -> its descriptors, best first. prompts: number of a part -> RGB array with its red ellipse. named: the
    image's descriptors, most relevant first. predicted, rival: `Side`. true: descriptors that hold, or None.
    """

    picture: np.ndarray
    label: str | None
    label_map: np.ndarray
    parts: dict
    prompts: dict
    named: list
    predicted: Side
    rival: Side
    true: list | None


def opened(path):
    """A picture file as RGB. Raises UserError when it is not there or no picture."""
    if not Path(path).expanduser().is_file():
        raise UserError(f"There is no file {path}; give `image` a number of the dataset or the path of a picture.")
    try:
        with Image.open(Path(path).expanduser()) as picture:
            return picture.convert("RGB")
    except Exception as error:  # PIL raises many kinds for what is no picture
        raise UserError(f"{path} is not a picture that can be read ({type(error).__name__}); give another.") from None


def number_of(data, image):
    """`image` as a number of the dataset; None takes the first. Raises UserError for one that it does not have."""
    if isinstance(image, bool) or not isinstance(image, int | None):
        raise UserError(f"image is {image!r}; give a number of the dataset or the path of a picture.")
    image = 0 if image is None else image
    if not 0 <= image < len(data):
        raise UserError(
            f"Image {image} was asked for, but {data.name} has {len(data)} here; give 0 to {len(data) - 1}."
        )
    return image


class _WithFile:
    """The images of a dataset, and as number -1 a picture from elsewhere."""

    def __init__(self, data, picture):
        self.source, self.picture = data.source, picture
        content = hashlib.sha256(picture.tobytes() + repr(picture.size).encode()).hexdigest()
        self.fingerprint = store.digest({"beside": data.fingerprint, "picture": content})

    def image(self, i):
        return self.picture if i == -1 else self.source.image(i)


def beside(clip, data, path):
    """A picture file and the images of `data` that are classified like it: (ImageDataset, number of the file).

    A group is decomposed together, so the picture needs company: `foreground.GROUP` images at most.
    """
    picture = opened(path)
    weights = heads.classifier(clip, data.classes, data.templates)
    own = int((clip.embed_images([picture]) @ weights.T).argmax())
    alike = np.flatnonzero((clip.embed_images(data) @ weights.T).argmax(1).cpu().numpy() == own)[: foreground.GROUP - 1]
    found = replace(
        data,
        labels=np.full(len(alike) + 1, own),
        indices=np.append(data.indices[alike], -1),
        source=_WithFile(data, picture),
    )
    return found, len(alike)


def view(
    clip,
    data,
    image=None,
    rival="",
    part_method="kmeans",
    parts=5,
    per_part=3,
    top_u=0,
    measure="released",
    removal="dummy",
    seed=0,
):
    """The explanation of one image: `View`.

    image: a number of `data` (None: the first) or the path of a picture. rival: the class that it is held against, by
    default the second most likely one. The other options are those of Table 3. Raises UserError for a picture that
    cannot be read, a number that is not there, an unknown class.
    """
    data.require_descriptors(every_class=False)
    from_file = isinstance(image, str)
    data, i = beside(clip, data, image) if from_file else (data, number_of(data, image))
    found = find(clip, data, part_method, parts, seed=seed)
    by_part, ids, _ = name_parts(clip, data, found, per_part=per_part)
    words, scores = _language(clip, data, i)
    order = scores.argsort(descending=True).tolist()
    second = _class_of(data, rival) if rival else order[1]
    size = min(language_size(data, top_u), len(data.bank))
    sides = []
    for k in (order[0], second):
        listed = information.language_concepts(words, [k], size)
        curve = information.curves(ids[i : i + 1], listed, measure, removal)
        auc = float(information.image_scores(curve, parts * per_part + 1)[1][0])
        texts, own = [data.bank[d] for d in listed[0]], set(ids[i].tolist())
        both = [data.bank[d] for d in listed[0] if d in own]
        sides.append(Side(data.classes[k], float(scores[k]), texts, both, curve[~np.isnan(curve)], auc))
    pixels = clip.pixels([data.image(i)])
    drawn, _, numbers = prompts.red_circles(pixels, found.label_maps[i : i + 1].long())
    return View(
        picture=pixels[0].permute(1, 2, 0).numpy(),
        label=None if from_file else data.classes[data.labels[i]],
        label_map=found.label_maps[i].numpy().astype(int),
        parts={p: [data.bank[d] for d in by_part[i, p].tolist() if d >= 0] for p in numbers.tolist()},
        prompts={p: drawn[k, 0].permute(1, 2, 0).numpy() for k, p in enumerate(numbers.tolist())},
        named=[data.bank[d] for d in ids[i].tolist() if d >= 0],
        predicted=sides[0],
        rival=sides[1],
        true=data.true_descriptors(i) if hasattr(data.source, "true_descriptors") else None,
    )


def _language(clip, data, i):
    """Similarity of class and descriptor texts [classes, D], and the probabilities of image i's classes [classes]."""
    weights = heads.classifier(clip, data.classes, data.templates)
    if len(weights) < 2:
        raise UserError(f"{data.name} has one class; an image is explained against a second one, so give two or more.")
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
    image = clip.embed_images([data.image(i)])
    return (weights @ concepts.T).cpu(), (clip.logit_scale * image @ weights.T)[0].softmax(0).cpu()


def _class_of(data, name):
    if name not in data.classes:
        raise UserError(f"'{name}' is no class of {data.name}.{nearest(name, data.classes)}")
    return data.classes.index(name)


def choose(clip, data, part_method="kmeans", parts=5, per_part=3, top_u=0, seed=0):
    """The images of the page, by a rule: dict of kind (of `EXAMPLES`) to a list of numbers, at most one a class.

    What an image shares: matches with its predicted class minus the mean over all other classes. "shares most": of
    the rightly classified. "wrong and sure": the wrongly classified of highest probability. "right, shares least":
    the rightly classified that share least. Ties go to the lower number.
    """
    ids = name_parts(clip, data, find(clip, data, part_method, parts, seed=seed), per_part=per_part)[1]
    weights = heads.classifier(clip, data.classes, data.templates)
    concepts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
    chances = (clip.logit_scale * clip.embed_images(data) @ weights.T).softmax(1).max(1)
    predicted, sure = chances.indices.cpu().numpy(), chances.values.cpu().numpy()
    size = min(language_size(data, top_u), len(data.bank))
    language = information.language_concepts((weights @ concepts.T).cpu(), np.arange(len(weights)), size)
    own, chance = shared(ids, language, predicted, len(data.bank))
    right = predicted == data.labels
    orders = {
        "shares most": np.where(right, chance - own, np.inf),
        "wrong and sure": np.where(right, np.inf, -sure),
        "right, shares least": np.where(right, own - chance, np.inf),
    }
    found, taken = {}, set()
    for kind, cost in orders.items():
        found[kind] = []
        for i in np.argsort(cost, kind="stable").tolist():
            if len(found[kind]) < EXAMPLES[kind] and np.isfinite(cost[i]) and (kind, data.labels[i]) not in taken:
                if i not in sum(found.values(), []):
                    found[kind].append(i)
                    taken.add((kind, data.labels[i]))
    return found


def row(clip, data, image=None, rival="", content="", seed=0, **options):
    """The numbers of one image's explanation: named, matches, mi and auc with its class, and with the rival.

    content: anything that changes with the picture's content, so that a record never stands for another picture.
    """
    shown = view(clip, data, image, rival, seed=seed, **options)
    metrics = {"named": float(len(shown.named))}
    for name, side in (("", shown.predicted), ("_rival", shown.rival)):
        metrics |= {f"matches{name}": float(len(side.shared)), f"probability{name}": 100 * side.probability}
        metrics |= {f"mi{name}": float(side.curve[0]), f"auc{name}": side.auc}
    classes = {"predicted": shown.predicted.name, "rival": shown.rival.name, "label": shown.label}
    return {"metrics": metrics, "arrays": {}, "notes": classes}


def content_of(image):
    """sha256 of a picture file, "" for a number of the dataset."""
    return hashlib.sha256(opened(image).tobytes()).hexdigest() if isinstance(image, str) else ""


def first(chosen):
    """The first image of `choose`, of the first kind that has any: int."""
    return next(i for found in chosen.values() for i in found)
