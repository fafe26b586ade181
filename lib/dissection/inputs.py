"""What a dissection is made from: probing images, concept sets, and the truth about them where it is known."""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lib import store
from lib.data import broden, download, names, probes, spread
from lib.data import load as load_images
from lib.dissection import activations
from lib.errors import UserError, nearest
from lib.models import heads
from lib.paths import DATA

WORDS = DATA / "bestiary" / "common_words.txt"
PUBLISHED = {"3k": "concepts_3k", "10k": "concepts_10k", "20k": "concepts_20k"} | {
    "broden_labels": "concepts_broden_labels_clean",
    "imagenet_labels": "concepts_imagenet_labels",
}
HABITAT = "found in a dark forest"  # the miniature's narrow probe


# --- probing images


def probe(name, data, images=0, seed=0):
    """Probing images by name: ImageDataset.

    name: "val" (the images of the run), another split of their dataset, "habitat" (web images of one habitat of the
    bestiary), a dataset or folder that `lib.data.load` knows, "cifar100" (its training images) or "broden"; several
    joined by "+". images: of each, 0 for all (the habitat is a part of so many web images); the run's own come
    as they are. Raises UserError.
    """
    parts = [_probe(part.strip(), data, images, seed) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else probes.joined(name, parts)


def _probe(name, data, images, seed):
    if name == data.split:
        return data
    if name == "habitat":
        web = load_images(data.name, "web", seed=seed, images=images)
        return web.subset([i for i in range(len(web)) if HABITAT in web.true_descriptors(i)])
    if name == "cifar100":
        found = probes.cifar100()
        return found.subset(spread(found.labels, images, seed))
    if name == "broden":
        return broden.load(images, seed)
    if name in names() or "/" in name:
        return load_images(name, "val", seed=seed, images=images)
    return load_images(data.name, name, seed=seed, images=images)


# --- concepts


def concepts(name, data):
    """A concept set by name: list of str.

    name: "species" or "classes" (the class names), "descriptors" (the bank), "words" (common words that are neither,
    for the bestiary), "3k", "10k", "20k", "broden_labels" or "imagenet_labels" (the paper's, downloaded), or the path
    of a text file; several joined by "+", a concept that comes twice kept once. Raises UserError.
    """
    parts = name.split("+")
    found = [text for part in parts for text in _concepts(part.strip(), data)]
    return found if len(parts) == 1 else list(dict.fromkeys(found))


def _concepts(name, data):
    if name in ("species", "classes"):
        return list(data.classes)
    if name == "descriptors":
        data.require_descriptors(every_class=False)
        return data.bank
    if name == "words":
        return read_concepts(WORDS)
    if name in PUBLISHED:
        return read_concepts(download(PUBLISHED[name]))
    if "/" in name or name.endswith(".txt"):
        return read_concepts(name)
    known = ["species", "classes", "descriptors", "words", *PUBLISHED]
    raise UserError(
        f"Concept set '{name}' is unknown; give one of {', '.join(known)} or a text file.{nearest(name, known)}"
    )


def read_concepts(path):
    """Concepts of a text file, one a line: list of str, without blank lines and spaces around.

    A concept that stands there twice is kept twice, as in the released code (44 of Broden's labels do): both get the
    same score, the first one becomes the label, and each halves the probability of the other. Raises UserError for a
    file that is missing, empty or not text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file.read().splitlines()]
    except FileNotFoundError:
        raise UserError(f"There is no file of concepts {path}; give a text file with one concept a line.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; give a text file with one concept a line.") from None
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"{path} holds no concepts; give a text file with one concept a line.")
    return found


def check_concepts(found):
    """How many concepts come twice. Raises UserError unless there are two different ones, none of them empty."""
    empty = sum(not str(text).strip() for text in found)
    if empty:
        raise UserError(f"{empty} of {len(found)} concepts are empty; take them out.")
    if len(set(found)) < 2:
        raise UserError(f"There is {len(set(found))} concept, but a softmax over concepts needs two; give more.")
    return len(found) - len(set(found))


def embed_concepts(clip, found, prompt="{}"):
    """Concepts in a CLIP's text space: float32 [concepts, c]. prompt: with {}; the paper takes the bare words."""
    if "{}" not in prompt:
        raise UserError(f"The prompt '{prompt}' has no {{}}; write where the concept goes.")
    check_concepts(found)
    return clip.embed_texts([prompt.format(text) for text in found])


class SentenceEncoder:
    """A judge of labels that is no CLIP: a sentence encoder in a folder, as the sentence-transformers package saves it.

    The paper's is all-mpnet-base-v2. Raises UserError where the package is missing or the folder holds no encoder.
    """

    def __init__(self, folder, device="cpu"):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                f"A sentence encoder ({folder}) needs the package sentence-transformers (`pip install "
                "sentence-transformers`); without it give the name of a CLIP as the judge."
            ) from None
        if not (Path(folder) / "modules.json").is_file():
            raise UserError(
                f"{folder} holds no sentence encoder (it has no modules.json); give a folder that one wrote."
            )
        self.name, self.encoder = Path(folder).resolve().name, SentenceTransformer(str(folder), device=str(device))

    def embed_texts(self, texts):
        """Embeddings of norm 1, float32 [n, c], on the CPU."""
        return self.encoder.encode(list(texts), convert_to_tensor=True, normalize_embeddings=True).float().cpu()


# --- activations


def final(model, images, data):
    """Logits of a classifier, or of a CLIP's zero-shot one on the classes of `data`: float32 [images, classes], CPU."""
    weight, bias = heads.head(model, data)
    return (model.embed_images(images) @ weight.T + bias).cpu()


def hidden(model, images, layers, pool="released", batch_size=64):
    """Activations of layers of a model's vision tower: dict of layer to float32 [images, neurons], from the cache."""
    activations.check_layers(model.tower, layers)
    usual = _stages(model)
    computed = usual if set(layers) <= set(usual) else list(layers)  # one pass for all that other pages will want

    def compute():
        return activations.collect(model.tower, computed, batches(model, images, batch_size), pool)

    about = {"layers": computed, "pool": pool, "images": images.fingerprint, "n": len(images), "resize": model.resize}
    found = store.tensors({"kind": "activations", "model": model.decides, **about}, compute)
    return {name: found[name] for name in layers}


def batches(model, images, batch_size=64):
    """Images as a model's tower takes them: an iterator of float32 [b, 3, S, S] on its device."""
    for start in range(0, len(images), batch_size):
        chosen = images.subset(range(start, min(start + batch_size, len(images))))
        yield model.normalised(model.pixels(chosen))


STAGES = r"(visual\.)?(layer[1-4]|transformer\.resblocks\.\d+|trunk\.stages\.\d)|encoder\.layers\.encoder_layer_\d+"


def stages(model):
    """The layers that are usually dissected, first to last: stages of a ResNet, blocks of a ViT. Raises UserError."""
    found = _stages(model)
    if not found:
        raise UserError(f"{model.name} has no stages or blocks that are known here; name its layers.")
    return found


def _stages(model):
    return [name for name in activations.layers(model.tower) if re.fullmatch(STAGES, name)]


def choose_layers(model, wanted):
    """Names of layers: "" or "auto" for all of `stages`, "last" for the last one, or names with commas."""
    if wanted in ("", "auto"):
        return stages(model)
    if wanted == "last":
        return stages(model)[-1:]
    chosen = [name.strip() for name in wanted.split(",")]
    activations.check_layers(model.tower, chosen)
    return chosen


# --- the bestiary's truth


@lru_cache
def part_of():
    """Descriptor -> the part of the animal where it shows ("background" for habitats): dict."""
    from lib.bestiary.species import PART_OF_TRAIT, TRAITS

    return {text: PART_OF_TRAIT[trait] for trait, values in TRAITS.items() for text in values.values() if text}


def present(data, found):
    """Whether an image shows a concept, a descriptor or its class name: bool [images, concepts]; others never show."""
    column = {text: m for m, text in enumerate(found)}
    shown = torch.zeros(len(data), len(found), dtype=torch.bool)
    for i, label in enumerate(data.labels):
        known = [*data.true_descriptors(i), data.classes[label]]
        shown[i, [column[text] for text in known if text in column]] = True
    return shown


def masks(data, found, stride=4):
    """Where an image shows a concept (its class: the whole animal): bool [images, concepts, H / stride, W / stride]."""
    column = {text: m for m, text in enumerate(found)}
    rows = []
    for i, label in enumerate(data.labels):
        parts = {name: mask[::stride, ::stride] for name, mask in data.part_masks(i).items()}
        animal = np.any(list(parts.values()), axis=0)
        parts |= {"background": ~animal, "animal": animal}
        row = np.zeros((len(found), *animal.shape), bool)
        for text in [*data.true_descriptors(i), data.classes[label]]:
            if text in column:
                row[column[text]] = parts.get(part_of().get(text, "animal"), False)
        rows.append(row)
    return torch.from_numpy(np.stack(rows))
