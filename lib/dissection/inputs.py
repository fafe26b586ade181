"""What a dissection is made from: probing images, concept sets, their embeddings, and a judge of labels."""

from pathlib import Path
from typing import Any

import torch

from lib.data import ImageDataset, names, probes
from lib.dissection.options import plain_name
from lib.errors import UserError, nearest
from lib.given import Given

WORDS = "data/bestiary/common_words.txt"  # of the project
PUBLISHED = {"3k": "concepts_3k", "10k": "concepts_10k", "20k": "concepts_20k"} | {
    "broden_labels": "concepts_broden_labels_clean",
    "imagenet_labels": "concepts_imagenet_labels",
}
PER_CLASS = 50  # of the miniature's web images, as many as ImageNet's val has
HABITAT = "found in a dark forest"  # the miniature's narrow probe


# --- probing images


def probe(given: Given, name: str, images: int = 0) -> ImageDataset:
    """Probing images by name.

    name: "val" (the images of the run), another split of their dataset, "habitat" (the miniature's web images of one
    habitat), a dataset or folder that `lib.data.load` knows, "cifar100" (its training images) or "broden"; several
    joined by "+"; or "usual". images: of each but the run's own, 0 for all; of web (and habitat is a part of it) 50 a
    class. Raises UserError.
    """
    parts = [_probe(given, part.strip(), images) for part in plain_name(name, given.dataset).split("+")]
    return parts[0] if len(parts) == 1 else probes.joined(name, parts)


def _probe(given: Given, name: str, images: int) -> ImageDataset:
    if name == "val":
        return given.images
    if name == "habitat":
        web = _probe(given, "web", images)
        return web.subset([i for i in range(len(web)) if HABITAT in web.true_descriptors(i)])
    if name == "web":
        classes = given.limit or len(given.images.classes)
        return given.open_images("web", images=images or PER_CLASS * classes)
    if name == "cifar100":
        return given.open_images("train", "cifar100", 0, images)
    if name == "broden":
        return given.open_broden(images)
    if name in names() or "/" in name:
        return given.open_images("val", name, 0, images)
    return given.open_images(name, images=images)


# --- concepts


def concepts(given: Given, name: str) -> list[str]:
    """A concept set by name.

    name: "classes" (the class names), "descriptors" (the bank), "words" (common words that are neither, for the
    miniature), "3k", "10k", "20k", "broden_labels" or "imagenet_labels" (the paper's, downloaded), or the path of a
    text file; several joined by "+", a concept that comes twice kept once. Raises UserError.
    """
    parts = name.split("+")
    found = [text for part in parts for text in _concepts(given, part.strip())]
    return found if len(parts) == 1 else list(dict.fromkeys(found))


def _concepts(given: Given, name: str) -> list[str]:
    if name == "classes":
        return list(given.images.classes)
    if name == "descriptors":
        given.images.require_descriptors(every_class=False)
        return given.images.bank
    if name == "words":
        return read_concepts(given.open_file(WORDS))
    if name in PUBLISHED:
        return read_concepts(given.open_file(PUBLISHED[name]))
    if "/" in name or name.endswith(".txt"):
        return read_concepts(given.open_file(name))
    known = ["classes", "descriptors", "words", *PUBLISHED]
    raise UserError(
        f"Concept set '{name}' is unknown; give one of {', '.join(known)} or a text file.{nearest(name, known)}"
    )


def read_concepts(path: str | Path) -> list[str]:
    """Concepts of a text file, one a line, without blank lines and spaces around.

    A concept that stands there twice is kept twice, as in the released code (44 of Broden's labels do): both get the
    same score, the first one becomes the label, and each halves the probability of the other. Raises UserError for a
    file that is missing, empty or not text.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise UserError(f"There is no file of concepts {path}; give a text file with one concept a line.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; give a text file with one concept a line.") from None
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"{path} holds no concepts; give a text file with one concept a line.")
    return found


def check_concepts(found: list[str]) -> int:
    """How many concepts come twice. Raises UserError unless there are two different ones, none of them empty."""
    empty = sum(not text.strip() for text in found)
    if empty:
        raise UserError(f"{empty} of {len(found)} concepts are empty; take them out.")
    if len(set(found)) < 2:
        raise UserError(f"There is {len(set(found))} concept, but a softmax over concepts needs two; give more.")
    return len(found) - len(set(found))


# --- what reads them


def reader(given: Given, name: str) -> Any:
    """A model that embeds texts, by name. Raises UserError for one that reads none."""
    found = given.open_model(name)
    if not hasattr(found, "tokenizer"):
        raise UserError(f"{name} reads no text; the probing model and the judge must be CLIP models.")
    return found


def judge(given: Given, name: str) -> Any:
    """What judges labels by their texts: a CLIP, or the sentence encoder in a folder. Raises UserError."""
    return SentenceEncoder(given.open_file(name)) if Path(name).is_dir() else reader(given, name)


class SentenceEncoder:
    """A judge of labels that is no CLIP: a sentence encoder in a folder, as the sentence-transformers package saves it.

    The paper's is all-mpnet-base-v2. Raises UserError where the package is missing or the folder holds no encoder.
    """

    def __init__(self, folder: str | Path):
        try:
            from sentence_transformers import SentenceTransformer  # a package that few need
        except ImportError:
            raise UserError(
                f"A sentence encoder ({folder}) needs the package sentence-transformers (`pip install "
                "sentence-transformers`); without it give the name of a CLIP as the judge."
            ) from None
        if not (Path(folder) / "modules.json").is_file():
            raise UserError(
                f"{folder} holds no sentence encoder (it has no modules.json); give a folder that one wrote."
            )
        self.encoder = SentenceTransformer(str(folder), device="cpu")

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Embeddings of norm 1, float32 [n, c], on the CPU."""
        return self.encoder.encode(list(texts), convert_to_tensor=True, normalize_embeddings=True).float().cpu()
