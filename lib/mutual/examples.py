"""One image, explained: its parts and what they are called, what the class stands for, what the two share.

And the same for a second class: why not that? `sharing` sees every image, and `choose` picks a page's examples from
it by a rule, successes and failures.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from lib.data import ImageDataset, picture
from lib.errors import UserError, nearest
from lib.models import Clip, heads
from lib.mutual import information, prompts, words
from lib.mutual.explain import find, name_parts
from lib.mutual.options import DEFAULTS, Options

COLUMNS = ["image", "class", "predicted", "rival", "top1", "probability", "named"]  # of `sharing`
COLUMNS += ["matches", "matches_rival", "above_chance", "hold"]
KINDS = {"shares most": 6, "wrong and sure": 3, "right, shares least": 3}  # of a page's examples, and how many


@dataclass
class Side:
    """A class as the language side of an image.

    descriptors: nearest to the class first. shared: those that the image names too. curve: information as the image's
    descriptors are taken away. auc: of that curve, padded as in Table 3.
    """

    name: str
    probability: float
    descriptors: list[str]
    shared: list[str]
    curve: np.ndarray
    auc: float


@dataclass
class View:
    """An image and its explanation.

    picture: RGB array [S, S, 3]. label: its class, or None for a file. label_map: int [h, w], -1 outside. parts: number
    of a part -> its descriptors, best first. circled: number of a part -> RGB array with its red ellipse. named: the
    image's descriptors, most relevant first. predicted, rival: `Side`. true: descriptors that hold, or None.
    """

    picture: np.ndarray
    label: str | None
    label_map: np.ndarray
    parts: dict[int, list[str]]
    circled: dict[int, np.ndarray]
    named: list[str]
    predicted: Side
    rival: Side
    true: list[str] | None

    def marked(self, most: int = 9) -> dict[str, bool]:
        """What the image names, `most` of it, with ✓ or ✗ where it is known to hold or not -> the class has it too."""
        tick = {True: " ✓", False: " ✗"}
        texts = {t: t if self.true is None else t + tick[t in self.true] for t in self.named[:most]}
        more = {f"and {len(self.named) - most} more": False} if len(self.named) > most else {}
        return {marked: t in self.predicted.shared for t, marked in texts.items()} | more


def group_of(images: ImageDataset, image: int | str) -> tuple[ImageDataset, int]:
    """The images that one is decomposed together with, and its number among them.

    image: a number of `images`, which comes with all others of its class; or the path of a picture, which is alone.
    Raises UserError for a number that is not there and a file that cannot be read.
    """
    if isinstance(image, str):
        one = np.zeros(1, np.int64)
        return replace(images, split=picture.SPLIT, labels=one, indices=one, source=picture.source(image)), 0
    if type(image) is not int:
        raise UserError(f"image is {image!r}; give a number of the dataset or the path of a picture.")
    if not 0 <= image < len(images):
        held = f"Image {image} was asked for, but {images.name} has {len(images)} here"
        raise UserError(f"{held}; give 0 to {len(images) - 1}.")
    members = np.flatnonzero(images.labels == images.labels[image])
    return images.subset(members), int(np.flatnonzero(members == image)[0])


def described(clip: Clip, group: ImageDataset) -> str:
    """A sentence on what an image's explanation rests on: with how many images it is decomposed, and by which model."""
    if group.split != picture.SPLIT:
        return f"It is decomposed together with the others of its class: {len(group)} images."
    alone = "The picture is a file: it is decomposed by itself, and its label is not known."
    drawn = "This model has seen drawn animals only: what it says of a photograph means nothing."
    return f"{alone} {drawn}" if clip.miniature else alone


def view(clip: Clip, group: ImageDataset, i: int, options: Options = DEFAULTS, rival: str = "", seed: int = 0) -> View:
    """The explanation of image `i` of a group of images that are decomposed together (see `group_of`).

    options: with parts_by "both" the parts are those of K-means. rival: the class that it is held against, by default
    the second most likely one. Raises UserError for an unknown class, and for images without descriptors.
    """
    group.require_descriptors(every_class=False)
    if rival and rival not in group.classes:
        raise UserError(f"'{rival}' is no class of {group.name}.{nearest(rival, group.classes)}")
    pixels = clip.pixels([group.image(i)])
    chances = probabilities(clip, group, clip.embed_pixels(pixels))[0]
    order = chances.argsort(descending=True).tolist()
    found = find(clip, group, options, options.methods[-1], seed)
    named, label_map = name_parts(clip, group, found, options), np.asarray(found.label_maps)[i].astype(int)
    ids, by_part = named.vision_ids[i].tolist(), named.part_ids[i].tolist()
    drawn, _, numbers = prompts.red_circles(pixels, torch.from_numpy(label_map)[None])
    second = group.classes.index(rival) if rival else order[1]
    sides = [_side(clip, group, named.vision_ids[i : i + 1], k, float(chances[k]), options) for k in (order[0], second)]
    return View(
        picture=pixels[0].permute(1, 2, 0).numpy(),
        label=None if group.split == picture.SPLIT else group.classes[group.labels[i]],
        label_map=label_map,
        parts={p: [group.bank[d] for d in by_part[p] if d >= 0] for p in numbers.tolist()},
        circled={p: drawn[k, 0].permute(1, 2, 0).numpy() for k, p in enumerate(numbers.tolist())},
        named=[group.bank[d] for d in ids if d >= 0],
        predicted=sides[0],
        rival=sides[1],
        true=group.true_descriptors(i) if hasattr(group.source, "true_descriptors") else None,
    )


def probabilities(clip: Clip, images: ImageDataset, embedded: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes of the scaled cosines of embeddings float32 [n, c]: float32 [n, classes], on the CPU.

    Raises UserError for images of a single class.
    """
    if len(images.classes) < 2:
        raise UserError(
            f"{images.name} has one class; an image is explained against a second one, so give two or more."
        )
    return heads.logits(embedded, words.classifier(clip, images), clip.logit_scale).softmax(1).cpu()


def _side(clip: Clip, images: ImageDataset, ids: torch.Tensor, k: int, chance: float, options: Options) -> Side:
    size = words.language_size(images, options.top_u)
    listed = information.language_concepts(words.language_scores(clip, images), [k], size)
    curve = information.curves(ids, listed, options.information, options.removal)
    auc = float(information.image_scores(curve, options.parts * options.per_part + 1)[1][0])
    shared = [images.bank[d] for d in listed[0] if d in ids[0].tolist()]
    return Side(images.classes[k], chance, [images.bank[d] for d in listed[0]], shared, curve[~np.isnan(curve)], auc)


# --- many images, and a choice of them


def sharing(clip: Clip, images: ImageDataset, named: np.ndarray, language: np.ndarray) -> pd.DataFrame:
    """What every image shares with its predicted class, and with the second most likely one, the rival.

    named int [n, N], language int [classes, M]: as in the tensors of `observe.table3`. A line an image, `COLUMNS`: top1
    (0 or 100), named, matches, above_chance (matches less those with an average other class), hold (how many of the
    named ones hold; nan where the truth is not known) and so on.
    """
    chances = probabilities(clip, images, clip.embed_images(images)).topk(2, dim=1)
    (first, second), rows, names = chances.indices.T.numpy(), np.arange(len(images)), np.array(images.classes)
    shared = information.matches_by_class(named, language, len(images.bank))
    own = shared[rows, first]
    table = words.lines(images, predicted=names[first], rival=names[second], top1=100.0 * (first == images.labels))
    table = table.assign(probability=chances.values[:, 0].numpy(), named=(named >= 0).sum(1), matches=own)
    table["matches_rival"] = shared[rows, second]
    table["above_chance"] = own - (shared.sum(1) - own) / max(len(names) - 1, 1)
    if not hasattr(images.source, "true_descriptors"):
        return table.assign(hold=np.nan)
    bank = np.array([*images.bank, ""])  # number -1 is none of them
    return table.assign(hold=[np.isin(bank[ids], images.true_descriptors(i)).sum() for i, ids in enumerate(named)])


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """A page's examples by a rule: lines of `sharing`, with their `kind` (of `KINDS`), at most one a class and kind.

    "shares most": of the rightly classified, those with most matches above chance. "wrong and sure": the wrongly
    classified of highest probability. "right, shares least": the rightly classified that share least. Ties go to the
    lower number.
    """
    right, wrong = table[table["top1"] == 100], table[table["top1"] == 0]
    orders = {
        "shares most": right.sort_values("above_chance", ascending=False, kind="stable"),
        "wrong and sure": wrong.sort_values("probability", ascending=False, kind="stable"),
        "right, shares least": right.sort_values("above_chance", kind="stable"),
    }
    found = pd.DataFrame({"kind": pd.Series(dtype=str), **table.iloc[:0]})
    for kind, order in orders.items():
        left = order[~order["image"].isin(found["image"])].drop_duplicates("class").head(KINDS[kind])
        found = pd.concat([found, left.assign(kind=kind)])
    return found.reset_index(drop=True)
