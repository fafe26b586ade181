"""CLIP models at both scales behind one interface: embeddings of images and texts, and patch features."""

import hashlib
import logging
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional as F

from lib import cache, operators  # noqa: F401  before open_clip and torchvision
from lib.datasets import THREADS, ImageDataset
from lib.errors import UserError, nearest, some
from lib.paths import DATA, download_folder

import open_clip  # isort: skip
from torchvision.transforms import functional as tv  # isort: skip

VERSION = 1  # raise it when an embedding comes out different: it is part of every cache key
MINIATURE = DATA / "bestiary"
CPU_BATCH = 32  # images; the layers of larger batches leave the caches, and ask the system for fresh memory each time
# PyTorch's shortcut for attention at inference, taken for even numbers of heads, is several times slower on a CPU
torch.backends.mha.set_fastpath_enabled(False)
BANNER = "Random weights: this page shows that the code runs; its numbers mean nothing."
ATTENTION = ("keys", "keys_no_bias", "queries", "values")
LIBRARIES = ("torchvision/", "timm/")  # a name that starts so is an image classifier of that library
LEARNED_HEAD = ("finetuned", "supervised")  # objectives whose models have a head of their own and no text tower
FEATURES = {"ViT": ("tokens", *ATTENTION), "ResNet": ("tokens", *ATTENTION), "ConvNeXt": ("tokens",)}


# --- which model


@dataclass(frozen=True)
class Choice:
    """What a model's name stands for. kind: "tag" (source: open_clip's tag), "file" (a path) or "random"."""

    name: str
    architecture: str
    kind: str
    source: str
    row: dict


def catalogue(which=None):
    """data/models.csv: DataFrame of the models of the book, index `name`.

    which: names of sets, e.g. "grid comparison", for the rows that belong to one of them (column `sets`).
    Raises UserError for an unknown set.
    """
    rows = pd.read_csv(DATA / "models.csv", dtype=str, keep_default_na=False).set_index("name")
    if which is None:
        return rows
    wanted, members = which.split(), rows["sets"].str.split()
    for name in wanted:
        if not members.map(lambda s, name=name: name in s).any():
            known = sorted({s for sets in members for s in sets})
            raise UserError(f"data/models.csv has no set of models '{name}'; it has {', '.join(known)}.")
    return rows[members.map(lambda sets: any(name in sets for name in wanted))]


def resolve(model, dataset="bestiary", which="mutual"):
    """Names of the models that a parameter asks for ("all", one, or several with commas): list of str.

    which: the sets of data/models.csv that "all" stands for. Raises UserError for an unknown name, with the
    nearest known ones.
    """
    if model == "all":
        return list(catalogue(which).index)
    names = [name.strip() for name in str(model).split(",") if name.strip()]
    if not names:
        raise UserError("No model is given; name a row of data/models.csv, several with commas, or 'all'.")
    for name in names:
        choose(name, dataset)
    return list(dict.fromkeys(names))


def choose(name, dataset="bestiary"):
    """The Choice that a name stands for: where its architecture and weights come from. Loads nothing.

    name: a row of data/models.csv (at dataset "bestiary" its miniature, else the real pair), "ARCH/tag" (an
    open_clip pair), "ARCH:path" (a local checkpoint) or "ARCH:random"; ARCH may be a row. The activation of a
    local checkpoint is the architecture's: OpenAI's files need "ViT-B-32-quickgelu", not "ViT-B-32".
    Raises UserError for an unknown name.
    """
    from lib import classifiers

    _register_miniatures()
    rows = catalogue()
    stem, colon, source = str(name).partition(":")
    row = rows.loc[stem].to_dict() if stem in rows.index else {}
    if row and dataset == "bestiary":
        path = source or str(MINIATURE / "zoo" / f"{stem}.safetensors")
        return Choice(name, f"mini-{row['backbone']}", "random" if source == "random" else "file", path, row)
    if row.get("vision") and not colon:
        return Choice(name, row["vision"], "tag", "pretrained", row)
    if row and not row["openclip_model"]:
        raise UserError(f"{stem} exists in the miniature only: nobody has published such weights for '{dataset}'.")
    if stem.startswith(LIBRARIES):
        classifiers.check_architecture(stem)
        kind = "random" if source == "random" else "file" if colon else "tag"
        return Choice(name, stem, kind, source or "pretrained", row)
    if row and not colon:
        architecture, _ = pair(row["openclip_model"], row["openclip_pretrained"])
        return Choice(name, architecture, "tag", row["openclip_pretrained"], row)
    if colon and (row or stem in open_clip.list_models()):
        architecture = row.get("openclip_model", stem)
        return Choice(name, architecture, "random" if source == "random" else "file", source, row)
    architecture, slash, tag = stem.rpartition("/")
    if slash and not colon and architecture in open_clip.list_models():
        architecture, _ = pair(architecture, tag)
        return Choice(name, architecture, "tag", tag, row)
    raise UserError(_unknown(name, stem, rows))


def _unknown(name, stem, rows):
    tags = open_clip.list_pretrained_tags_by_model(stem)
    if tags:
        return f"'{name}' is an architecture without weights; give '{stem}/TAG' with one of {some(tags, 12)}."
    pairs = [f"{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()]
    hint = nearest(name, rows.index) or nearest(name, pairs)
    return (
        f"Model '{name}' is unknown; give a row of data/models.csv, an open_clip pair 'ARCH/tag', a classifier "
        f"'torchvision/NAME' or 'timm/NAME', a checkpoint 'ARCH:path' or 'ARCH:random'.{hint}"
    )


def pair(architecture, tag):
    """An open_clip pair with the activation that it was trained with: (architecture, settings of the tag).

    open_clip only warns when QuickGELU does not match, and points of accuracy are lost. Raises UserError for
    an unknown tag and for an architecture with the wrong activation.
    """
    plain = architecture.removesuffix("-quickgelu")
    config = open_clip.get_pretrained_cfg(architecture, tag) or open_clip.get_pretrained_cfg(plain, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UserError(
            f"open_clip has no weights '{tag}' for {architecture}; it has {some(tags, 12)}.{nearest(tag, tags)}"
        )
    trained = bool(config.get("quick_gelu"))
    if trained and not _quick_gelu(architecture):
        architecture = f"{plain}-quickgelu"
    if architecture.endswith("-quickgelu") and not trained:
        raise UserError(f"'{tag}' was not trained with the QuickGELU of {architecture}; use '{plain}/{tag}'.")
    if trained and not _quick_gelu(architecture):
        raise UserError(f"'{tag}' was trained with QuickGELU, and open_clip has no such variant of {plain}.")
    return architecture, config


def _quick_gelu(architecture):
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))


@lru_cache
def _register_miniatures():
    open_clip.add_model_config(MINIATURE / "configs")


# --- loading


def load(name, dataset="bestiary", device="auto", seed=0):
    """A model, ready for inference: Clip, or `lib.classifiers.Classifier` for one that learned from labels.

    name, dataset: see `choose`. device: "auto" (the GPU where there is one), "cpu", "cuda", "cuda:1", ...
    seed: of random weights. Raises UserError: unknown model, weights that cannot be had, a damaged or foreign
    checkpoint, no such device.
    """
    from lib import classifiers

    device = find_device(device)
    choice = choose(name, dataset)
    if choice.architecture.startswith(LIBRARIES) or choice.row.get("objective") in LEARNED_HEAD:
        return classifiers.load(choice, device, seed)
    config = open_clip.get_pretrained_cfg(choice.architecture, choice.source) if choice.kind == "tag" else {}
    path = weights_file(choice, config)
    model = untrained(choice.architecture, seed)
    if path:
        _load_weights(model, path, choice.architecture)
        sha = sha256(path)
    else:
        sha = cache.digest_tensors(model.state_dict())
    return Clip(model, choice, device, sha, config)


def find_device(device="auto"):
    """torch.device; raises UserError when this machine has no such device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except Exception:  # torch raises AssertionError, RuntimeError, NotImplementedError, ...
        here = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"This machine has no device '{device}'; give one of {', '.join(here)}.") from None


def untrained(architecture, seed):
    """open_clip's model of an architecture, weights drawn from `seed`."""
    _register_miniatures()
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        return open_clip.create_model(architecture, load_weights=False)


@contextmanager
def _quiet():
    """open_clip logs that no weights were loaded; they are loaded after it has built the model."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _load_weights(model, path, architecture):
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:  # every format fails in its own way
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} is not a whole checkpoint of {architecture} ({type(error).__name__}: {reason}); "
            "fetch it again if it was cut short, or name the architecture that it belongs to."
        ) from None


def weights_file(choice, config):
    """Path of the checkpoint, downloaded where need be; None for random weights."""
    if choice.kind == "random":
        return None
    if choice.kind == "tag":
        return _downloaded(choice, config)
    path = Path(choice.source).expanduser()
    if not path.is_file():
        miniature = choice.architecture.startswith("mini-") and path.parent == MINIATURE / "zoo"
        advice = "train it with notebooks/zoo.ipynb" if miniature else "give the path of an open_clip checkpoint"
        raise UserError(f"There is no checkpoint {path} for {choice.name}; {advice}.")
    return path


def _downloaded(choice, config):
    """The file of an open_clip tag: put there by hand, in the hub's cache, or downloaded now."""
    folder, stem = download_folder() / "weights", f"{choice.architecture}--{choice.source}"
    for suffix in (".safetensors", ".bin", ".pt"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    hub = config.get("hf_hub")
    cached = in_hub_cache(hub) if hub else None
    if cached:
        return Path(cached)
    try:
        if hub:
            probe_hub()
        with _quiet():
            return Path(open_clip.download_pretrained(config))
    except Exception as error:
        origin = f"the model hub's repository '{hub.rstrip('/')}'" if hub else config.get("url", "its origin")
        raise UserError(
            f"The weights of {choice.architecture}/{choice.source} could not be downloaded "
            f"({type(error).__name__}); fetch them elsewhere from {origin} "
            f"and put the file at {folder / stem}.safetensors (or .bin, .pt)."
        ) from None


def in_hub_cache(hub):
    from huggingface_hub import try_to_load_from_cache

    repository, filename = os.path.split(hub)
    for file in [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return found
    return None


def probe_hub():
    """Ask the hub once, shortly: without a network its own client would try again for most of a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("the hub is set to offline")
    get_session().head(constants.ENDPOINT, timeout=5)


@lru_cache
def _sha256_of(path, size, changed):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path):
    """sha256 of a file, as hex; read once while its size and time stay."""
    about = Path(path).stat()
    return _sha256_of(str(path), about.st_size, about.st_mtime_ns)


# --- the model


class Vision:
    """The image side of a model, for inference. Everything it returns lies on its device, in float32.

    model (nn.Module, whole); tower (nn.Module: normalised pixels to embeddings, or to logits for a
    classifier; its `named_modules` are the layers); name; title (as in the papers' tables); row (dict of
    data/models.csv, or {}); backbone (name of the row with the same architecture); objective ("contrastive",
    "captions", "finetuned" or "supervised"); family ("ViT", "ResNet", "ConvNeXt" or "other"); architecture
    (the library's name); device; precision ("fp32", or "bf16" on a GPU); image_size (S, pixels); width (c, of
    the embeddings); unit_norm (whether embeddings have norm 1); weights_sha256; banner (str for random
    weights, else None); identity (dict: what decides its embeddings, for cache keys and records).
    """

    unit_norm = True
    resize = "squash"

    def __init__(self, model, tower, choice, device, weights_sha256, width, image_size, mean, std):
        self.model, self.tower = model.to(device).eval().requires_grad_(False), tower
        self.name, self.row, self.architecture = choice.name, choice.row, choice.architecture
        stem, own, _ = choice.name.partition(":")  # weights of one's own are not the paper's row
        self.title = self.row.get("title", stem) + (f" ({Path(choice.source).name})" if own else "")
        self.backbone = self.row.get("backbone", stem)
        self.objective = self.row.get("objective", "contrastive")
        self.device = device
        self.precision = "bf16" if device.type == "cuda" else "fp32"
        self.banner = BANNER if choice.kind == "random" else None
        self.weights_sha256 = weights_sha256
        self.visual = getattr(model, "visual", model)
        self.family = _family(self.visual)
        self.width, self.image_size, self.mean, self.std = width, int(np.max(image_size)), tuple(mean), tuple(std)
        self.miniature = choice.architecture.startswith("mini-")
        self.identity = {
            "architecture": choice.architecture,
            "weights": weights_sha256,
            "precision": self.precision,
            "mean": list(self.mean),
            "std": list(self.std),
            "version": VERSION,
        }

    def __repr__(self):
        about = f"{self.architecture}, {self.image_size} px, {self.precision} on {self.device}"
        return f"{type(self).__name__}({self.name}: {about})"

    def pixels(self, images, resize=None):
        """Images as uint8 [n, 3, S, S] on the CPU.

        images: ImageDataset or iterable of PIL images. resize: "squash" to S x S whatever the aspect ratio,
        bilinear with antialias (what the mutual-knowledge code does); "crop", open_clip's own: shorter side
        to S, bicubic, then the centre; "crop256": shorter side to 256, bilinear, then the centre. Default:
        the model's `resize`.
        """
        resize = resize or self.resize
        batches = list(self._pixel_batches(images, 256, resize))
        return torch.cat(batches) if batches else torch.empty(0, 3, self.image_size, self.image_size).byte()

    def _pixel_batches(self, images, batch_size, resize):
        """uint8 [b, 3, S, S], in order; the next batch is read by threads while the caller uses this one."""
        if resize != "squash" and not re.fullmatch(r"crop\d*", resize):
            raise UserError(f"resize is '{resize}'; give 'squash', 'crop' or 'crop' with the shorter side's pixels.")
        if not isinstance(images, ImageDataset):
            images = list(images)
        read = images.image if isinstance(images, ImageDataset) else images.__getitem__
        with ThreadPoolExecutor(THREADS) as pool:
            ahead = deque()
            for start in range(0, len(images), batch_size):
                chunk = range(start, min(start + batch_size, len(images)))
                ahead.append([pool.submit(lambda i: to_pixels(read(i), self.image_size, resize), i) for i in chunk])
                if len(ahead) == 2:
                    yield torch.stack([future.result() for future in ahead.popleft()])
            if ahead:
                yield torch.stack([future.result() for future in ahead.popleft()])

    def embed_pixels(self, pixels, batch_size=256, projected=True):
        """Image embeddings float32 [n, c] from uint8 [n, 3, S, S]; rows of norm 1 if `unit_norm`.

        projected: False for the features before the last projection into the joint space, not normalised:
        the ViT's pooled token, the ResNet's attention pool, ConvNeXt's pooled map.
        """
        _check_pixels(pixels, self.image_size)
        return self._embed_batches(pixels.split(batch_size) if len(pixels) else [], projected)

    def embed_images(self, images, batch_size=256, resize=None, projected=True):
        """Image embeddings float32 [n, c] as `embed_pixels` gives them; those of an ImageDataset are cached.

        images, resize: see `pixels`. Each image is read once; two batches of pixels are held in memory.
        """
        resize = resize or self.resize

        def compute():
            return {"embeddings": self._embed_batches(self._pixel_batches(images, batch_size, resize), projected)}

        if not isinstance(images, ImageDataset):
            return compute()["embeddings"]
        about = {
            "dataset": images.name,
            "split": images.split,
            "n": len(images),
            "images": images.fingerprint,
        }
        about |= {} if projected else {"projected": False}
        key = {"kind": "image_embeddings", "model": self.identity, "resize": resize, **about}
        return cache.tensors(key, compute)["embeddings"].to(self.device)

    def _embed_batches(self, batches, projected=True):
        with nullcontext() if projected else unprojected(self):
            rows = [self._infer(self._embed, batch) for batch in batches]
        if not rows:
            return torch.empty(0, self.width, device=self.device)
        return F.normalize(torch.cat(rows), dim=-1) if projected and self.unit_norm else torch.cat(rows)

    def _embed(self, x):
        return self.visual(x)

    def patch_features(self, pixels, feature="tokens", layer=None, batch_size=64):
        """Features of the patches: (float32 [n, h*w, C], (h, w)), row by row, from uint8 [n, 3, S, S].

        ViT: "tokens" are the outputs of block `layer` before the final layer norm, without the class token;
        "keys", "queries" and "values" are its attention's projections, heads concatenated; "keys_no_bias"
        leaves the bias out, as the mutual-knowledge code does. ResNet: "tokens" are the output of stage
        `layer` of five (stem and four), the others are the attention pool's, which sees the last stage.
        ConvNeXt: "tokens" are the output of stage `layer` of four. layer: index of block or stage, from the
        end if negative; default the last. Raises UserError for a feature or layer that the family lacks.
        """
        _check_pixels(pixels, self.image_size)
        if feature not in FEATURES.get(self.family, ()):
            known = ", ".join(FEATURES.get(self.family, ("none",)))
            raise UserError(f"{self.name} ({self.family}) has no patch features '{feature}'; it has {known}.")
        visual = self.visual
        count = _layers(visual, self.family)
        layer = -1 if layer is None else int(layer)
        if not -count <= layer < count:
            raise UserError(f"{self.name} has no layer {layer}; it has {count}, from 0 to {count - 1}.")
        if self.family == "ResNet" and feature != "tokens" and layer % count != count - 1:
            raise UserError(f"{self.name} has {feature} only at its last layer; leave `layer` at -1.")

        def one_batch(x):
            return EXTRACTORS[self.family](visual, x, feature, layer % count)

        maps = torch.cat([self._infer(one_batch, batch) for batch in pixels.split(batch_size)])
        return maps.flatten(1, 2), tuple(maps.shape[1:3])

    @torch.inference_mode()
    def _infer(self, function, pixels):
        """function(normalised pixels on the device), in float32; on a CPU a few images at a time."""
        parts = pixels.split(CPU_BATCH) if self.device.type == "cpu" else [pixels]
        with self._autocast():
            found = [function(self.normalised(part)).float() for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def normalised(self, pixels):
        """uint8 [n, 3, S, S] as the vision tower reads it: float32, on the device."""
        mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(3, 1, 1)
        return pixels.to(self.device).float().div_(255).sub_(mean).div_(std)

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class Clip(Vision):
    """A CLIP model for inference: `Vision`, and the text side of the joint space.

    logit_scale (float); tokenizer (function from texts to token ids).
    """

    def __init__(self, model, choice, device, weights_sha256, config):
        settings = open_clip.get_model_config(choice.architecture)
        mean, std = (config.get(k, getattr(open_clip, f"OPENAI_DATASET_{k.upper()}")) for k in ("mean", "std"))
        visual = model.visual
        super().__init__(
            model, visual, choice, device, weights_sha256, settings["embed_dim"], visual.image_size, mean, std
        )
        self.logit_scale = float(model.logit_scale.exp())
        self.tokenizer, vocabulary = _tokenizer(choice.architecture, settings)
        self.identity |= {"settings": cache.digest(settings), "vocabulary": vocabulary}

    def embed_texts(self, texts, batch_size=256, cached=True):
        """Text embeddings float32 [m, c], rows of norm 1. texts: list of str, already in their prompts."""
        texts = list(texts)

        def compute():
            rows = [self._encode_text(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
            return {"embeddings": F.normalize(torch.cat(rows), dim=-1)}

        if not texts:
            return torch.empty(0, self.width, device=self.device)
        if not cached:
            return compute()["embeddings"]
        about = {"n": len(texts), "first": texts[:3], "texts": cache.digest({"texts": texts})}
        key = {"kind": "text_embeddings", "model": self.identity, **about}
        return cache.tensors(key, compute)["embeddings"].to(self.device)

    @torch.inference_mode()
    def _encode_text(self, texts):
        with self._autocast():
            return self.model.encode_text(self.tokenizer(texts).to(self.device)).float()


def to_pixels(image, size, resize="squash"):
    """One PIL image as uint8 [3, size, size]; resize: see `Clip.pixels`."""
    image, shorter = image.convert("RGB"), resize.removeprefix("crop")
    if resize == "squash":
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    elif shorter:
        image = tv.center_crop(tv.resize(image, int(shorter), tv.InterpolationMode.BILINEAR), size)
    else:
        image = tv.center_crop(tv.resize(image, size, tv.InterpolationMode.BICUBIC), size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@contextmanager
def unprojected(vision):
    """While it lasts, `vision.visual` ends before its last projection. Raises UserError where it has none."""
    visual = vision.visual
    if vision.family == "ViT" and visual.proj is not None:
        owner, name, instead = visual, "proj", None
    elif vision.family == "ResNet":  # the attention pool's output projection; an identity leaves its heads as they are
        owner, name, width = visual.attnpool, "c_proj", visual.attnpool.c_proj.in_features
        instead = torch.nn.Linear(width, width, device=vision.device)
        torch.nn.init.eye_(instead.weight), torch.nn.init.zeros_(instead.bias)
    elif vision.family == "ConvNeXt":
        owner, name, instead = visual, "head", torch.nn.Identity()
    else:
        raise UserError(f"{vision.name} has no projection into a joint space; leave `projected` at True.")
    before = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _check_pixels(pixels, size):
    if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (3, size, size):
        given = f"{pixels.dtype} {list(pixels.shape)}"
        raise UserError(f"Pixels are {given}, expected uint8 [n, 3, {size}, {size}]; make them with clip.pixels.")


def _tokenizer(architecture, settings):
    """A function from texts to token ids, and the sha256 of its vocabulary file (None: open_clip's own)."""
    if not architecture.startswith("mini-"):
        return open_clip.get_tokenizer(architecture), None
    path = MINIATURE / "vocabulary.txt.gz"
    length = settings["text_cfg"]["context_length"]
    return open_clip.SimpleTokenizer(bpe_path=str(path), context_length=length), sha256(path)


# --- patch features of each family: normalised pixels [n, 3, S, S] -> [n, h, w, C]


def _family(visual):
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return "ViT"
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return "ResNet"
    return "ConvNeXt" if "convnext" in type(getattr(visual, "trunk", None)).__name__.lower() else "other"


def _layers(visual, family):
    if family == "ViT":
        return len(visual.transformer.resblocks)
    return 5 if family == "ResNet" else len(visual.trunk.stages)


def _vit_features(visual, x, feature, layer):
    block, seen = visual.transformer.resblocks[layer], []
    hook = block.ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        out = visual.forward_intermediates(
            x, indices=[layer], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
    finally:
        hook.remove()
    tokens = out["image_intermediates"][0]
    if feature != "tokens":  # the attention sees the layer-normed input; position 0 is the class token
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        tokens = _projected(seen[0][:, 1:], feature, list(zip(weights, biases, strict=True)))
    return tokens.unflatten(1, visual.grid_size)


def _resnet_features(visual, x, feature, layer):
    out = visual.forward_intermediates(x, indices=[layer], intermediates_only=True)["image_intermediates"][0]
    grid = out.permute(0, 2, 3, 1)
    if feature == "tokens":
        return grid
    pool = visual.attnpool  # position 0 of its embedding belongs to the mean
    tokens = grid.flatten(1, 2) + pool.positional_embedding[1:]
    projections = [(p.weight, p.bias) for p in (pool.q_proj, pool.k_proj, pool.v_proj)]
    return _projected(tokens, feature, projections).unflatten(1, grid.shape[1:3])


def _convnext_features(visual, x, feature, layer):
    out = visual.forward_intermediates(x, indices=[layer], stop_early=True, intermediates_only=True)
    return out["image_intermediates"][0].permute(0, 2, 3, 1)


def _projected(x, feature, projections):
    """x [n, p, C] through one of the (weight, bias) of queries, keys, values: [n, p, C]."""
    kind, _, without = feature.partition("_")
    weight, bias = dict(zip(("queries", "keys", "values"), projections, strict=True))[kind]
    return F.linear(x, weight, None if without else bias)


EXTRACTORS = {"ViT": _vit_features, "ResNet": _resnet_features, "ConvNeXt": _convnext_features}
